"""Transfer learning with any classifier of keras.applications: a new head, then upper layers too.

Source: the TensorFlow tutorial "Transfer learning and fine-tuning", for any network. Its values,
and what was found better for MobileNetV2, are in trainer_module/recipes/mobilenet.py.

The first phase computes the features of the frozen network once, for the images as they are and for
`views` - 1 augmented copies. The second trains the layers from `fine_tune_from` on along with the
head. In both the network runs in inference mode, so that batch normalization keeps the statistics
of the large data set that it was trained on.

Command: `perennial run --recipe transfer --data DIR`; `--set train.hyperparameters.backbone=NAME`
for another network.

Result: none with ImageNet weights other than MobileNetV2's, see there: no others were at hand.
"""

from __future__ import annotations

import difflib
import socket
import textwrap
from collections.abc import Generator
from typing import TYPE_CHECKING, NamedTuple

from pydantic import BaseModel, ConfigDict, Field, NonNegativeInt, PositiveFloat, PositiveInt

from trainer_module.recipes.base import EpochMetrics, Frozen, Phase, TrainingData

if TYPE_CHECKING:
    import keras

IMAGENET = "imagenet"
NONE = "none"
BASE = "backbone"
EPOCHS = 25  # of both phases, where none are given
FETCH_S = 30.0  # without an answer of who publishes the weights


class Sizes(NamedTuple):
    """Pixels of a side: what a network was trained with, and the least that it takes."""

    own: int = 224
    least: int = 32


_SIZES = {
    "EfficientNetB1": Sizes(240),
    "EfficientNetB2": Sizes(260),
    "EfficientNetB3": Sizes(300),
    "EfficientNetB4": Sizes(380),
    "EfficientNetB5": Sizes(456),
    "EfficientNetB6": Sizes(528),
    "EfficientNetB7": Sizes(600),
    "EfficientNetV2B1": Sizes(240),
    "EfficientNetV2B2": Sizes(260),
    "EfficientNetV2B3": Sizes(300),
    "EfficientNetV2S": Sizes(384),
    "EfficientNetV2M": Sizes(480),
    "EfficientNetV2L": Sizes(480),
    "InceptionResNetV2": Sizes(299, 75),
    "InceptionV3": Sizes(299, 75),
    "NASNetLarge": Sizes(331),
    "Xception": Sizes(299, 71),
}
_OF_224 = """
    ConvNeXtTiny ConvNeXtSmall ConvNeXtBase ConvNeXtLarge ConvNeXtXLarge DenseNet121 DenseNet169
    DenseNet201 EfficientNetB0 EfficientNetV2B0 MobileNet MobileNetV2 MobileNetV3Large
    MobileNetV3Small NASNetMobile ResNet50 ResNet101 ResNet152 ResNet50V2 ResNet101V2 ResNet152V2
    VGG16 VGG19
"""
# Named here, because to look them up in Keras takes seconds.
BACKBONES = {name: Sizes() for name in _OF_224.split()} | _SIZES

# Widths with published weights, of the networks that come in several.
ALPHAS = {
    "MobileNet": (0.25, 0.5, 0.75, 1.0),
    "MobileNetV2": (0.35, 0.5, 0.75, 1.0, 1.3, 1.4),
    "MobileNetV3Large": (0.75, 1.0),
    "MobileNetV3Small": (0.75, 1.0),
}
_SQUARES = (128, 160, 192, 224)  # pixels: what there are weights of MobileNet and MobileNetV2 for


class Config(BaseModel):
    """Hyperparameters of the network and of its two phases."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)

    backbone: str = Field(
        "EfficientNetV2B0", description="A classifier of keras.applications, such as ResNet50V2."
    )
    alpha: float = Field(
        1.0, gt=0, le=2, description="Width of a MobileNet, 1 is its paper's; others have none."
    )
    weights: str = Field(
        IMAGENET,
        min_length=1,
        description="imagenet: fetched by keras.applications; a local .h5 or .keras file of the "
        "backbone without its top; none: random, for tests.",
    )
    dropout: float = Field(0.2, ge=0, lt=1, description="Before the head.")
    head_epochs: NonNegativeInt = Field(
        EPOCHS, description="Epochs of the first phase, at most all; the others are the second's."
    )
    learning_rate: PositiveFloat = Field(1e-3, description="Of the first phase, with Adam.")
    cache: bool = Field(
        True,
        description="Compute the first phase's features once; false: anew in each epoch, of images "
        "augmented anew.",
    )
    views: PositiveInt = Field(
        1, description="Copies of each image that are computed once; all but one are augmented."
    )
    fine_tune_from: NonNegativeInt | None = Field(
        None,
        description="First layer of the network that the second phase trains; unset: the share of "
        "the tutorial's, the layer 100 of 154.",
    )
    fine_tune_learning_rate: PositiveFloat = Field(
        1e-5, description="Of the second phase, with RMSprop."
    )
    flip: bool = Field(True, description="Mirror images; not where left and right differ.")
    rotation: float = Field(0.2, ge=0, le=0.5, description="Largest turn, in full turns.")


def image_sizes(config: Config, height: float, width: float) -> dict[str, int]:  # noqa: ARG001
    """The transform settings: the size that the network was trained with."""
    return {"image_size": BACKBONES.get(config.backbone, Sizes()).own}


def weights(config: Config) -> tuple[str, str]:
    """The field with the pretrained weights, and its value."""
    return "weights", config.weights


def check(config: Config, image_size: int, train_size: int) -> None:
    """Raise ValueError for another network, or what it or its published weights do not go with."""
    name = config.backbone
    if name not in BACKBONES:
        near = difflib.get_close_matches(name, BACKBONES, n=1, cutoff=0.4)
        hint = f"; did you mean {near[0]}?" if near else ""
        raise ValueError(
            f"backbone {name!r} is no classifier of keras.applications{hint} (there are: "
            f"{', '.join(sorted(BACKBONES))})"
        )
    if image_size < BACKBONES[name].least:
        raise ValueError(
            f"image_size {image_size} is too small for {name}; set {BACKBONES[name].least} or more"
        )
    if train_size != image_size:
        raise ValueError(f"train_size {train_size} must be image_size {image_size}: leave it unset")
    if name not in ALPHAS and config.alpha != 1:
        raise ValueError(f"alpha {config.alpha} is for {', '.join(ALPHAS)} only; leave it unset")
    if config.weights == IMAGENET and config.alpha not in ALPHAS.get(name, (1.0,)):
        raise ValueError(
            f"alpha {config.alpha} has no {IMAGENET} weights; set one of "
            f"{', '.join(map(str, ALPHAS[name]))}, or weights to a file of your own"
        )


def build_model(config: Config, image_size: int, num_classes: int) -> keras.Model:
    """Make the model, with its pretrained weights.

    Raises:
        WeightsError: they cannot be had, or are those of another network.
    """
    import keras
    from keras import layers

    from trainer_module.models.backbones import preprocessing
    from trainer_module.models.inference import InferenceModel

    images = keras.Input((image_size, image_size, 3), dtype="uint8", name="image")
    x = preprocessing(config.backbone)(images)
    network = _network(config, image_size, None)
    _load(config, network)
    x = InferenceModel(network.input, network.output, name=BASE)(x)
    x = layers.GlobalAveragePooling2D(name="pool")(x)
    x = layers.Dropout(config.dropout, name="drop")(x)
    logits = layers.Dense(num_classes, dtype="float32", name="logits")(x)
    return keras.Model(images, logits, name="transfer")


def phases(
    config: Config, model: keras.Model, data: TrainingData
) -> Generator[Phase, EpochMetrics, None]:
    """Train the head on features computed once, then the upper layers along with it."""
    import keras

    from trainer_module import augmentation

    augment = augmentation.flip_turn_scale(flip=config.flip, rotation=config.rotation)
    total = data.epochs or EPOCHS
    first = min(config.head_epochs, total)
    if first:
        model.get_layer(BASE).trainable = False
        frozen = Frozen(*_split(model), views=config.views) if config.cache else None
        yield Phase(first, keras.optimizers.Adam(config.learning_rate), augment, frozen=frozen)
    if first == total:
        return
    _unfreeze(config, model)
    rmsprop = keras.optimizers.RMSprop(config.fine_tune_learning_rate)
    yield Phase(total - first, rmsprop, augment)


def most_trained(config: Config, model: keras.Model, epochs: int | None) -> None:
    """Make trainable what the second phase trains, or the first where there is no other."""
    if config.head_epochs >= (epochs or EPOCHS):
        model.get_layer(BASE).trainable = False
    else:
        _unfreeze(config, model)


def _unfreeze(config: Config, model: keras.Model) -> None:
    base = model.get_layer(BASE)
    base.trainable = True
    start = config.fine_tune_from
    if start is None:
        start = len(base.layers) * 100 // 154
    for place, layer in enumerate(base.layers):
        layer.trainable = place >= start


def _split(model: keras.Model) -> tuple[keras.Model, keras.Model]:
    """`model` as two that share its weights: images to features, and features to logits."""
    import keras

    features = model.get_layer("pool").output
    start = keras.Input(features.shape[1:], name="features")
    head = model.get_layer("logits")(model.get_layer("drop")(start))
    return keras.Model(model.input, features), keras.Model(start, head)


def _network(config: Config, size: int, weights: str | None) -> keras.Model:
    import keras

    width = {"alpha": config.alpha} if config.backbone in ALPHAS else {}
    make = getattr(keras.applications, config.backbone)
    return make(input_shape=(size, size, 3), include_top=False, weights=weights, **width)


def _load(config: Config, network: keras.Model) -> None:
    if config.weights == NONE:
        return
    import keras

    from trainer_module.weights import WeightsError

    name = config.backbone
    width = f", of alpha {config.alpha:g}" if name in ALPHAS else ""
    advice = (
        f"set train.hyperparameters.weights to a local .h5 or .keras file of {name} without its "
        f"top{width}{', or alpha to that of the file' if width else ''}"
    )
    # Keras sets no time limit for what it fetches.
    before = socket.getdefaulttimeout()
    socket.setdefaulttimeout(FETCH_S)
    try:
        if config.weights == IMAGENET:
            size = network.input_shape[1]
            if name in ("MobileNet", "MobileNetV2") and size not in _SQUARES:
                size = 224
            source = _network(config, size, IMAGENET)
            network.set_weights(source.get_weights())
        elif config.weights.endswith(".keras"):
            source = keras.saving.load_model(config.weights, compile=False, safe_mode=True)
            network.set_weights(source.get_weights())
        else:
            network.load_weights(config.weights)
    except Exception as error:  # urllib's, h5py's, zipfile's, and Keras's own, a bare Exception
        missing = isinstance(error, FileNotFoundError)
        text = "there is no such file" if missing else str(error)
        reason = textwrap.shorten(text, 200, placeholder=" ...")
        raise WeightsError(
            f"the weights {config.weights} cannot be loaded into {name}: {reason}; {advice}"
        ) from error
    finally:
        socket.setdefaulttimeout(before)
