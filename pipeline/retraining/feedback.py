"""Corrected labels from serving, added to the data as a span."""

from __future__ import annotations

import csv
import dataclasses
import datetime
import hashlib
import io
import json
import re
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import NamedTuple

from PIL import Image

from components import storage
from components.errors import BadDataError
from components.image_example_gen import similar, source_name, spans
from components.image_example_gen.dataset import list_data
from components.image_example_gen.options import Options
from components.wording import counted
from pipeline.errors import ConfigError, DataError

HEADERS = {"image": ("image", "path", "file"), "label": ("label", "true label", "class")}
BAD_ROWS = ".feedback-bad-rows.jsonl"  # hidden, so that no ingest takes it for an image


class BadRow(NamedTuple):
    """An unusable line of the CSV file, with the reason."""

    line: int
    image: str
    label: str
    reason: str


@dataclasses.dataclass(frozen=True)
class Feedback:
    """The result of `add`: each row is one of `images`, a duplicate, or bad."""

    span: Path
    rows: int
    images: int
    duplicates: int
    bad: tuple[BadRow, ...]

    def __str__(self) -> str:
        return (
            f"{counted(self.rows, 'row')} = {counted(self.images, 'image')} + "
            f"{counted(self.duplicates, 'duplicate')} + {len(self.bad):,} bad"
        )


@dataclasses.dataclass(frozen=True)
class _Row:
    line: int
    image: str
    label: str
    content: bytes
    sha256: str


def add(
    table: Path,
    source: str,
    today: datetime.date | None = None,
    new_classes: Collection[str] = (),
) -> Feedback:
    """Make the next span of `source` from a CSV file with the columns `image` and `label`.

    The span appears atomically, with one folder per class. Image paths are relative to the file. If
    the data has classes, another label is bad: a mistyped one would become a class of its own.

    Args:
      table: the CSV file.
      source: a local source with {SPAN}, or {YYYY}, {MM} and {DD}, and perhaps {VERSION}.
      today: the day of a dated span, unless there is one of that day or later; None: from the
        clock.
      new_classes: labels that are accepted although no span has them.

    Raises:
        ConfigError: `source` has no spans, or is not on this machine.
        DataError: the table or the data cannot be read, or no row is usable; nothing is written.
    """
    root, location = _root(source)
    good, bad = _read(table)
    good = list(_known(good, bad, _classes(location), new_classes))
    rows = list(_agreed(good, bad))
    if not rows:
        first = f": line {bad[0].line}: {bad[0].reason}" if bad else ""
        raise DataError(f"{table}: no row can be used{first}")
    distinct = {row.sha256: row for row in reversed(rows)}
    root.mkdir(parents=True, exist_ok=True)
    with storage.locked(root):
        span = _next(location, today or datetime.date.today())
        with storage.writing_folder(span) as staging:
            for row in distinct.values():
                suffix = Path(row.image).suffix.lower()
                file = staging / row.label / f"{row.sha256[:16]}{suffix}"
                file.parent.mkdir(parents=True, exist_ok=True)
                file.write_bytes(row.content)
            lines = [json.dumps(each._asdict(), ensure_ascii=False) for each in sorted(bad)]
            (staging / BAD_ROWS).write_text("".join(f"{line}\n" for line in lines), "utf-8")
    return Feedback(
        span,
        rows=len(rows) + len(bad),
        images=len(distinct),
        duplicates=len(rows) - len(distinct),
        bad=tuple(sorted(bad)),
    )


def _root(source: str) -> tuple[Path, str]:
    name = source_name.parse(source)
    if not (name.is_local and name.has_spans):
        raise ConfigError(
            f"data.source {source!r}: feedback becomes a span, so this must be a local path with "
            "{SPAN} or {YYYY}-{MM}-{DD} in it"
        )
    return Path(source_name.fixed_part(name.location)), name.location


def _read(table: Path) -> tuple[list[_Row], list[BadRow]]:
    try:
        text = table.read_text("utf-8-sig")
    except OSError as error:
        raise DataError(f"{table}: cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise DataError(f"{table}: is not UTF-8") from error
    reader = csv.DictReader(io.StringIO(text, newline=""))
    columns = {name.strip().lower(): name for name in reader.fieldnames or () if name}
    found = {
        what: next((columns[name] for name in names if name in columns), None)
        for what, names in HEADERS.items()
    }
    if None in found.values():
        raise DataError(
            f"{table}: the first line must name the columns image and label, not "
            f"{', '.join(reader.fieldnames or ()) or 'nothing'}"
        )
    good, bad = [], []
    for row in reader:
        image, label = ((row.get(found[what] or "") or "").strip() for what in HEADERS)
        try:
            content = _load(table.parent / image, image, label)
        except ValueError as error:
            bad.append(BadRow(reader.line_num, image, label, str(error)))
            continue
        digest = hashlib.sha256(content).hexdigest()
        good.append(_Row(reader.line_num, image, label, content, digest))
    return good, bad


def _load(path: Path, image: str, label: str) -> bytes:
    """Read the image's bytes. Raises ValueError if they or the label are unusable."""
    if not image:
        raise ValueError("no image")
    if not label:
        raise ValueError("no label")
    if label.startswith(".") or re.search(r"[/\\\x00-\x1f]", label):
        raise ValueError("the label cannot be a folder's name")
    try:
        content = path.read_bytes()
        with Image.open(io.BytesIO(content)) as picture:
            picture.verify()
    except OSError as error:
        raise ValueError(error.strerror or "not an image") from error
    except Exception as error:  # Pillow's many
        raise ValueError(f"not an image: {type(error).__name__}") from error
    return content


def _classes(location: str) -> set[str]:
    """List the classes of all spans. Raises DataError on failure."""
    every = Options(first_span=0)
    try:
        data = list_data(location, every, spans.resolve(location, every))
    except spans.NoSpanError:
        return set()
    except BadDataError as error:
        raise DataError(str(error)) from error
    return {item.label for unit in data.units for item in unit.items() if not item.problem}


def _known(
    rows: list[_Row], bad: list[BadRow], known: set[str], new_classes: Collection[str]
) -> Iterator[_Row]:
    """Yield the rows whose label is an existing or allowed class; add the others to `bad`."""
    alike = {similar.skeleton(name): name for name in known}
    for row in rows:
        seen = alike.get(similar.skeleton(row.label))
        if row.label in known or not known or (row.label in new_classes and seen is None):
            yield row
            continue
        nearest = seen or similar.nearest(row.label, known)
        reason = f"no class of the data is called {row.label!r}"
        reason += f"; {nearest!r} is the nearest" if nearest else ""
        reason += "" if seen else "; --new-class lets a new one through"
        bad.append(BadRow(row.line, row.image, row.label, reason))


def _agreed(rows: list[_Row], bad: list[BadRow]) -> Iterator[_Row]:
    """Yield the rows whose image has one label; add the others to `bad`."""
    labels: dict[str, set[str]] = {}
    for row in rows:
        labels.setdefault(row.sha256, set()).add(row.label)
    for row in rows:
        if len(labels[row.sha256]) == 1:
            yield row
            continue
        shown = ", ".join(map(repr, sorted(labels[row.sha256])))
        bad.append(BadRow(row.line, row.image, row.label, f"the image is labelled {shown}"))


def _next(location: str, today: datetime.date) -> Path:
    """Return the folder of the next span, which must be the newest for its labels to count.

    Its number is the highest plus one. A dated one is today's, or the day after the latest if that
    is today or later, as in an eastern time zone. It is never another version of a day: only the
    highest version of a span is read, and the images of the others would be lost.
    """
    try:
        known = spans.resolve(location, Options(first_span=0))
    except spans.NoSpanError:
        known = []
    except BadDataError as error:
        raise ConfigError(str(error)) from error
    number = max((span.number for span in known), default=0) + 1
    if "{YYYY}" in location:
        number = max(number, spans.day(today))
    path = spans.location(location, number)
    if not spans.is_one(path, location):
        raise ConfigError(
            f"{location}: has no place for span {number}; give its number more digits"
        )
    return Path(path)
