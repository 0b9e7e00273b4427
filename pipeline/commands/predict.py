"""`perennial predict`: classify images with a model of a run, a folder, a server or weights."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from components import progress
from components.wording import counted
from pipeline.commands.files import read_labels
from pipeline.commands.options import RUNS, JsonLinesOption, RunsOption
from pipeline.errors import ConfigError, DataError
from pipeline.formatting import printable
from pipeline.output import announce

_WEIGHTS = "Options of --weights"
WeightsOption = Annotated[
    str | None,
    typer.Option(
        metavar="SOURCE",
        help="Use a published BiT with its own head in place of MODEL: an .npz file or its URL, "
        "the folder of a SavedModel, or a TF-Hub or Kaggle handle.",
    ),
]
Sha256Option = Annotated[
    str,
    typer.Option(
        metavar="DIGEST",
        help="SHA-256 of the weights. If it is missing, the command prints it and stops.",
    ),
]
VariantOption = Annotated[
    str, typer.Option(metavar="NAME", help="Architecture of the weights in an .npz file.")
]
ImageSizeOption = Annotated[
    int, typer.Option(min=1, max=4096, help="Height and width of the weights' input in pixels.")
]
TopOption = Annotated[
    int, typer.Option(min=1, metavar="K", help="Number of classes to print for each image.")
]


def predict(
    model: Annotated[
        str,
        typer.Argument(
            metavar="MODEL",
            help="A run (latest: the last finished one), a pushed version (its number or folder), "
            "or a server (HOST:PORT for gRPC, http://HOST:PORT for REST). Leave it out with "
            "--weights.",
        ),
    ],
    images: Annotated[
        list[Path] | None, typer.Argument(metavar="IMAGE", help="Image files, or folders of them.")
    ] = None,
    top: TopOption = 3,
    as_json: JsonLinesOption = False,
    workspace: RunsOption = RUNS,
    name: Annotated[
        str, typer.Option(metavar="NAME", help="Name of the model on a server.")
    ] = "perennial",
    labels: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="File with the class names of a server's model or of --weights, one per line. "
            "Default for a server: those of the same version in the workspace.",
        ),
    ] = None,
    weights: WeightsOption = None,
    sha256: Sha256Option = "",
    variant: VariantOption = "R50x1",
    image_size: ImageSizeOption = 480,
) -> None:
    """Classify images with a trained model, or with published weights.

    Formats other than JPEG and PNG, such as TIFF or WebP, are converted first, as for training.
    Files that are not usable images are listed on standard error, and the exit code is 3.
    """
    if weights is not None:
        images = [Path(model), *(images or ())]
        if labels is None:
            raise ConfigError("--weights needs --labels: a file with the names of their classes")
    elif not images:
        raise ConfigError(f"IMAGE is missing: perennial predict {model} IMAGE")
    names = read_labels(labels) if labels else []

    announce("Loading the model ...")
    from pipeline import prediction

    used: Any = model
    if weights is not None:
        used = prediction.PublishedWeights(weights, sha256, variant, image_size)
    files = unusable = 0
    for file, result in prediction.predict(
        used, images, top=top, workspace=workspace, name=name, labels=names
    ):
        files += 1
        unusable += isinstance(result, str)
        _print(file, result, as_json)
    if unusable:
        raise DataError(f"{unusable:,} of {counted(files, 'file')} cannot be used")


def classify(
    images: Annotated[list[Path], typer.Argument(metavar="IMAGE")],
    weights: WeightsOption,
    sha256: Sha256Option = "",
    labels: Annotated[Path, typer.Option(metavar="FILE")] = Path("labels.txt"),
    variant: VariantOption = "R50x1",
    image_size: ImageSizeOption = 480,
    top: TopOption = 5,
) -> None:
    """Classify images with published weights: the earlier name of `perennial predict --weights`."""
    text = "perennial classify is called perennial predict now; all its options are the same"
    progress.report("note", text=text)
    first, *others = images
    predict(
        str(first),
        others,
        top,
        labels=labels,
        weights=weights,
        sha256=sha256,
        variant=variant,
        image_size=image_size,
    )


def _print(file: Path, result: list[tuple[str, float]] | str, as_json: bool) -> None:
    if as_json:
        rows = (
            {"error": result}
            if isinstance(result, str)
            else {"classes": [{"label": label, "probability": p} for label, p in result]}
        )
        print(json.dumps({"file": str(file), **rows}))
    elif isinstance(result, str):
        print(printable(f"{file}: {result}"), file=sys.stderr)
    else:
        shares = ", ".join(f"{label} {share:.1%}" for label, share in result)
        print(printable(f"{file}: {shares}"))
