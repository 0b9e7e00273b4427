"""A manifest: CSV with the columns path, label and perhaps split, or JSON lines of these keys.

Paths are relative to the manifest's folder, absolute, or URIs. What is not listed is not read.
"""

# Locations may be URIs, and pathlib would make other ones of them.
# ruff: noqa: PTH116, PTH120

from __future__ import annotations

import csv
import io
import json
import os
from collections.abc import Iterator, Mapping
from typing import Any

from components.errors import BadDataError
from components.image_example_gen import files
from components.image_example_gen.options import Options
from components.image_example_gen.source_name import is_remote
from components.image_example_gen.sources import folder
from components.image_example_gen.sources.base import Content, Listing, printable, split_name

COLUMNS = ("path", "label")
_MAX_BYTES = 2**30


def listing(location: str, options: Options) -> Listing:
    """List a manifest. Raises BadDataError where it cannot be read as one."""
    try:
        text = files.read(location, _MAX_BYTES).decode("utf-8-sig")
    except (files.Unusable, UnicodeDecodeError) as error:
        raise BadDataError(f"{location}: not a readable manifest ({error})") from error
    rows = _csv_rows(text, location) if location.lower().endswith(".csv") else _json_rows(text)
    root = os.path.dirname(location)
    sources = [_source_file(row, f"line {line}", root) for line, row in rows]
    return Listing(
        units=folder.units(root, sources, options),
        contents=folder.contents(root, sources) or [Content("no rows")],
        hint="expected lines with a path and a label",
    )


def _source_file(row: Mapping[Any, Any] | str, line: str, root: str) -> folder.SourceFile:
    """A row as a file; `row` is a text where it says what is wrong."""
    if isinstance(row, str):
        return folder.SourceFile(line, problem=("manifest", row))
    values = {
        str(key).strip().lower(): "" if value is None else str(value).strip()
        for key, value in row.items()
    }
    path, label, split = (values.get(name, "") for name in (*COLUMNS, "split"))
    if not path:
        return folder.SourceFile(line, problem=("manifest", "no path"))
    if not label:
        return folder.SourceFile(path, problem=("manifest", f"{line}: no label"))
    if (known := split_name(split)) is None:
        return folder.SourceFile(path, problem=("manifest", f"{line}: unknown split {split!r}"))
    size = 0
    if not is_remote(files.join(root, path)):
        try:
            size = os.stat(os.path.join(root, path)).st_size
        except (OSError, ValueError) as error:
            reason = error.strerror if isinstance(error, OSError) else str(error)
            return folder.SourceFile(path, problem=("unreadable", str(reason)))
    return folder.SourceFile(path, label=printable(label), split=known, size=size)


def _csv_rows(text: str, location: str) -> Iterator[tuple[int, Mapping[Any, Any] | str]]:
    try:
        reader = csv.DictReader(io.StringIO(text, newline=""), strict=True)
        header = [str(name).strip().lower() for name in reader.fieldnames or ()]
        missing = [name for name in COLUMNS if name not in header]
        if missing:
            raise BadDataError(
                f"{location}: the first line must name the columns path, label and perhaps split, "
                f"separated by commas; {' and '.join(missing)} not found in {header}"
            )
        for row in reader:
            extra = row.pop(None, None)
            yield reader.line_num, "more fields than columns" if extra else row
    except csv.Error as error:
        raise BadDataError(f"{location}: not CSV: line {reader.line_num}: {error}") from error


def _json_rows(text: str) -> Iterator[tuple[int, Mapping[Any, Any] | str]]:
    for number, line in enumerate(text.split("\n"), start=1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except (ValueError, RecursionError) as error:
            yield number, f"not JSON: {error}"
            continue
        yield number, row if isinstance(row, dict) else "not a JSON object"
