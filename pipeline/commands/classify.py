"""`perennial classify`: a pretrained BiT with its own head, out of the box."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated

import typer

from pipeline.commands.files import read_labels
from pipeline.errors import ConfigError, DataError


def classify(
    images: Annotated[list[Path], typer.Argument(metavar="IMAGE", help="Images to classify.")],
    weights: Annotated[
        str,
        typer.Option(
            metavar="SOURCE",
            help="Weights: .npz file or URL, folder of a SavedModel, TF-Hub or Kaggle handle.",
        ),
    ],
    sha256: Annotated[
        str,
        typer.Option(
            metavar="DIGEST",
            help="SHA-256 of the weights. Without it, the command prints it and stops.",
        ),
    ] = "",
    labels: Annotated[Path, typer.Option(metavar="FILE", help="Class names, one per line.")] = Path(
        "labels.txt"
    ),
    variant: Annotated[
        str, typer.Option(metavar="NAME", help="Architecture of the weights in an .npz file.")
    ] = "R50x1",
    image_size: Annotated[
        int, typer.Option(min=1, max=4096, help="Height and width of the input in pixels.")
    ] = 480,
    top: Annotated[int, typer.Option(min=1, help="Classes to print for each image.")] = 5,
) -> None:
    """Classify images with a pretrained BiT and the head that it was published with."""
    contents = [_read(image) for image in images]
    names = read_labels(labels)
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

    import tensorflow as tf
    from pydantic import ValidationError

    from components.wording import of_op
    from trainer_module.models.bit_resnet import VARIANTS
    from trainer_module.pretrained import classify as predict
    from trainer_module.weights import WeightsError, WeightSpec

    if variant not in VARIANTS:
        raise ConfigError(f"--variant {variant!r}: must be one of {', '.join(VARIANTS)}")
    try:
        spec = WeightSpec(source=weights, sha256=sha256)
        results = predict(contents, names, spec, variant=variant, image_size=image_size, top=top)
    except ValidationError:
        raise ConfigError(f"--sha256 {sha256!r}: must be 64 hexadecimal digits") from None
    except WeightsError as error:
        raise ConfigError(str(error)) from None
    except tf.errors.InvalidArgumentError as error:
        raise DataError(f"one of the files is no image: {of_op(error.message)}") from None
    for image, classes in zip(images, results, strict=True):
        print(f"{image}: " + ", ".join(f"{name} {share:.1%}" for name, share in classes))


def _read(image: Path) -> bytes:
    from components.image_example_gen.conversion import readable
    from components.image_example_gen.files import Unusable
    from components.image_example_gen.options import Options

    try:
        return readable(image.read_bytes(), Options.max_pixels)
    except OSError as error:
        raise DataError(f"{image}: cannot be read: {error.strerror}") from None
    except Unusable as error:
        raise DataError(f"{image}: {error}") from None
