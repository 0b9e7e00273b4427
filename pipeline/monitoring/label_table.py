"""The folder of images to label: their table, and where the other files are."""

from __future__ import annotations

import csv
from collections.abc import Collection, Iterator
from pathlib import Path

from components import storage
from pipeline.errors import DataError

TABLE, ITEMS, IMAGES = "labels.csv", "items.json", "images"
COLUMNS = ("image", "label", "guess", "confidence", "reason", "request", "version")


def write_table(path: Path, lines: Collection[dict[str, str]] | Iterator[dict[str, str]]) -> None:
    """Write a table atomically."""
    with (
        storage.writing(str(path)) as staging,
        staging.open("w", encoding="utf-8", newline="") as file,
    ):
        writer = csv.DictWriter(file, COLUMNS)
        writer.writeheader()
        writer.writerows(lines)


def read_table(path: Path) -> list[dict[str, str]]:
    """Read the lines of a table. Raises DataError."""
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            lines = list(csv.DictReader(file))
    except (OSError, ValueError) as error:
        raise DataError(f"{path}: cannot be read: {error}") from error
    if any(line.keys() != set(COLUMNS) for line in lines):
        raise DataError(
            f"{path}: is not a table of `perennial ask`, whose columns are {', '.join(COLUMNS)}"
        )
    return lines
