"""Fine-tuning of a pretrained BiT ResNet-v2 by the BiT-HyperRule.

Sources: "Big Transfer" (arXiv 1912.11370) and its code, for the rule and the networks; the Keras
example "Image classification with BigTransfer". They report, for BiT-M R50x1, 97.27 % on tf_flowers
(85 % of the images train) and 97.2 to 97.4 % on CIFAR-10.

The authors' code trains to the end of the schedule. The Keras example, which has no warm-up, stops
after two checks of 10 steps without a better one. In a warm-up such a stop would come at once: a
head of zeros learns nothing at a rate near zero. So patience begins after the warm-up here, and is
as long as one stage of the schedule.

Reached here, from scratch with the tiny variant, seed 0, on 2 CPU cores:

- `perennial run --recipe bit`: 99.2 and 98.9 % of 367 digits held out (docs/results.md, seeds 0
  and 1).
- 100 photos of each of 5 flowers (a part of tf_flowers): 65.38 % of the 104 held out;
  `perennial run --recipe bit --data DIR --epochs 60` with, by --set, train.batch_size=32,
  transform.image_size=96, transform.train_size=110 and, below train.hyperparameters, variant=tiny,
  learning_rate=0.5 and patience=0. Without pretrained weights, so few photos do not teach more.

Neither pretrained weights nor a GPU were at hand: the published results have not been reproduced.

Images are wanted in two sizes, both resized straight from the original: `transform.train_size` to
cut random crops from, `transform.image_size` for evaluation and serving, which is also the size of
the crops. Without `crop`, training reads what evaluation does.
"""

from __future__ import annotations

import dataclasses
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, NonNegativeInt, PositiveFloat, PositiveInt

from trainer_module.weights import WeightSpec

RULE_BATCH = 512  # the batch size that the rule's steps and learning rate are for

# Fewest training images, then steps: end of the warm-up, divisions of the rate by 10, end.
SCHEDULES = (
    (500_000, (500, 6000, 12000, 18000, 20000)),
    (20_000, (500, 3000, 6000, 9000, 10000)),
    (0, (100, 200, 300, 400, 500)),
)

TRAINING = "trainer_module.training.bit"


class Config(BaseModel):
    """Hyperparameters. Unset ones follow the BiT-HyperRule; each run prints their values.

    The rule is for 512 images per step, and is scaled to `train.batch_size`. If a batch does not
    fit into memory, it is computed in parts: see `train.gradient_accumulation`.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)

    variant: Literal["R50x1", "R50x3", "R101x1", "R101x3", "R152x2", "R152x4", "tiny"] = Field(
        "R50x1", description="Depth and width of the network. A SavedModel has its own."
    )
    weights: WeightSpec = Field(WeightSpec(), description="Pretrained weights of the backbone.")
    resolution: Literal["code", "paper"] = Field(
        "code",
        description="Sizes for images of at least 96 x 96 pixels, if transform sets none: 512 "
        "cropped to 480 as in the authors' code, or 448 cropped to 384 as in the paper.",
    )
    crop: bool = Field(
        True,
        description="Crop images at random. Turn off if the position or number of objects matters.",
    )
    crop_size: PositiveInt | None = Field(
        None, description="Side of the random crops in pixels. Unset: image_size."
    )
    flip: bool = Field(
        True, description="Mirror images at random. Turn off if left and right differ."
    )
    learning_rate: PositiveFloat = Field(
        0.003, description="Learning rate for 512 images per step."
    )
    momentum: float = Field(0.9, ge=0, lt=1, description="Momentum of SGD.")
    schedule: tuple[NonNegativeInt, ...] | None = Field(
        None,
        min_length=2,
        strict=False,
        description="Boundaries, in steps of 512 images: the end of the warm-up, each division of "
        "the learning rate by 10, and the end of the training.",
    )
    mixup: float | None = Field(
        None, ge=0, description="Alpha of MixUp's Beta distribution. 0: no MixUp."
    )
    patience: NonNegativeInt | None = Field(
        None,
        description="Steps of 512 images without a better accuracy, after the warm-up, that end "
        "the training. Unset: a fifth of the schedule. 0: never.",
    )


@dataclasses.dataclass(frozen=True)
class Rule:
    """The rule for one data set and batch size.

    Attributes:
        learning_rate: reached at the end of the warm-up.
        steps: end of the warm-up, divisions of the rate by 10, end of the training.
        mixup: alpha, 0 for none.
        patience: steps without better accuracy that end the training, 0 for never.
    """

    learning_rate: float
    steps: tuple[int, ...]
    mixup: float
    patience: int


def hyper_rule(config: Config, images: int, batch: int, total_steps: int | None = None) -> Rule:
    """Derive what `config` leaves open, for `images` in training and `batch` of them a step.

    With `total_steps`, the schedule is stretched to that length, all its parts alike.
    """
    steps = config.schedule or next(steps for least, steps in SCHEDULES if images >= least)
    scale = total_steps / steps[-1] if total_steps else RULE_BATCH / batch
    mixup = (0.0 if images < 20_000 else 0.1) if config.mixup is None else config.mixup
    return Rule(
        learning_rate=config.learning_rate * batch / RULE_BATCH,
        steps=tuple(_scaled(step, scale) for step in steps),
        mixup=mixup,
        patience=_scaled(steps[-1] // 5 if config.patience is None else config.patience, scale),
    )


def _scaled(steps: int, scale: float) -> int:
    return max(1, round(steps * scale)) if steps else 0


def image_sizes(config: Config, height: float, width: float) -> dict[str, int]:
    """Return the rule's transform settings for images of the usual size `height` by `width`."""
    if height * width < 96 * 96:
        train, model = 160, 128
    else:
        train, model = {"code": (512, 480), "paper": (448, 384)}[config.resolution]
    return {"train_size": train, "image_size": model} if config.crop else {"image_size": model}


def training_size(config: Config, image_size: int) -> int:
    """Return the pixels of a side of the crops."""
    return config.crop_size or image_size


def weights(config: Config) -> tuple[str, str]:
    """Return the field with the pretrained weights, and its value."""
    return "weights.source", config.weights.source


def check(config: Config, image_size: int, train_size: int) -> None:
    """Raise ValueError where sizes and crop contradict each other."""
    size, name = (config.crop_size, "crop_size") if config.crop_size else (image_size, "image_size")
    if config.crop_size and not config.crop:
        raise ValueError(f"crop_size {size} without a crop; leave it unset, or set crop to true")
    if config.crop and train_size <= size:
        raise ValueError(
            f"train_size {train_size} leaves nothing to crop to {name} {size}; set "
            "transform.train_size higher, or train.hyperparameters.crop to false"
        )
    if not config.crop and train_size != image_size:
        raise ValueError(
            f"train_size {train_size} needs a crop to image_size {image_size}; leave "
            "transform.train_size unset, or set train.hyperparameters.crop to true"
        )
    if config.schedule and sorted(set(config.schedule)) != list(config.schedule):
        raise ValueError(f"schedule {config.schedule} must rise from step to step")
