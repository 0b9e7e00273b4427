"""The settings of training: as they are configured, and as `run_fn` is given them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal, Self

from pydantic import BaseModel, Field

from components.settings import Section
from trainer_module import recipes


class TrainConfig(Section):
    """How the model is trained.

    The batch size has no default here: the preset of the recipe sets it.
    """

    recipe: str = Field(
        default="vit",
        description="Name of a module in trainer_module/recipes, or auto to choose one by the "
        "data and the machine (not on Kubeflow).",
    )
    preset: str | None = Field(
        default=None,
        description="Preset with all values of a published document, such as keras-bit: a file "
        "source-NAME.toml in pipeline/presets.",
    )
    seed: int = Field(
        default=0, ge=0, le=2**32 - 1, description="Seed for weights, shuffling and augmentation."
    )
    deterministic: bool = Field(
        default=True,
        description="Make training repeatable on one machine. Off may be faster on a GPU.",
    )
    epochs: int | None = Field(
        default=None,
        ge=1,
        description="Passes over the training images. Unset: the recipe's default.",
    )
    batch_size: int = Field(ge=1, description="Images per training step.")
    gradient_accumulation: int | None = Field(
        default=None,
        ge=1,
        description="Number of parts in which a batch is computed, one after the other, to save "
        "memory. Unset: as few as fit by estimate, but one for a network that trains batch "
        "normalization.",
    )
    keep: Literal["best", "last"] = Field(
        default="best",
        description="Weights to keep: those of the best epoch on the eval split, or those of the "
        "last epoch of each phase.",
    )
    balance: Literal["none", "class_weight", "sampling"] = Field(
        default="none",
        description="Give rare classes as much weight as others: with class weights in the loss, "
        "or by sampling their images more often.",
    )
    recent_weight: int = Field(
        default=1,
        ge=1,
        le=100,
        description="How often an epoch shows each image of the latest spans. Other images are "
        "shown once.",
    )
    recent_spans: int = Field(
        default=1, ge=1, description="Number of latest spans to which recent_weight applies."
    )
    precision: Literal["auto", "float32", "bfloat16", "float16"] = Field(
        default="auto",
        description="Number format of training. auto: the fastest format of the GPU, or float32 "
        "on a CPU.",
    )
    jit_compile: bool = Field(
        default=False,
        description="Compile the model with XLA. For bit and resnet50v2, deterministic must be "
        "false.",
    )
    warm_start: bool = Field(
        default=False,
        description="Start from the weights of the baseline.",
    )
    worker_timeout: int = Field(
        default=600,
        ge=1,
        description="Seconds to wait for the other training processes in TF_CONFIG.",
    )
    hyperparameters: BaseModel = Field(description="Hyperparameters of the recipe.")


class RunConfig(TrainConfig):
    """What `run_fn` finds in `custom_config`: also the sizes of images, and the code's digest."""

    image_size: int = Field(ge=1, description="Height and width of the images.")
    train_size: int | None = Field(
        default=None, ge=1, description="Those of training; None: the same."
    )
    code: str = Field(default="", description="Digest of the sources, for the cache.")

    @classmethod
    def parse(cls, custom_config: Mapping[str, Any]) -> Self:
        """Validate what TFX passes on. Raises ValueError, also of an unknown recipe."""
        recipe = recipes.get(custom_config["recipe"])
        hyperparameters = recipe.Config(**custom_config["hyperparameters"])
        return cls.model_validate({**custom_config, "hyperparameters": hyperparameters})
