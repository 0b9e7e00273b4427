"""Fine-tuning of a pretrained vision transformer, ViT-Ti, S, B or L.

Sources: "An Image is Worth 16x16 Words" (arXiv 2010.11929), "How to train your ViT?" (AugReg, arXiv
2106.10270) and their code, google-research/vision_transformer, for schedule, networks, weights and
the "inception crop", a random rectangle of 5 to 100 % of the image. On small data sets 500 steps
with a warm-up of 100 do; the defaults otherwise are the papers', which fine-tune without any other
augmentation or regularization. The settings that AugReg pretrains with are there for little
data: dropout 0.1, stochastic_depth 0.1, and, from light to strong, mixup 0, 0.2, 0.5 or 0.8
with rand_operations 2 and rand_magnitude 0, 10, 15 or 20.

Command: `perennial run --recipe vit_finetune --data DIR --set
train.hyperparameters.weights.source=FILE.npz`, and its sha256, which the first run prints.

Result: none yet. Published weights are not part of this project, and its tests run the tiny variant
with random ones.
"""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, NonNegativeInt, PositiveFloat

from trainer_module.weights import WeightSpec

STEPS = 500  # where no epochs are given

TRAINING = "trainer_module.training.vit_finetune"


class Config(BaseModel):
    """Hyperparameters of the network, its optimizer (SGD with momentum) and its schedule."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)

    variant: Literal["Ti/16", "S/16", "B/16", "B/32", "L/16", "L/32", "tiny/4"] = Field(
        "B/16", description="Size of the network, and of its patches in pixels."
    )
    weights: WeightSpec = Field(
        WeightSpec(), description="An official or AugReg .npz file of that variant."
    )
    dropout: float = Field(0.0, ge=0, lt=1, description="Dropout rate in the blocks.")
    stochastic_depth: float = Field(
        0.0,
        ge=0,
        lt=1,
        description="Share of images for which the last block is skipped. It rises with depth, "
        "from 0 for the first block.",
    )
    mixup: float = Field(0.0, ge=0, description="Alpha of MixUp's Beta distribution. 0: no MixUp.")
    rand_operations: NonNegativeInt = Field(
        0, description="Number of RandAugment operations per image. 0: none."
    )
    rand_magnitude: float = Field(10.0, ge=0, le=30, description="Strength of these operations.")
    crop: bool = Field(
        True,
        description="Crop images at random. Turn off if the position or number of objects matters.",
    )
    min_area: float = Field(
        0.05, gt=0, le=1, description="Smallest share of an image that a random crop covers."
    )
    learning_rate: PositiveFloat = Field(
        0.03,
        description="Learning rate at the end of the warm-up. The paper uses 0.01 for CIFAR-10.",
    )
    momentum: float = Field(0.9, ge=0, lt=1, description="Momentum of SGD.")
    warmup_steps: NonNegativeInt = Field(
        500,
        description="Steps of linear warm-up, at most a fifth of all steps. Then a cosine falls "
        "to zero.",
    )
    clip: PositiveFloat = Field(1.0, description="Largest global norm of the gradient.")
    flip: bool = Field(
        True, description="Mirror images at random. Turn off if left and right differ."
    )


def image_sizes(config: Config, height: float, width: float) -> dict[str, int]:  # noqa: ARG001
    """Return the transform settings: the papers' 384 px, and more to cut random crops from."""
    return {"image_size": 384} | ({"train_size": 512} if config.crop else {})


def is_framed(config: Config) -> bool:
    """Return whether random crops have the proportions of crops of the original."""
    return config.crop


def weights(config: Config) -> tuple[str, str]:
    """Return the field with the pretrained weights, and its value."""
    return "weights.source", config.weights.source


def patches(config: Config, image_size: int) -> int:
    """Return the number of patches along a side of an image."""
    return image_size // _patch_size(config)


def _patch_size(config: Config) -> int:
    return int(config.variant.rpartition("/")[2])


def check(config: Config, image_size: int, train_size: int) -> None:
    """Raise ValueError where patches do not tile the image, or the weights are not an .npz file."""
    patch = _patch_size(config)
    if image_size % patch:
        raise ValueError(
            f"image_size {image_size} is not a multiple of the patches' {patch}; set "
            f"transform.image_size to {max(1, round(image_size / patch)) * patch}"
        )
    if train_size != image_size and not config.crop:
        raise ValueError(
            f"train_size {train_size} needs a crop to image_size {image_size}; leave "
            "transform.train_size unset, or set train.hyperparameters.crop to true"
        )
    if config.weights.is_saved_model:
        raise ValueError(
            f"weights.source {config.weights.source!r} must be an .npz file or its URL"
        )
    if not config.weights.trainable or config.weights.input_range not in (None, (-1.0, 1.0)):
        raise ValueError("weights.trainable must be true, and weights.input_range unset")
