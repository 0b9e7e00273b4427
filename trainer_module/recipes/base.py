"""The interface of a recipe."""

from __future__ import annotations

import dataclasses
import importlib
import math
from collections.abc import Callable, Generator, Mapping
from typing import TYPE_CHECKING, Any, Protocol

from pydantic import BaseModel

if TYPE_CHECKING:
    import keras
    import tensorflow as tf

    from trainer_module.input_pipeline import Augment


@dataclasses.dataclass(frozen=True)
class TrainingData:
    """The inputs of a recipe's schedule.

    Attributes:
        images: the training split's pixels, uint8 [size, size, 3], unbatched and not augmented.
        size: how many of them there are.
        batch_size: images of a batch; the last one of an epoch may hold fewer.
        epochs: how long to train, or None for as long as the recipe thinks right.
        keep: which epoch of a phase its weights are of, "best" or "last".
        image_size: pixels of a side of the images that evaluate; None: those of `images`.
    """

    images: tf.data.Dataset
    size: int
    batch_size: int
    epochs: int | None
    keep: str = "best"
    image_size: int | None = None

    @property
    def steps_per_epoch(self) -> int:
        """Batches of an epoch."""
        return math.ceil(self.size / self.batch_size)


@dataclasses.dataclass(frozen=True)
class Frozen:
    """The part of a model that a phase does not train, whose features are computed only once.

    Attributes:
        base: the model's inputs to features [B, ...]; it shares its weights with the model.
        head: those features to logits, sharing the others; what the phase trains.
        views: copies of the training images: the first is the images as they are, the others are
            augmented. An epoch sees one of them, and the next epoch the next.
    """

    base: keras.Model
    head: keras.Model
    views: int = 1


@dataclasses.dataclass(frozen=True)
class Phase:
    """One fit of a model, which ends with the weights of its best epoch, or of its last.

    Attributes:
        epochs: how many at most.
        optimizer: a new one.
        augment: changes the training images, or None. It must bring them to the model's size.
        patience: steps without a better epoch that end the phase early, 0 for never. They count
            from the end of the warm-up, and are looked at after each epoch.
        warmup: steps of the warm-up.
        clip: largest global norm of the gradient; None: no limit.
        frozen: what need not be computed anew in every epoch.
        model: fitted from here on, in place of the one before; None: that one.
        rebuild: makes `model` anew, with its weights in the same order; given where it is.
    """

    epochs: int
    optimizer: keras.optimizers.Optimizer
    augment: Augment | None
    patience: int = 0
    warmup: int = 0
    clip: float | None = None
    frozen: Frozen | None = None
    model: keras.Model | None = None
    rebuild: Callable[[], keras.Model] | None = None


# The metrics of a phase's best epoch: the mapping described at `fit.FitResult.epochs`.
EpochMetrics = Mapping[str, float]


def epoch_rank(row: EpochMetrics) -> tuple[float, float]:
    """Orders epochs: by accuracy on the evaluation split, and where equal by loss."""
    return row["val_accuracy"], -row["val_loss"]


class Recipe(Protocol):
    """The functions of a recipe.

    Those in `TRAINED` need Keras, and are in the module that the recipe's own one names as
    TRAINING. A recipe may leave out those after `phases`; what holds then is in `DEFAULTS`.
    """

    Config: type[BaseModel]  # frozen, unknown fields refused; the hyperparameters, with defaults

    def check(self, config: Any, image_size: int, train_size: int) -> None:
        """Raise ValueError, naming the fields, where `config` does not go with the sizes.

        Images are `train_size` pixels high and wide in training, `image_size` for the model.
        """

    def build_model(self, config: Any, image_size: int, num_classes: int) -> keras.Model:
        """Make the model: uint8 [B, size, size, 3] to logits [B, num_classes].

        Its last layer is the head, whose weights have the classes as their last axis; or a model of
        which that holds.
        """

    def phases(
        self, config: Any, model: keras.Model, data: TrainingData
    ) -> Generator[Phase, EpochMetrics, None]:
        """Yield the phases of training one after the other, `data.epochs` in all where it is given.

        Each yield returns the phase's best epoch once the phase is over. Between two phases the
        generator may change the model, such as what is trainable, or go on to another one. It must
        do the same each time: a training that is resumed runs it again up to where it was cut off,
        with finished phases skipped.
        """

    image_sizes: Callable[[Any, float, float], dict[str, int]] | None
    """The transform settings `image_size` and `train_size` by the usual height and width of the
    data set's images, in pixels; called where no configuration sets `transform.image_size`."""

    def is_framed(self, config: Any) -> bool:
        """Whether augmentations are given `input_pipeline.Framed` in place of the pixels."""

    def training_size(self, config: Any, image_size: int) -> int:
        """Pixels of a side of the images that a step trains with."""

    def check_model(self, config: Any, model: keras.Model, epochs: int | None) -> None:
        """Raise ValueError where `phases` would fail.

        The model is without values, in a `keras.StatelessScope`; likewise below.
        """

    def most_trained(self, config: Any, model: keras.Model, epochs: int | None) -> None:
        """Make trainable what the phase that takes most memory trains."""

    def weights(self, config: Any) -> tuple[str, str]:
        """Return the field with the source of pretrained weights, and its value; "" without."""

    def built_on(self, config: Any) -> str:
        """Return the name of the recipe that it builds on, whose code takes part; "" without."""

    def patches(self, config: Any, image_size: int) -> int | None:
        """Return how many patches a vision transformer has along a side; None: no transformer."""


DEFAULTS: Mapping[str, Any] = {
    "image_sizes": None,
    "is_framed": lambda *_: False,
    "training_size": lambda _, image_size: image_size,
    "check_model": lambda *_: None,
    "most_trained": lambda *_: None,
    "weights": lambda *_: ("", ""),
    "built_on": lambda *_: "",
    "patches": lambda *_: None,
}


TRAINED = frozenset({"build_model", "phases", "check_model", "most_trained"})


class Module:
    """A recipe with every member of `Recipe`; Keras is imported with the first of `TRAINED`."""

    def __init__(self, module: object) -> None:
        self._module = module

    def __getattr__(self, name: str) -> Any:
        default = (DEFAULTS[name],) if name in DEFAULTS else ()
        named = getattr(self._module, "TRAINING", None) if name in TRAINED else None
        module = importlib.import_module(named) if named else self._module
        return getattr(module, name, *default)
