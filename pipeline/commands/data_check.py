"""`perennial data check`: the ingest and its checks alone, without a workspace."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from pipeline.commands.options import DataOptions, SettingsOptions, with_options


@with_options(images=DataOptions, common=SettingsOptions)
def check(
    quarantine: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="Write the quarantined inputs to this file, one JSON object per line.",
        ),
    ] = None,
    *,
    images: DataOptions,
    common: SettingsOptions,
) -> None:
    """Read every image as a run would, and report what can be used. Nothing is trained or kept.

    The first lines are the classes, splits and spans that were found. If --workspace names the
    workspace of earlier runs, images keep the splits that they have there.
    """
    from pipeline import data_check

    data_check.check(common.load(images).config, common.log_format.resolved, quarantine)
