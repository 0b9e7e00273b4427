"""FixRes: train at a low resolution, then adapt head and last normalization to a higher one.

Sources: "Fixing the train-test resolution discrepancy" (arXiv 1906.06423), and the Keras example
"FixRes" for the defaults. It reports, on the 10 % of tf_flowers held out, 75.48 % at 128 px,
75.20 % after the 224 px stage, and 71.39 % for the control that is trained at 224 px throughout
(`vanilla`).

Transform keeps images large enough for both stages, and with `transform.train_size` larger ones for
training. Random crops of these are shrunk to the low resolution; what a model is evaluated and
served with, the whole image shrunk to `low` or its centre cut to `high`, is a layer of the model,
so that the exported model of whichever stage was better takes what Transform gives.

Reached here, with the tiny BiT as base, seed 0, on 2 CPU cores:

- `perennial run --recipe fixres`: 97.3 % of 367 digits held out (docs/results.md). In an earlier
  run the second stage, at 48 px, reached 89.90 % after 98.23 % at 40 px, so it was not
  kept: digits fill their images, and random crops of them hardly look larger.
- 100 photos of each of 5 flowers (a part of tf_flowers): 64.42 % of the 104 held out, at 96 px,
  2.88 points (3 images) more than after the first stage at 64 px; `perennial run --recipe fixres
  --data DIR --epochs 70` with, by --set, train.batch_size=32, transform.image_size=110 and, below
  train.hyperparameters, base=bit, low=64, high=96, min_area=0.25 and
  settings={variant="tiny",crop=false,learning_rate=0.5,patience=0}.

ResNet50V2 was trained for single steps only, in a test: more takes a GPU.
"""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, PositiveFloat, PositiveInt, ValidationError

from trainer_module import recipes
from trainer_module.recipes.base import (
    Recipe,
)

RESNET = "resnet50v2"
EPOCHS = 30  # of the first stage, where none are given
SMALLEST = 32  # pixels: below, the last layers of ResNet50V2 see less than one

TRAINING = "trainer_module.training.fixres"


class Config(BaseModel):
    """Hyperparameters of the two stages."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)

    base: str = Field(
        RESNET, description="Network: resnet50v2 from scratch, or that of the named recipe."
    )
    settings: dict[str, Any] = Field(
        default_factory=dict, description="Hyperparameters of the recipe that base names."
    )
    low: PositiveInt = Field(128, description="Image size of the first stage, in pixels.")
    high: PositiveInt = Field(224, description="Image size of the second stage, in pixels.")
    min_area: float = Field(
        0.05, gt=0, le=1, description="Smallest share of an image that a random crop covers."
    )
    flip: bool = Field(
        True, description="Mirror images at random. Turn off if left and right differ."
    )
    learning_rate: PositiveFloat = Field(
        1e-3,
        description="Learning rate of the first stage, for resnet50v2. Another recipe has its own.",
    )
    second_learning_rate: PositiveFloat = Field(
        1e-4, description="Learning rate of the second stage."
    )
    second_epochs: PositiveInt = Field(
        10, description="Number of epochs that belong to the second stage."
    )
    batch_norm: Literal["reestimate", "train"] = Field(
        "train",
        description="Statistics of the last batch normalization in the second stage. train: "
        "trained along with its scale and offset, as in the Keras example. reestimate: measured "
        "once at the higher resolution, then fixed with scale and offset, as in the paper.",
    )
    antialias: bool = Field(
        False,
        description="Smooth before random crops and images are shrunk. The Keras example does not.",
    )
    vanilla: bool = Field(
        False, description="Train the control instead: one stage at the higher resolution."
    )


def image_sizes(config: Config, height: float, width: float) -> dict[str, int]:  # noqa: ARG001
    """Return the transform settings: the centre of `high` pixels shows what `low` of all do."""
    return {"image_size": config.high * config.high // config.low}


def built_on(config: Config) -> str:
    """Return the recipe whose network is trained."""
    return config.base


def check(config: Config, image_size: int, train_size: int) -> None:
    """Raise ValueError where sizes do not go together, or the base is not one."""
    if not config.low < config.high <= image_size:
        raise ValueError(
            f"low {config.low}, high {config.high} and image_size {image_size} must rise in this "
            "order, the last two may be equal"
        )
    if train_size < image_size:
        raise ValueError(
            f"train_size {train_size} is below image_size {image_size}; set transform.train_size "
            "higher, for crops of sharper images, or leave it unset"
        )
    known = [RESNET, *(name for name in recipes.names() if name != "fixres")]
    if config.base not in known:
        raise ValueError(f"base {config.base!r} is not one of {', '.join(known)}")
    if config.base == RESNET and config.low < SMALLEST:
        raise ValueError(f"low {config.low} is too small for {RESNET}; set {SMALLEST} or more")
    if config.base == RESNET and config.settings:
        raise ValueError(
            f"settings {config.settings} are those of a recipe, but base is {RESNET}; set "
            "train.hyperparameters.base to the recipe, or leave settings out"
        )
    try:
        base = base_of(config)
        for size in (config.low, config.high):
            if base:
                base[0].check(base[1], size, size)
    except ValidationError as error:
        problems = (f"{'.'.join(map(str, e['loc']))}: {e['msg']}" for e in error.errors())
        raise ValueError(f"settings of base {config.base}: {'; '.join(problems)}") from None
    except ValueError as error:
        raise ValueError(f"settings of base {config.base}: {error}") from None


def is_framed(config: Config) -> bool:  # noqa: ARG001
    """Return True: random crops have the proportions of crops of the original."""
    return True


def epochs_of(config: Config, epochs: int | None) -> tuple[int | None, int]:
    """Return the epochs of the first stage (None: the base's own) and of the second."""
    if epochs is None:
        return None, config.second_epochs
    if epochs < 2:
        raise ValueError(f"train.epochs {epochs} is too few for two stages; set 2 or more")
    second = min(config.second_epochs, epochs - 1)
    return epochs - second, second


def first_size(config: Config) -> int:
    return config.high if config.vanilla else config.low


def base_of(config: Config) -> tuple[Recipe, BaseModel] | None:
    """Return the base recipe and its configuration, None for ResNet50V2."""
    if config.base == RESNET:
        return None
    recipe = recipes.get(config.base)
    return recipe, recipe.Config(**config.settings)
