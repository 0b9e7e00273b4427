"""Transfer learning with a pretrained MobileNetV2: first a new head, then its upper layers too.

Source: the TensorFlow tutorial "Transfer learning and fine-tuning", whose values are the defaults
below. With ImageNet weights at 160 px it reports, on cats versus dogs, some 96 % of the validation
images right after the first phase and 98.27 % after the second, and 98.96 % of the test images.

The tutorial runs the frozen network over every image in every epoch of the first phase. Here its
features are computed once, for the images as they are and for `views` - 1 augmented copies.

Command: `perennial run --recipe mobilenet --data DIR --epochs 25` with, by --set,
transform.image_size=256, transform.aspect=crop and, below train.hyperparameters, head_epochs=25,
alpha=0.35, weights=FILE (ImageNet's, of keras.applications) and learning_rate=0.001.

Result: 97 to 98 % of the 100 validation images that 300 cats and dogs come with, 93.7 % of all 300
in five parts, 84.6 % of 500 flowers, all held out (docs/results.md).
"""

from __future__ import annotations

import socket
import textwrap
from collections.abc import Generator
from typing import TYPE_CHECKING

from pydantic import BaseModel, ConfigDict, Field, NonNegativeInt, PositiveFloat, PositiveInt

from trainer_module.recipes.base import Frozen, Phase, Row, TrainingData

if TYPE_CHECKING:
    import keras

IMAGENET = "imagenet"
NONE = "none"
BASE = "backbone"
EPOCHS = 20  # of both phases, where none are given
FETCH_S = 30.0  # without an answer of who publishes the weights


class Config(BaseModel):
    """Hyperparameters of the network and of its two phases."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)

    alpha: float = Field(1.0, gt=0, le=2, description="Width of the network, 1 is the paper's.")
    weights: str = Field(
        IMAGENET,
        min_length=1,
        description="imagenet: fetched by keras.applications; a local .h5 or .keras file of a "
        "MobileNetV2 without its top; none: random, for tests.",
    )
    dropout: float = Field(0.2, ge=0, lt=1, description="Before the head.")
    head_epochs: NonNegativeInt | None = Field(
        None, description="Epochs of the first phase; unset: half of all."
    )
    learning_rate: PositiveFloat = Field(1e-4, description="Of the first phase, with Adam.")
    views: PositiveInt = Field(
        1, description="Copies of each image for the first phase; all but one are augmented."
    )
    fine_tune_from: NonNegativeInt = Field(
        100, description="First layer of the network that the second phase trains; it has 154."
    )
    fine_tune_learning_rate: PositiveFloat = Field(
        1e-5, description="Of the second phase, with RMSprop."
    )
    flip: bool = Field(True, description="Mirror images; not where left and right differ.")
    rotation: float = Field(0.2, ge=0, le=0.5, description="Largest turn, in full turns.")


def check(config: Config, image_size: int, train_size: int) -> None:
    """Raise ValueError for sizes that the network, or the published weights, do not go with."""
    if image_size < 32:
        raise ValueError(f"image_size {image_size} is too small for MobileNetV2; set 32 or more")
    if train_size != image_size:
        raise ValueError(f"train_size {train_size} must be image_size {image_size}: leave it unset")
    published = (0.35, 0.5, 0.75, 1.0, 1.3, 1.4)
    if config.weights == IMAGENET and config.alpha not in published:
        raise ValueError(
            f"alpha {config.alpha} has no {IMAGENET} weights; set one of "
            f"{', '.join(map(str, published))}, or weights to a file of your own"
        )


def build_model(config: Config, image_size: int, num_classes: int) -> keras.Model:
    """Make the model, with its pretrained weights.

    Raises:
        WeightsError: they cannot be had, or are those of another network.
    """
    import keras
    from keras import layers

    images = keras.Input((image_size, image_size, 3), dtype="uint8", name="image")
    x = layers.Rescaling(1 / 127.5, -1, name="rescaling")(images)
    base = keras.applications.MobileNetV2(
        (image_size, image_size, 3),
        alpha=config.alpha,
        include_top=False,
        weights=None,
        name=BASE,
    )
    _load(config, base)
    x = base(x)
    x = layers.GlobalAveragePooling2D(name="pool")(x)
    x = layers.Dropout(config.dropout, name="drop")(x)
    logits = layers.Dense(num_classes, dtype="float32", name="logits")(x)
    return keras.Model(images, logits, name="mobilenet")


def phases(config: Config, model: keras.Model, data: TrainingData) -> Generator[Phase, Row, None]:
    """Train the head on features computed once, then the upper layers along with it."""
    import keras

    from trainer_module import augmentation

    augment = augmentation.flip_turn_scale(flip=config.flip, rotation=config.rotation)
    total = data.epochs or EPOCHS
    first = total // 2 if config.head_epochs is None else min(config.head_epochs, total)
    base = model.get_layer(BASE)
    if first:
        base.trainable = False
        frozen = Frozen(*_split(model), views=config.views)
        adam = keras.optimizers.Adam(config.learning_rate)
        yield Phase(first, adam, augment, frozen=frozen)
    if first == total:
        return
    most_trained(config, model)
    rmsprop = keras.optimizers.RMSprop(config.fine_tune_learning_rate)
    yield Phase(total - first, rmsprop, augment)


def most_trained(config: Config, model: keras.Model) -> None:
    """Make trainable what the second phase trains."""
    import keras

    base = model.get_layer(BASE)
    base.trainable = True
    for place, layer in enumerate(base.layers):
        # Statistics of a large data set are better than those of a few images. A frozen layer keeps
        # them; the tutorial's `base(x, training=False)` does not in Keras 3, where the outer
        # model's mode wins.
        is_norm = isinstance(layer, keras.layers.BatchNormalization)
        layer.trainable = place >= config.fine_tune_from and not is_norm


def _split(model: keras.Model) -> tuple[keras.Model, keras.Model]:
    """`model` as two that share its weights: images to features, and features to logits."""
    import keras

    features = model.get_layer("pool").output
    start = keras.Input(features.shape[1:], name="features")
    head = model.get_layer("logits")(model.get_layer("drop")(start))
    return keras.Model(model.input, features), keras.Model(start, head)


def _load(config: Config, base: keras.Model) -> None:
    if config.weights == NONE:
        return
    import keras

    from trainer_module.weights import WeightsError

    advice = (
        "set train.hyperparameters.weights to a local .h5 or .keras file of a MobileNetV2 without "
        f"its top, of alpha {config.alpha:g}, or alpha to that of the file"
    )
    # Keras sets no time limit for what it fetches.
    before = socket.getdefaulttimeout()
    socket.setdefaulttimeout(FETCH_S)
    try:
        if config.weights == IMAGENET:
            known = [128, 160, 192, 224, 96]
            size = base.input_shape[1] if base.input_shape[1] in known else 224
            source = keras.applications.MobileNetV2(
                (size, size, 3), alpha=config.alpha, include_top=False, weights=IMAGENET
            )
            base.set_weights(source.get_weights())
        elif config.weights.endswith(".keras"):
            source = keras.saving.load_model(config.weights, compile=False, safe_mode=True)
            base.set_weights(source.get_weights())
        else:
            base.load_weights(config.weights)
    except Exception as error:  # urllib's, h5py's, zipfile's, and Keras's own, a bare Exception
        missing = isinstance(error, FileNotFoundError)
        text = "there is no such file" if missing else str(error)
        reason = textwrap.shorten(text, 200, placeholder=" ...")
        raise WeightsError(
            f"the weights {config.weights} cannot be loaded into MobileNetV2: {reason}; {advice}"
        ) from error
    finally:
        socket.setdefaulttimeout(before)
