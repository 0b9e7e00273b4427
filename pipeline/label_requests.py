"""The recorded images that are most worth a label, as a folder for a person."""

from __future__ import annotations

import datetime
from pathlib import Path

from pipeline.errors import DataError
from pipeline.monitoring import ask, logs, monitor
from pipeline.monitoring.label_table import TABLE
from pipeline.settings import Config


def write(
    config: Config,
    recorded: Path,
    folder: Path,
    number: int,
    since: datetime.datetime,
    end: datetime.datetime,
    *,
    examples: str | None,
    models: str | None,
) -> tuple[Path, list[str]]:
    """Choose at most `number` images of the time and write them and a table into `folder`.

    Returns the table and the reason for each image. Raises DataError where there is none to choose
    from, and as `monitor.find_inputs`.
    """
    place = monitor.find_inputs(config, examples, models)
    rows = [row for row in logs.read(recorded, since, end).rows if row.model == config.name]
    version = ask.main_version([row for row in rows if row.image])
    if not version:
        raise DataError(
            f"{recorded}: no image was recorded and answered since {since:%Y-%m-%d %H:%M}"
        )
    served = monitor.Models(place)
    answers = served.answers(version)
    if isinstance(answers, str):
        raise DataError(f"{recorded}: no image to choose from: {answers}")
    chosen = ask.select(rows, answers, served.embed, monitor.labelled_images(place), number)
    ask.write(chosen, answers.classes, folder)
    return folder / TABLE, [each.reason for each in chosen]
