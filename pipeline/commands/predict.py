"""`perennial predict`: classify images with a model of a run, a folder or a server."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from components.wording import counted
from pipeline.commands.files import read_labels
from pipeline.commands.options import RUNS, JsonLinesOption, RunsOption
from pipeline.console import printable
from pipeline.errors import DataError

if TYPE_CHECKING:
    from pipeline.prediction import Classes


def predict(
    model: Annotated[
        str,
        typer.Argument(
            metavar="MODEL",
            help="Run (latest: the last that finished), number or folder of a pushed version, or "
            "server: HOST:PORT for gRPC, http://HOST:PORT for REST.",
        ),
    ],
    images: Annotated[
        list[Path], typer.Argument(metavar="IMAGE", help="Image files, or folders of them.")
    ],
    top: Annotated[
        int, typer.Option(min=1, metavar="K", help="Classes to print for each image.")
    ] = 3,
    as_json: JsonLinesOption = False,
    workspace: RunsOption = RUNS,
    name: Annotated[
        str, typer.Option(metavar="NAME", help="Name of the model on a server.")
    ] = "perennial",
    labels: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="Class names of a server's model, one per line. Default: those of the version in "
            "the workspace that has the same number.",
        ),
    ] = None,
) -> None:
    """Classify images with a trained model.

    Formats other than JPEG and PNG, such as TIFF or WebP, are converted first, as for training.
    Files that are no usable image are named on standard error, with exit code 3.
    """
    from pipeline import prediction

    names = read_labels(labels) if labels else []
    results = prediction.predict(
        model, images, top=top, workspace=workspace, name=name, labels=names
    )
    files = unusable = 0
    for file, result in results:
        files += 1
        unusable += isinstance(result, str)
        _print(file, result, as_json)
    if unusable:
        raise DataError(f"{unusable:,} of {counted(files, 'file')} cannot be used")


def _print(file: Path, result: Classes | str, as_json: bool) -> None:
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
