"""Small vision transformer trained from scratch.

Source: the article "Image classification with transformers", ViT on CIFAR-10. The defaults are its
values; it reports 70.32 % top-1 and 97.73 % top-5 accuracy on CIFAR-10's test images. Its AdamW,
that of tensorflow-addons, takes 0.0001 of a weight off in each step; Keras's takes the product of
weight_decay and the rate, so that 0.1 is the same.

Below some 20,000 images a network trained from scratch falls behind one that was pretrained.

Command: `perennial run`, the digits at the size in pipeline/presets/data-digits.toml: 16 px in
patches of 4, 3 blocks of 64, 369,681 parameters, 30 epochs in batches of 32.

Result: 99.5 % of 367 evaluation images with seed 0, on 2 CPU cores. The article's own model on
2,000 of CIFAR-10's images: docs/results.md.
"""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, NonNegativeFloat, PositiveFloat, PositiveInt

TRAINING = "trainer_module.training.vit"


class Config(BaseModel):
    """Hyperparameters of the model, its optimizer (AdamW) and its augmentation."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)

    patch_size: PositiveInt = Field(
        6, description="Side of a patch in pixels. image_size (or resize) must be a multiple of it."
    )
    resize: PositiveInt | None = Field(
        None,
        description="Size to which the model resizes images, in pixels. Its normalization is "
        "adapted before the resize. Unset: image_size.",
    )
    dim: PositiveInt = Field(64, description="Length of a token's vector.")
    depth: PositiveInt = Field(8, description="Number of encoder blocks.")
    heads: PositiveInt = Field(4, description="Number of attention heads.")
    key_dim: PositiveInt = Field(64, description="Length of the queries and keys of a head.")
    mlp_dim: PositiveInt = Field(128, description="Hidden units of the MLP in a block.")
    head_dims: tuple[PositiveInt, ...] = Field(
        (2048, 1024), strict=False, description="Units of the MLP head."
    )
    dropout: float = Field(0.1, ge=0, lt=1, description="Dropout rate in the blocks.")
    head_dropout: float = Field(0.5, ge=0, lt=1, description="Dropout rate in the MLP head.")
    learning_rate: PositiveFloat = Field(1e-3, description="Highest learning rate of the schedule.")
    schedule: Literal["constant", "cosine"] = Field(
        "constant",
        description="Learning rate schedule: constant, or a cosine that falls to zero over the "
        "run.",
    )
    warmup_epochs: NonNegativeFloat = Field(
        0.0, description="Epochs of linear warm-up, for the cosine schedule only."
    )
    weight_decay: NonNegativeFloat = Field(
        0.1, description="Weight decay of AdamW, which multiplies it by the learning rate."
    )
    flip: bool = Field(
        True, description="Mirror images at random. Turn off if left and right differ."
    )
    rotation: float = Field(
        0.02, ge=0, le=0.5, description="Largest random rotation, as a fraction of a full turn."
    )
    zoom: float = Field(
        0.2,
        ge=0,
        lt=1,
        description="Largest random change of height and width, as a share of them.",
    )


def patches(config: Config, image_size: int) -> int:
    """Return the number of patches along a side of what the network is given."""
    return (config.resize or image_size) // config.patch_size


def check(config: Config, image_size: int, train_size: int) -> None:
    """Raise ValueError where patches do not tile the image, or sizes differ: nothing crops."""
    if train_size != image_size:
        raise ValueError(f"train_size {train_size} must be image_size {image_size}: leave it unset")
    size, name = (config.resize, "resize") if config.resize else (image_size, "image_size")
    if size % config.patch_size:
        change = "train.hyperparameters.resize" if config.resize else "transform.image_size"
        raise ValueError(
            f"{name} {size} is not a multiple of patch_size {config.patch_size}; change {change} "
            "or train.hyperparameters.patch_size"
        )
