"""What every recipe module provides."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, Protocol

from pydantic import BaseModel

if TYPE_CHECKING:
    import keras
    import tensorflow as tf

    from trainer_module.input_pipeline import Augment


@dataclasses.dataclass(frozen=True)
class Frozen:
    """The part of a model that a phase does not train, whose features are computed only once.

    Attributes:
        base: the model's inputs to features, [B, ...], in inference mode. A checkpoint, or the end
            of the phase, finds its weights in the model, which it shares them with.
        head: those features to logits; what the phase trains.
        views: copies of the training images: first the images as they are, then augmented ones. An
            epoch sees one of them, the next epoch the next.
    """

    base: keras.Model
    head: keras.Model
    views: int = 1


@dataclasses.dataclass(frozen=True)
class Phase:
    """One fit of the model: `epochs` with one optimizer and one augmentation.

    Attributes:
        augment: None: the images as they are.
        clip: largest global norm of the gradient; None: no limit.
        patience: end the phase when this many epochs have not been better than its best one.
        frozen: what need not be computed anew in each epoch.
    """

    epochs: int
    optimizer: keras.optimizers.Optimizer
    augment: Augment | None
    clip: float | None = None
    patience: int | None = None
    frozen: Frozen | None = None


class Recipe(Protocol):
    """The functions of a recipe module."""

    Config: type[BaseModel]  # frozen, unknown fields refused; the hyperparameters, with defaults

    def check(self, config: Any, image_size: int) -> None:
        """Raise ValueError, naming the fields, where `config` does not go with `image_size`."""

    def build_model(self, config: Any, image_size: int, num_classes: int) -> keras.Model:
        """Make the model: uint8 [B, size, size, 3] to float32 logits [B, num_classes].

        Its last layer is the head, whose weights have the classes as their last axis.
        """

    def phases(
        self,
        config: Any,
        model: keras.Model,
        images: tf.data.Dataset,
        epochs: int,
        steps_per_epoch: int,
    ) -> Iterator[Phase]:
        """Yield the phases of training, `epochs` in all, one after the other.

        Between two of them the generator may change the model, such as what is trainable. `images`
        are the training split's pixels, uint8 [size, size, 3], unbatched and not augmented. It must
        do the same each time: a resumed training runs it again up to the phase that was cut off.
        """
