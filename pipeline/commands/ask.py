"""`perennial ask` and `perennial label`: from recorded traffic to labelled images."""

from __future__ import annotations

import datetime
import os
from pathlib import Path
from typing import Annotated

import typer

from components.wording import counted
from pipeline.commands.monitor import (
    DaysOption,
    ExamplesOption,
    ModelsOption,
    UntilOption,
    instant,
)
from pipeline.commands.options import ConfigOption, SettingsOption, WorkspaceOption, load
from pipeline.commands.traffic import LogsArgument
from pipeline.errors import ConfigError
from pipeline.noise import redirect_output
from pipeline.output import announce


def ask(
    logs: LogsArgument,
    output: Annotated[Path, typer.Argument(metavar="FOLDER", help="Folder to create.")],
    number: Annotated[int, typer.Option(min=1, metavar="N", help="Maximum number of images.")] = 50,
    config: ConfigOption = None,
    workspace: WorkspaceOption = None,
    days: DaysOption = None,
    until: UntilOption = None,
    examples: ExamplesOption = None,
    models: ModelsOption = None,
    settings: SettingsOption = None,
) -> None:
    """Choose the recorded images that are most worth a label, and copy them to a folder.

    These are images with uncertain predictions, images far from the training images, and images on
    which two versions disagree. Near duplicates are skipped. Fill in the column label of
    FOLDER/labels.csv with `perennial label FOLDER` or a spreadsheet, then pass the file to
    `perennial feedback`, which skips rows without a label.
    """
    loaded = load(config, {"workspace": workspace}, settings).config
    end = instant(until)
    since = end - datetime.timedelta(days=days or loaded.monitor.window_days)
    announce(f"Choosing images from {logs} ...")
    with redirect_output(Path(os.devnull)):
        from pipeline import label_requests

        table, reasons = label_requests.write(
            loaded, logs, output, number, since, end, examples=examples, models=models
        )
    counts = ", ".join(f"{reasons.count(each)} {each}" for each in dict.fromkeys(reasons))
    print(f"{table}: {counted(len(reasons), 'image')}: {counts}")


def label(
    folder: Annotated[
        Path, typer.Argument(metavar="FOLDER", help="Folder written by `perennial ask`.")
    ],
    port: Annotated[int, typer.Option(min=1, max=65535, help="Port on loopback.")] = 8701,
) -> None:
    """Serve a page on which to label images with the keys 1 to 9. Stop it with Ctrl-C."""
    from pipeline.monitoring import label as labelling

    labelling.application(folder)
    print(f"http://127.0.0.1:{port}/: label the images of {folder}; Ctrl-C ends it", flush=True)
    try:
        labelling.serve(folder, port)
    except OSError as error:
        raise ConfigError(f"--port {port}: {error.strerror}") from error
