"""Fine-tuning of a pretrained vision transformer, ViT-Ti, S, B or L.

Sources: "An Image is Worth 16x16 Words" (arXiv 2010.11929), "How to train your ViT?" (AugReg, arXiv
2106.10270) and their code, google-research/vision_transformer, for schedule, networks and weights.
On small data sets 500 steps with a warm-up of 100 do; the defaults otherwise are the papers'.

Command: `perennial run --recipe vit_finetune --data DIR --set
train.hyperparameters.weights.source=FILE.npz`, and its sha256, which the first run tells.

Result: none yet. Published weights are not part of this project, and its tests run the tiny variant
with random ones.
"""

from __future__ import annotations

from collections.abc import Generator
from typing import TYPE_CHECKING, Literal

from pydantic import BaseModel, ConfigDict, Field, NonNegativeInt, PositiveFloat

from trainer_module.recipes.base import Phase, Row, TrainingData
from trainer_module.weights import WeightSpec

if TYPE_CHECKING:
    import keras

STEPS = 500  # where no epochs are given


class Config(BaseModel):
    """Hyperparameters of the network, its optimizer (SGD with momentum) and its schedule."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)

    variant: Literal["Ti/16", "S/16", "B/16", "B/32", "L/16", "L/32", "tiny/4"] = Field(
        "B/16", description="Size of the network, and of its patches in pixels."
    )
    weights: WeightSpec = Field(
        WeightSpec(), description="An official or AugReg .npz file of that variant."
    )
    dropout: float = Field(0.0, ge=0, lt=1, description="In the blocks.")
    learning_rate: PositiveFloat = Field(
        0.03, description="At the end of the warm-up; 0.01 for CIFAR-10 in the paper."
    )
    momentum: float = Field(0.9, ge=0, lt=1, description="Of the SGD optimizer.")
    warmup_steps: NonNegativeInt = Field(
        500, description="Linear rise, at most a fifth of all steps; then a cosine falls to zero."
    )
    clip: PositiveFloat = Field(1.0, description="Largest global norm of the gradient.")
    flip: bool = Field(True, description="Mirror images; not where left and right differ.")


def check(config: Config, image_size: int, train_size: int) -> None:
    """Raise ValueError where patches do not tile the image, or the weights are no .npz file."""
    patch = int(config.variant.rpartition("/")[2])
    if image_size % patch:
        raise ValueError(
            f"image_size {image_size} is not a multiple of the patches' {patch}; set "
            f"transform.image_size to {max(1, round(image_size / patch)) * patch}"
        )
    if train_size != image_size:
        raise ValueError(f"train_size {train_size} must be image_size {image_size}: leave it unset")
    if config.weights.is_saved_model:
        raise ValueError(
            f"weights.source {config.weights.source!r} must be an .npz file or its URL"
        )
    if not config.weights.trainable or config.weights.input_range not in (None, (-1.0, 1.0)):
        raise ValueError("weights.trainable must be true, and weights.input_range unset")


def build_model(config: Config, image_size: int, num_classes: int) -> keras.Model:
    """Make the model, with pretrained weights where they are configured, and a head of zeros."""
    from trainer_module.models.vision_transformer import VARIANTS, load_npz, vision_transformer

    model = vision_transformer(
        VARIANTS[config.variant],
        image_size=image_size,
        num_classes=num_classes,
        dropout=config.dropout,
    )
    if config.weights.source:
        load_npz(model, config.weights.fetch())
    return model


def phases(config: Config, model: keras.Model, data: TrainingData) -> Generator[Phase, Row, None]:  # noqa: ARG001
    """Train the whole network once."""
    import keras

    from trainer_module import augmentation
    from trainer_module.schedules import warmup_cosine

    epochs = data.epochs or -(-STEPS // data.steps_per_epoch)
    steps = epochs * data.steps_per_epoch
    rate = warmup_cosine(config.learning_rate, steps, min(config.warmup_steps, steps // 5))
    optimizer = keras.optimizers.SGD(rate, momentum=config.momentum)
    yield Phase(epochs, optimizer, augmentation.flip_turn_scale(flip=config.flip), clip=config.clip)
