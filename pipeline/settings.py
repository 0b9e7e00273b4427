"""The configuration's one typed tree: every setting with its type, range and default.

`pipeline.config` fills it from presets, a TOML file and the command line.
"""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Annotated, Literal

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field

from components.image_example_gen import source_name
from components.image_example_gen.options import Options

BUILT_IN_SOURCES = (source_name.DIGITS,)


def is_unicode(text: str) -> bool:
    """Whether `text` has no byte that Python could not decode from the command line."""
    return not any("\ud800" <= char <= "\udfff" for char in text)


def _absolute_path(value: object) -> object:
    if value is None:
        return None
    if not isinstance(value, str | Path):
        raise ValueError("must be a path, in quotes")
    if not value:
        # An unset shell variable: the working directory is not what was meant.
        raise ValueError("must not be empty")
    if not is_unicode(str(value)):
        raise ValueError("must be UTF-8")
    try:
        return Path(value).expanduser().resolve()
    except (RuntimeError, ValueError) as error:  # a link to itself, ~nobody, a null character
        raise ValueError(f"is no usable path: {error}") from None


def _absolute_source(value: object) -> object:
    if not isinstance(value, str):
        return str(_absolute_path(value))
    name = source_name.parse(value)
    if name.is_local:
        return name._replace(location=str(_absolute_path(name.location))).text
    if not is_unicode(value):
        raise ValueError("must be UTF-8")
    return value


def _beam_option(value: str) -> str:
    if not value.startswith("--"):
        raise ValueError("must start with --")
    if value.partition("=")[0] == "--runner":
        raise ValueError("must not name the runner: set beam.runner")
    return value


# One instance each: the settings that hold a path are found by it.
PATH = BeforeValidator(_absolute_path)
SOURCE = BeforeValidator(_absolute_source)


class Section(BaseModel):
    """A table of settings that refuses unknown keys, quiet conversions and later changes."""

    # strict: `epochs = true` is a mistake and not 1.
    model_config = ConfigDict(
        extra="forbid", frozen=True, strict=True, allow_inf_nan=False, validate_default=True
    )


class DataConfig(Section):
    """Where the images come from and how they are split.

    Splits are shares of content-hash buckets: with 80, 20 and 0, eight images in ten train. An
    image stays in its split across runs and as data grows, until the shares change.
    """

    source: Annotated[str, SOURCE] = Field(
        default="digits",
        description="`digits`, a folder of class folders, a manifest, TFRecords or `tfds:NAME`.",
    )
    train: int = Field(
        default=80, ge=1, le=10_000, description="Share of images that train the model."
    )
    eval: int = Field(
        default=20, ge=1, le=10_000, description="Share of images that judge the model."
    )
    test: int = Field(
        default=0,
        ge=0,
        le=10_000,
        description="Share of images kept from both; 0 makes no such split.",
    )
    schema_file: Annotated[Path | None, PATH] = Field(
        default=None,
        description="A schema.pbtxt to validate against, instead of one inferred from train.",
    )

    @property
    def splits(self) -> dict[str, int]:
        """Shares by split name, without a split that has none."""
        shares = {"train": self.train, "eval": self.eval, "test": self.test}
        return {name: share for name, share in shares.items() if share}

    depth: int = Field(
        default=1, ge=1, le=100, description="Level of the folder that names an image's class."
    )
    image_feature: str = Field(
        default="", description="Feature of tf.Examples with the image; empty: the usual names."
    )
    label_feature: str = Field(
        default="", description="Feature of tf.Examples with the class; empty: the usual names."
    )
    spans: int = Field(
        default=1, ge=1, le=10_000, description="Number of latest spans to train on."
    )
    first_span: int | None = Field(
        default=None, ge=0, description="Train on the spans from this one on, not on the latest."
    )
    last_span: int | None = Field(
        default=None, ge=0, description="Train on the spans up to this one, not on the latest."
    )
    max_pixels: int = Field(
        default=Options.max_pixels,
        ge=1,
        le=2**31 - 1,
        description="Images of more pixels are quarantined.",
    )
    max_bad_fraction: float = Field(
        default=Options.max_bad_fraction,
        ge=0,
        le=1,
        description="Share of unusable files beyond which the run is stopped.",
    )
    group_near_duplicates: bool = Field(
        default=Options.group_near_duplicates,
        description="Put images that look the same into the same split.",
    )

    @property
    def options(self) -> Options:
        """What of this the ingest needs beside source and splits."""
        names = [field.name for field in dataclasses.fields(Options)]
        return Options(**{name: getattr(self, name) for name in names})

    @property
    def folder(self) -> Path | None:
        """The local folder or file that is read, without spans; None for anything not local."""
        name = source_name.parse(self.source)
        return Path(source_name.fixed_part(name.location)) if name.is_local else None


class TransformConfig(Section):
    """What Transform does to every image, in training, evaluation and serving alike.

    Size and interpolation have no default: each recipe's preset sets them.
    """

    image_size: int = Field(
        ge=1, le=4096, description="Height and width in pixels that the model is given."
    )
    train_size: int | None = Field(
        default=None,
        ge=1,
        le=4096,
        description="Height and width of the training images, for a recipe that crops them at "
        "random to image_size; unset: image_size.",
    )
    resize: Literal[
        "area",
        "bicubic",
        "bilinear",
        "gaussian",
        "lanczos3",
        "lanczos5",
        "mitchellcubic",
        "nearest",
    ] = Field(description="Interpolation of the resize.")
    center_crop: bool = Field(
        default=False, description="Cut out the central square first, instead of squeezing."
    )


class TrainConfig(Section):
    """How the model is trained.

    The batch size has no default: each recipe's preset sets it.
    """

    recipe: str = Field(
        default="vit",
        description="A file of trainer_module/recipes, without its .py; auto: by data and GPUs.",
    )
    seed: int = Field(
        default=0, ge=0, le=2**32 - 1, description="Seed of weights, shuffling and augmentation."
    )
    deterministic: bool = Field(
        default=True, description="Repeatable training on one machine; off may be faster on a GPU."
    )
    epochs: int | None = Field(
        default=None,
        ge=1,
        description="Passes over the training images; unset: what the recipe thinks right.",
    )
    batch_size: int = Field(ge=1, description="Images a training step.")
    gradient_accumulation: int = Field(
        default=1,
        ge=1,
        description="Parts in which a batch is computed, one after the other, to save memory.",
    )
    balance: Literal["none", "class_weight", "sampling"] = Field(
        default="none",
        description="Make rare classes count as much as others: weigh their images more, or show "
        "them more often.",
    )
    precision: Literal["auto", "float32", "bfloat16", "float16"] = Field(
        default="auto",
        description="What training calculates with; auto: the fastest that the GPU has, float32 "
        "on a CPU.",
    )
    jit_compile: bool = Field(default=False, description="Compile the model with XLA.")
    warm_start: bool = Field(
        default=False,
        description="Begin with the weights of the latest blessed model of earlier data.",
    )
    hyperparameters: BaseModel = Field(description="The recipe's own settings: its `Config`.")


class EvaluateConfig(Section):
    """The bounds that a model must keep to be blessed."""

    min_accuracy: float = Field(
        default=0.5,
        ge=0,
        le=1,
        description="Lowest accuracy on the eval split that is blessed, 0 to 1.",
    )
    # Not more by default: a tolerance lets accuracy slide by that much with every run.
    max_accuracy_drop: float = Field(
        default=0.0,
        ge=0,
        le=1,
        description="How far accuracy may fall below the latest blessed model's.",
    )


class PushConfig(Section):
    """Where blessed models go."""

    directory: Annotated[Path | None, PATH] = Field(
        default=None, description="Folder of numbered versions; unset: <workspace>/serving/<name>."
    )


class BeamConfig(Section):
    """How Beam runs inside the data nodes."""

    # Named always: Beam's own choice of a runner may download a Go binary.
    runner: str = Field(default="FnApiRunner", min_length=1, description="Name of Beam's runner.")
    args: Annotated[
        tuple[Annotated[str, AfterValidator(_beam_option)], ...], Field(strict=False)
    ] = Field(default=(), description="Further Beam options, each as `--option=value`.")

    @property
    def pipeline_args(self) -> list[str]:
        """The command-line arguments for Beam, runner included."""
        return [f"--runner={self.runner}", *self.args]


class Config(Section):
    """All of a run. `load` makes one; the class of `train.hyperparameters` follows the recipe."""

    name: str = Field(
        default="perennial",
        pattern=r"^[a-z]([a-z0-9-]*[a-z0-9])?$",
        max_length=63,
        description="Name of pipeline and model: lower-case letters, digits and hyphens.",
    )
    workspace: Annotated[Path, PATH] = Field(
        default=Path("workspace"),
        description="Folder for metadata, artifacts, logs and pushed models.",
    )
    data: DataConfig = Field(default=DataConfig(), description="Images and splits.")
    transform: TransformConfig = Field(description="Preprocessing.")
    train: TrainConfig = Field(description="Training.")
    evaluate: EvaluateConfig = Field(
        default=EvaluateConfig(), description="The gate before a push."
    )
    push: PushConfig = Field(default=PushConfig(), description="Destination of blessed models.")
    beam: BeamConfig = Field(default=BeamConfig(), description="Data processing.")

    @property
    def push_directory(self) -> Path:
        """The folder that holds the numbered versions of the pushed model."""
        return self.push.directory or self.workspace / "serving" / self.name
