"""Networks that run as in serving also while they are trained."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import keras
from keras import layers


@keras.saving.register_keras_serializable(package="perennial")
class InferenceModel(keras.Model):
    """A functional model whose layers run in inference mode, whatever the model around it does.

    Batch normalization keeps its statistics, while its scale and offset can be trained. Keras 3
    gives the mode of an outer model precedence over `base(x, training=False)`.
    """

    def call(self, inputs: Any, training: bool | None = None, mask: Any = None) -> Any:
        """Run all layers in inference mode."""
        return super().call(inputs, training=False, mask=mask)


def batch_statistics(model: keras.Model) -> Iterator[layers.BatchNormalization]:
    """Yield the layers whose result in training depends on the other images of a batch."""
    for layer in model.layers:
        if isinstance(layer, layers.BatchNormalization):
            if layer.trainable:
                yield layer
        elif hasattr(layer, "layers") and not isinstance(layer, InferenceModel):
            yield from batch_statistics(layer)


def one_image(name: str, batch_size: int, parts: int) -> str:
    """Describe why a step of one image does not work, and what to do."""
    return (
        f"{name} trains batch normalization, whose statistics are those of the images that are "
        f"computed at once, and these are one: lower train.gradient_accumulation (now {parts}), or "
        f"raise train.batch_size (now {batch_size})"
    )
