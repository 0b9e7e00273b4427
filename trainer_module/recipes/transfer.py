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
from typing import NamedTuple

from pydantic import BaseModel, ConfigDict, Field, NonNegativeInt, PositiveFloat, PositiveInt

IMAGENET = "imagenet"
NONE = "none"
EPOCHS = 25  # of both phases, where none are given


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

TRAINING = "trainer_module.training.transfer"


class Config(BaseModel):
    """Hyperparameters of the network and of its two phases."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)

    backbone: str = Field(
        "EfficientNetV2B0", description="Classifier of keras.applications, such as ResNet50V2."
    )
    alpha: float = Field(
        1.0,
        gt=0,
        le=2,
        description="Width of a MobileNet; 1 is that of its paper. Other networks have none.",
    )
    weights: str = Field(
        IMAGENET,
        min_length=1,
        description="imagenet (downloaded by keras.applications), a local .h5 or .keras file of "
        "the backbone without its top, or none (random weights, for tests).",
    )
    dropout: float = Field(0.2, ge=0, lt=1, description="Dropout rate before the head.")
    head_epochs: NonNegativeInt = Field(
        EPOCHS,
        description="Number of epochs of the first phase. The others belong to the second phase.",
    )
    learning_rate: PositiveFloat = Field(
        1e-3, description="Learning rate of the first phase, with Adam."
    )
    cache: bool = Field(
        True,
        description="Compute the features of the first phase once. false: in every epoch, from "
        "newly augmented images.",
    )
    views: PositiveInt = Field(
        1,
        description="Copies of each image whose features are computed once. All but the first are "
        "augmented.",
    )
    fine_tune_from: NonNegativeInt | None = Field(
        None,
        description="First layer of the network that the second phase trains. Unset: the same "
        "share as in the tutorial, layer 100 of 154.",
    )
    fine_tune_learning_rate: PositiveFloat = Field(
        1e-5, description="Learning rate of the second phase, with RMSprop."
    )
    flip: bool = Field(
        True, description="Mirror images at random. Turn off if left and right differ."
    )
    rotation: float = Field(
        0.2, ge=0, le=0.5, description="Largest random rotation, as a fraction of a full turn."
    )


def image_sizes(config: Config, height: float, width: float) -> dict[str, int]:  # noqa: ARG001
    """Return the transform settings: the size that the network was trained with."""
    return {"image_size": BACKBONES.get(config.backbone, Sizes()).own}


def weights(config: Config) -> tuple[str, str]:
    """Return the field with the pretrained weights, and its value."""
    return "weights", config.weights


def check(config: Config, image_size: int, train_size: int) -> None:
    """Raise ValueError for another network, or what it or its published weights do not go with."""
    name = config.backbone
    if name not in BACKBONES:
        near = difflib.get_close_matches(name, BACKBONES, n=1, cutoff=0.4)
        hint = f"; did you mean {near[0]}?" if near else ""
        raise ValueError(
            f"backbone {name!r} is not a classifier of keras.applications{hint} (there are: "
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
