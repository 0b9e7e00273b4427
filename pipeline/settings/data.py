"""Settings of the data: where it comes from, its gate and its preprocessing."""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path
from typing import Annotated, Literal

from pydantic import (
    AfterValidator,
    Field,
)

from components.image_example_gen import source_name
from components.image_example_gen.options import Options
from components.image_example_validator.findings import Policy
from components.settings import Listed, Section
from pipeline.settings.paths import PATH, SOURCE


def _pattern(value: str) -> str:
    try:
        groups = re.compile(value).groups
    except re.error as error:
        raise ValueError(f"is not a regular expression: {error}") from None
    if value and not groups:
        raise ValueError("must have a group, in parentheses, that is the class")
    return value


class DataConfig(Section):
    """Source and splits of the images.

    The shares of the splits are relative to each other: with 80, 20 and 0, eight of ten images are
    in train. The content of an image decides its split, so the image stays there across runs and as
    the data grows, until the shares change. Every class with at least two images is in train and in
    eval: see docs/how-to/own-images.md.
    """

    source: Annotated[str, SOURCE] = Field(
        default="digits",
        description="`digits`, a folder with one subfolder per class, a manifest, TFRecords, "
        "`tfds:NAME`, a URI, or `env:NAME` for the value of an environment variable.",
    )
    train: int = Field(
        default=80,
        ge=1,
        le=10_000,
        description="Share of the images for training, relative to data.eval and data.test.",
    )
    eval: int = Field(
        default=20, ge=1, le=10_000, description="Share of the images for evaluation."
    )
    test: int = Field(
        default=0,
        ge=0,
        le=10_000,
        description="Share of the images for the test split, which is only reported on. 0: no "
        "test split.",
    )
    schema_file: Annotated[Path | None, PATH] = Field(
        default=None,
        description="A schema.pbtxt to validate the data against. Unset: a schema is inferred "
        "from the train split.",
    )

    depth: int = Field(
        default=1,
        ge=1,
        le=100,
        description="Depth of the class folders below data.source.",
    )
    layout: Literal["auto", "classes", "splits"] = Field(
        default="auto",
        description="Meaning of the folders in data.source: `classes`, `splits` that contain "
        "class folders, or `auto` to decide by their names.",
    )
    train_folder: str = Field(
        default="",
        description="Name pattern of the folders of the train split, such as fold[1234].",
    )
    eval_folder: str = Field(
        default="", description="Name pattern of the folders of the eval split."
    )
    test_folder: str = Field(
        default="", description="Name pattern of the folders of the test split."
    )
    name_pattern: Annotated[str, AfterValidator(_pattern)] = Field(
        default="",
        description="Regular expression that matches whole file names. Its first group is the "
        "class.",
    )
    ignore: Listed[str] = Field(
        default=(), description="Name patterns of files and folders to ignore."
    )
    similar_classes: Literal["stop", "keep"] = Field(
        default="stop",
        description="Stop if class names look alike, such as Cat and cat, or keep both classes.",
    )
    image_feature: str = Field(
        default="",
        description="Feature of tf.Examples that holds the image. Empty: one of the usual names.",
    )
    label_feature: str = Field(
        default="",
        description="Feature of tf.Examples that holds the class. Empty: one of the usual names.",
    )
    spans: int = Field(
        default=1, ge=1, le=10_000, description="Number of latest spans to train on."
    )
    first_span: int | None = Field(
        default=None, ge=0, description="First span to train on, instead of the latest spans."
    )
    last_span: int | None = Field(
        default=None, ge=0, description="Last span to train on, instead of the latest spans."
    )
    held_out: Literal["window", "all"] = Field(
        default="window",
        description="Spans whose eval and test images are used: `window` for the spans that are "
        "trained on, or `all` for all spans up to the latest of these, so that models of "
        "different windows can be compared.",
    )
    max_pixels: int = Field(
        default=Options.max_pixels,
        ge=1,
        le=2**31 - 1,
        description="Maximum number of pixels of an image. Larger images are quarantined.",
    )
    max_bad_fraction: float = Field(
        default=Options.max_bad_fraction,
        ge=0,
        le=1,
        description="Maximum share of unusable files. With more, the run stops.",
    )
    # The gate's test needs them: five correct predictions have a probability of 1 / 2^5 = 3 %.
    min_eval: int = Field(
        default=5,
        ge=0,
        description="Minimum number of eval images outside the largest class. With fewer, even a "
        "perfect model is not significantly better than chance, so the run stops.",
    )
    group_near_duplicates: bool = Field(
        default=Options.group_near_duplicates,
        description="Put images that look alike into the same split.",
    )

    @property
    def splits(self) -> dict[str, int]:
        """Shares by split name, without a split that has none."""
        shares = {"train": self.train, "eval": self.eval, "test": self.test}
        return {name: share for name, share in shares.items() if share}

    @property
    def options(self) -> Options:
        """The options of the ingest, beside source and splits."""
        names = [field.name for field in dataclasses.fields(Options)]
        return Options(**{name: getattr(self, name) for name in names})

    @property
    def folder(self) -> Path | None:
        """The local folder or file that is read, without spans; None for anything not local."""
        name = source_name.parse(self.source)
        return Path(source_name.fixed_part(name.location)) if name.is_local else None


class ValidationConfig(Section, Policy):
    """Findings about the data, and which of them stop a run before training.

    A finding has a type and a feature. Types are CLASS_MISSING, CLASS_IMBALANCE and the like, and
    those of TFDV, such as ENUM_TYPE_UNEXPECTED_STRING_VALUES; a feature is for example
    image/class/text. Distances between distributions are between 0 and 1, so a limit of 1 turns
    their findings off.

    The default limits are based on the distances between random parts of the same images, the
    largest of ten divisions:

    | images | numeric features: a fifth and the rest, two halves | labels: the same |
    | --- | --- | --- |
    | 500 flower photos | 0.20, 0.17 | 0.15, 0.11 |
    | 1,500 images of CIFAR-10 | 0.03, 0.02 | 0.05, 0.04 |
    | the 1,797 digits | 0.03, 0.03 | 0.05, 0.04 |
    | 100 photos, where chance can exceed the limits | 0.38, 0.45 | 0.22, 0.18 |

    Some real changes, for comparison: photos at 0.7 times their brightness have a distance of 0.33
    and photos blurred by 3 pixels one of 0.41; a class reduced to 30% changes labels by 0.15 to
    0.18.
    """


class TransformConfig(Section):
    """Preprocessing of every image, the same in training, evaluation and serving.

    Size and interpolation have no default here: the preset of the recipe sets them.
    """

    image_size: int = Field(
        ge=1, le=4096, description="Height and width of the model's input in pixels."
    )
    train_size: int | None = Field(
        default=None,
        ge=1,
        le=4096,
        description="Height and width of the training images, for recipes that crop them at "
        "random to image_size. Unset: image_size.",
    )
    interpolation: Literal[
        "area",
        "bicubic",
        "bilinear",
        "gaussian",
        "lanczos3",
        "lanczos5",
        "mitchellcubic",
        "nearest",
    ] = Field(
        description="Interpolation. `area` averages when an image shrinks, which is cheap, and "
        "is bilinear when it grows."
    )
    antialias: bool = Field(
        default=True,
        description="Smooth before shrinking. Every interpolation except `area` needs it; it "
        "doubles the cost.",
    )
    resize_mode: Literal["stretch", "crop", "pad"] = Field(
        default="stretch",
        description="How an image becomes square: `stretch`, `crop` to its central square "
        "(crop_to_aspect_ratio of Keras' Resizing), or `pad` with black (pad_to_aspect_ratio).",
    )
    crop_fraction: float = Field(
        default=1.0,
        gt=0,
        le=1,
        description="Share of each side that is kept, at the centre: 0.875 keeps 224 of 256 "
        "pixels.",
    )
