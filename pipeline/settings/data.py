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

    Splits are shares of content-hash buckets: with 80, 20 and 0, eight images in ten are in train.
    An image stays in its split across runs and as data grows, until the shares change, and every
    class of two images is in train and in eval: see docs/how-to/own-images.md.
    """

    source: Annotated[str, SOURCE] = Field(
        default="digits",
        description="`digits`, a folder of class folders, a manifest, TFRecords or `tfds:NAME`; "
        "`env:NAME`: the value of an environment variable.",
    )
    train: int = Field(
        default=80, ge=1, le=10_000, description="Share of images that train the model."
    )
    eval: int = Field(
        default=20, ge=1, le=10_000, description="Share of images that evaluate the model."
    )
    test: int = Field(
        default=0,
        ge=0,
        le=10_000,
        description="Share of images in neither; 0: no such split.",
    )
    schema_file: Annotated[Path | None, PATH] = Field(
        default=None,
        description="A schema.pbtxt to validate against, instead of one inferred from train.",
    )

    depth: int = Field(
        default=1,
        ge=1,
        le=100,
        description="Depth of the folders that are classes, below data.source.",
    )
    layout: Literal["auto", "classes", "splits"] = Field(
        default="auto",
        description="Meaning of the folders in data.source: classes, splits with class folders in "
        "them, or decided by their names (auto).",
    )
    train_folder: str = Field(
        default="", description="Name pattern of the folders that are the train split."
    )
    eval_folder: str = Field(
        default="", description="Name pattern of the folders that are the eval split."
    )
    test_folder: str = Field(
        default="", description="Name pattern of the folders that are the test split."
    )
    name_pattern: Annotated[str, AfterValidator(_pattern)] = Field(
        default="",
        description="Regular expression for whole file names; its first group is the class.",
    )
    ignore: Listed[str] = Field(
        default=(), description="Name patterns of files and folders to leave out."
    )
    similar_classes: Literal["stop", "keep"] = Field(
        default="stop",
        description="Stop at class names that look alike, such as Cat and cat, or keep them.",
    )
    image_feature: str = Field(
        default="", description="Feature of the image in tf.Examples; empty: the usual names."
    )
    label_feature: str = Field(
        default="", description="Feature of the class in tf.Examples; empty: the usual names."
    )
    spans: int = Field(
        default=1, ge=1, le=10_000, description="Number of latest spans to train on."
    )
    first_span: int | None = Field(
        default=None, ge=0, description="First span to train on, instead of the latest ones."
    )
    last_span: int | None = Field(
        default=None, ge=0, description="Last span to train on, instead of the latest ones."
    )
    held_out: Literal["window", "all"] = Field(
        default="window",
        description="Spans whose eval and test images are used: those trained on, or all up to "
        "the latest of them, so that models of different windows are judged alike.",
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
    # The gate's test needs them: five correct predictions have a probability of 1 / 2^5 = 3 %.
    min_eval: int = Field(
        default=5,
        ge=0,
        description="Images that the eval split must have outside its largest class; with fewer, "
        "even a perfect model is not significantly better than chance, and the run stops.",
    )
    group_near_duplicates: bool = Field(
        default=Options.group_near_duplicates,
        description="Put images that look the same into the same split.",
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
    """Findings about the data that stop a run before training.

    A finding has a type, such as ENUM_TYPE_UNEXPECTED_STRING_VALUES (TFDV's names), CLASS_MISSING
    or CLASS_IMBALANCE, and a feature, such as image/class/text. Distances between distributions lie
    in 0..1; with a limit of 1 nothing is found.

    The defaults are above the largest distances of ten random splits of some hundred images. Those
    of 500 flower photos, 1,500 images of CIFAR-10 and the 1,797 digits: a fifth against the rest
    0.20, 0.03 and 0.03 for numeric features and 0.15, 0.05 and 0.05 for labels; two halves 0.17,
    0.02 and 0.03, and 0.11, 0.04 and 0.04. With 100 photos chance can exceed the defaults: a fifth
    0.38 and 0.22, halves 0.45 and 0.18. Real changes: photos of 0.7 times the brightness 0.33,
    blurred ones (3 pixels) 0.41; a class cut to 30 % changes labels by 0.15 to 0.18.
    """


class TransformConfig(Section):
    """Preprocessing of every image, the same in training, evaluation and serving.

    Size and interpolation have no default: each recipe's preset sets them.
    """

    image_size: int = Field(
        ge=1, le=4096, description="Height and width of the model's input in pixels."
    )
    train_size: int | None = Field(
        default=None,
        ge=1,
        le=4096,
        description="Height and width of the training images, for a recipe that crops them at "
        "random to image_size; unset: image_size.",
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
        description="Interpolation; `area` averages where it shrinks, cheaply, and is bilinear "
        "where it enlarges."
    )
    antialias: bool = Field(
        default=True,
        description="Smooth before shrinking: all but `area` need it, and it doubles the cost.",
    )
    resize_mode: Literal["stretch", "crop", "pad"] = Field(
        default="stretch",
        description="How an image becomes square: stretched to it, cropped to its central square, "
        "or padded with black. Keras' Resizing has crop_to_aspect_ratio and pad_to_aspect_ratio.",
    )
    crop_fraction: float = Field(
        default=1.0,
        gt=0,
        le=1,
        description="Central part of each side that is kept, such as 0.875 for 224 of 256 pixels.",
    )
