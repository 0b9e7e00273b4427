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
class Phase:
    """One fit of the model: `epochs` with one optimizer and one augmentation (None: none)."""

    epochs: int
    optimizer: keras.optimizers.Optimizer
    augment: Augment | None


class Recipe(Protocol):
    """The functions of a recipe module."""

    Config: type[BaseModel]  # frozen, unknown fields refused; the hyperparameters, with defaults

    def check(self, config: Any, image_size: int) -> None:
        """Raise ValueError, naming the fields, where `config` does not go with `image_size`."""

    def build_model(self, config: Any, image_size: int, num_classes: int) -> keras.Model:
        """Make the model: uint8 [B, size, size, 3] to float32 logits [B, num_classes]."""

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
        are the training split's pixels, uint8 [size, size, 3], unbatched and not augmented.
        """
