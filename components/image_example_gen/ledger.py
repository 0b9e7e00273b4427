"""Table of all inputs of an ingest and their outcomes, on disk to bound memory."""

from __future__ import annotations

import itertools
import tempfile
from collections import Counter
from collections.abc import Collection, Iterable, Iterator
from typing import Any

import numpy as np
import numpy.typing as npt

from components import reuse
from components.image_example_gen import scratch
from components.image_example_gen.images import THUMB
from components.image_example_gen.inputs import KEPT, PASSING, RELABELLED, USABLE, Input, Problem
from components.image_example_gen.writing import Outcome

_ORIGIN = "name, label, sha256, span, span_name"
_FATE = "split, kind, detail, duplicate_of, same_as, is_given, is_known, is_outside, drawn"
_COLUMNS = f"id, width IS NOT NULL, {_ORIGIN}, {_FATE}"
_TABLES = """
CREATE TABLE inputs (
  id INTEGER PRIMARY KEY,
  name BLOB, label BLOB, sha256 TEXT, span INTEGER, span_name TEXT,
  split TEXT, kind TEXT, detail BLOB, duplicate_of BLOB, same_as INTEGER,
  is_given INTEGER, is_known INTEGER, is_outside INTEGER, drawn TEXT,
  width INTEGER, height INTEGER, normalized TEXT, written TEXT)
"""
_BATCH = 1000
_THUMB_BYTES = THUMB * THUMB * 3


class Ledger:
    """The inputs, numbered in the order in which they are added, unit by unit."""

    def __init__(self) -> None:
        self._base = scratch.database(_TABLES)
        self._first: list[int] = []  # number of each unit's first input
        self._added = 0
        self._thumbs = tempfile.NamedTemporaryFile(prefix="perennial-")  # noqa: SIM115

    def __len__(self) -> int:
        return self._added

    def add(self, entries: Iterable[Input]) -> None:
        """Add the inputs of the next unit."""
        self._first.append(self._added)
        rows = []
        for entry in entries:
            entry.id = self._added
            self._added += 1
            name, label = scratch.to_blob(entry.name), scratch.to_blob(entry.label)
            origin = name, label, entry.sha256, entry.span, entry.span_name
            rows.append((entry.id, *origin, *_fate(entry)))
        self._base.executemany(
            f"INSERT INTO inputs (id, {_ORIGIN}, {_FATE}) "
            f"VALUES (?, {_marks(_ORIGIN)}, {_marks(_FATE)})",
            rows,
        )

    def update(self, entries: Iterable[Input]) -> None:
        """Store the changed outcomes of inputs."""
        self._base.executemany(
            f"UPDATE inputs SET ({_FATE}) = ({_marks(_FATE)}) WHERE id = ?",
            ((*_fate(entry), entry.id) for entry in entries),
        )

    def run(self, sql: str, *values: object) -> Any:
        """Run a statement on the table `inputs`. Returns the rows."""
        return self._base.execute(sql, values)

    def one(self, sql: str, *values: object) -> Any:
        """Return the first value of the first row, None without rows."""
        row = self.run(sql, *values).fetchone()
        return None if row is None else row[0]

    def count(self, condition: str = "TRUE") -> int:
        """Count the inputs that meet an SQL condition."""
        return int(self.one(f"SELECT COUNT(*) FROM inputs WHERE {condition}"))

    def values(self, column: str, condition: str) -> list[str]:
        """Return the distinct values of a column, sorted."""
        found = self.run(f"SELECT DISTINCT {column} FROM inputs WHERE {condition} ORDER BY 1")
        return [_text(value) for (value,) in found]

    def counts(self, column: str, condition: str) -> dict[str, int]:
        """Count each value of a column, the most frequent first."""
        found = self.run(
            f"SELECT {column}, COUNT(*) FROM inputs WHERE {condition} GROUP BY 1 "
            "ORDER BY 2 DESC, MIN(id)"
        )
        return {_text(value): count for value, count in found}

    def entries(
        self, condition: str = "TRUE", order: str = "id", *values: object
    ) -> Iterator[Input]:
        """Yield the inputs that meet an SQL condition.

        No input may be updated meanwhile, unless `order` is by another column than `id`.
        """
        for row in self.run(
            f"SELECT {_COLUMNS} FROM inputs WHERE {condition} ORDER BY {order}", *values
        ):
            yield _input(row)

    def batches(self, condition: str = "TRUE") -> Iterator[list[Input]]:
        """Yield lists of inputs that meet an SQL condition; these may be updated meanwhile."""
        last = -1
        while batch := list(self.entries(f"id > {last} AND {condition}", f"id LIMIT {_BATCH}")):
            last = batch[-1].id
            yield batch

    def unit(self, index: int) -> list[Input]:
        """Return the inputs of a unit."""
        first, *after = self._first[index : index + 2]
        last = after[0] if after else self._added
        return list(self.entries("id >= ? AND id < ?", "id", first, last))

    def copies(self) -> Iterator[list[Input]]:
        """Yield lists of usable inputs of the same bytes; these may be updated meanwhile."""
        several = f"SELECT sha256 FROM inputs WHERE {USABLE} GROUP BY 1 HAVING COUNT(*) > 1"
        found = self.entries(f"{USABLE} AND sha256 IN ({several})", "sha256, +id")
        for _, copies in itertools.groupby(found, lambda entry: entry.sha256):
            yield list(copies)

    def leave_out(self, window: Collection[int]) -> None:
        """Mark usable inputs of older spans whose class has no train image in the window."""
        spans = ", ".join(map(str, sorted(window)))
        taught = f"SELECT label FROM inputs WHERE {KEPT} AND split = 'train'"
        self.run(
            f"UPDATE inputs SET is_outside = TRUE WHERE {USABLE} AND span NOT IN ({spans}) "
            f"AND label NOT IN ({taught})"
        )

    def has_given(self, split: str) -> bool:
        """Return whether the source names this split for any kept input."""
        found = f"SELECT 1 FROM inputs WHERE {KEPT} AND is_given AND split = ? LIMIT 1"
        return self.one(found, split) is not None

    def by_class(self) -> Iterator[tuple[str, int, str, int, int]]:
        """Yield label, span, split, number of kept inputs, and of those whose split is drawn."""
        for label, *rest in self.run(
            "SELECT label, span, split, COUNT(*), SUM(NOT is_given) FROM inputs "
            f"WHERE {KEPT} GROUP BY 1, 2, 3 ORDER BY 1, 2, 3"
        ):
            yield scratch.to_text(label), *rest

    def of_class(self, label: str) -> Iterator[Input]:
        """Yield the kept inputs of a class."""
        yield from self.entries(f"{KEPT} AND label = ?", "id", scratch.to_blob(label))

    def redraw(self) -> None:
        """Reset the split of kept inputs to the drawn one."""
        self.run(f"UPDATE inputs SET split = drawn WHERE {KEPT} AND split != drawn")

    def moves(self) -> dict[str, tuple[str, str]]:
        """Return the written examples whose split changed: SHA-256 to old and new split.

        The new one is "" for an example that is no longer kept.
        """
        found = self.run(
            f"SELECT sha256, written, CASE WHEN {KEPT} THEN split ELSE '' END AS now FROM inputs "
            "WHERE written != now"
        )
        return {sha256: (before, now) for sha256, before, now in found}

    def of(self, ids: Collection[int]) -> dict[int, Input]:
        """Return inputs by id."""
        found = {}
        for each in ids:
            for entry in self.entries("id = ?", "id", each):
                found[each] = entry
        return found

    def settle(self, unit: int, outcomes: Iterable[Outcome]) -> None:
        """Store the outcomes of decoding, by the positions of inputs in a unit."""
        first = self._first[unit]
        broken, written = [], []
        for position, fate in outcomes:
            number = first + position
            if isinstance(fate, Problem):
                broken.append((fate.kind, scratch.to_blob(fate.detail), number))
            else:
                written.append((fate.width, fate.height, fate.normalized, number))
                self._thumbs.seek(number * _THUMB_BYTES)
                self._thumbs.write(fate.thumb)
        self._base.executemany("UPDATE inputs SET kind = ?, detail = ? WHERE id = ?", broken)
        self._base.executemany(
            "UPDATE inputs SET width = ?, height = ?, normalized = ?, written = split WHERE id = ?",
            written,
        )

    def share_problems(self) -> None:
        """Give the duplicates of an input with a problem the same problem."""
        self.run(
            "UPDATE inputs SET (kind, detail) = (SELECT kind, detail FROM inputs AS kept "
            "WHERE kept.id = inputs.same_as), same_as = NULL, duplicate_of = x'' "
            f"WHERE same_as IN (SELECT id FROM inputs WHERE NOT ({USABLE}))"
        )

    def thumbs(self) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.int64]]:
        """Return uint8 [N, bytes] on disk, a row for each input, and the numbers of kept rows."""
        kept = self.count(KEPT)
        rows = np.fromiter(
            (number for (number,) in self.run(f"SELECT id FROM inputs WHERE {KEPT} ORDER BY id")),
            np.int64,
            kept,
        )
        if not kept:
            return np.empty((0, _THUMB_BYTES), np.uint8), rows
        self._thumbs.truncate(self._added * _THUMB_BYTES)
        self._thumbs.flush()
        shape = (self._added, _THUMB_BYTES)
        return np.memmap(self._thumbs.name, np.uint8, "r", shape=shape), rows

    def classes(self, window: Collection[int]) -> list[str]:
        """Return the names of the classes.

        These include classes without usable images, which must not disappear unnoticed.
        """
        spans = ", ".join(map(str, sorted(window)))
        return self.values(
            "label",
            f"CASE WHEN {USABLE} THEN NOT is_outside "
            f"ELSE label != x'' AND kind != '{RELABELLED}' AND span IN ({spans}) END",
        )

    def bad_of_class(self, label: str, limit: int) -> list[Input]:
        """Return the first unusable inputs of a class, by name."""
        condition = f"NOT ({USABLE}) AND label = ?"
        return list(self.entries(condition, f"name, +id LIMIT {limit}", scratch.to_blob(label)))

    def splits(self) -> Iterator[tuple[str, str]]:
        """Yield SHA-256 and split of each example."""
        yield from self.run(f"SELECT sha256, split FROM inputs WHERE {KEPT}")

    def read_inputs(self) -> Iterator[tuple[object, ...]]:
        """Yield the inputs as they were read, before `judge`, as JSON-able values, by name."""
        for name, label, detail, *rest in self.run(
            "SELECT name, label, detail, kind, split, sha256, span FROM inputs "
            "ORDER BY name, label, sha256, id"
        ):
            yield scratch.to_text(name), scratch.to_text(label), scratch.to_text(detail), *rest

    def has_changed(self) -> bool:
        """Return whether an input was no longer what had been read when it was to be decoded."""
        passing = ", ".join(f"'{kind}'" for kind in PASSING)
        return self.count(f"sha256 != '' AND kind IN ({passing})") > 0

    def digest(self, split: str) -> str:
        """Return a digest of the images and labels of a split."""
        found = self.run(
            f"SELECT sha256, label FROM inputs WHERE {KEPT} AND split = ? ORDER BY 1, 2", split
        )
        return reuse.key_of_all([sha256, scratch.to_text(label)] for sha256, label in found)

    def median_side(self) -> float:
        """Return the median of the shorter sides of examples, in pixels; 0 without examples."""
        count = self.count(KEPT)
        sides = self.run(
            f"SELECT MIN(width, height) FROM inputs WHERE {KEPT} ORDER BY 1 "
            f"LIMIT {2 - count % 2} OFFSET {max(count - 1, 0) // 2}"
        ).fetchall()
        return sum(side for (side,) in sides) / len(sides) if sides else 0

    def sizes(self, condition: str, limit: int) -> list[tuple[str, int, int]]:
        """Return the first names, widths and heights of examples that meet an SQL condition."""
        found = self.run(
            f"SELECT name, width, height FROM inputs WHERE {KEPT} AND {condition} "
            f"ORDER BY name LIMIT {limit}"
        )
        return [(scratch.to_text(name), width, height) for name, width, height in found]

    def table(self) -> Counter[tuple[str, str]]:
        """Count examples by split and label."""
        found = self.run(f"SELECT split, label, COUNT(*) FROM inputs WHERE {KEPT} GROUP BY 1, 2")
        return Counter({(split, _text(label)): count for split, label, count in found})


def _marks(columns: str) -> str:
    return ", ".join("?" for _ in columns.split(","))


def _fate(entry: Input) -> tuple[object, ...]:
    kind, detail = entry.problem or (None, "")
    return (
        entry.split,
        kind,
        scratch.to_blob(detail),
        scratch.to_blob(entry.duplicate_of),
        entry.same_as,
        entry.is_given,
        entry.is_known,
        entry.is_outside,
        entry.drawn,
    )


def _input(row: tuple[Any, ...]) -> Input:
    number, is_done, name, label, sha256, span, span_name, split, kind, detail, *rest = row
    duplicate_of, same_as, is_given, is_known, is_outside, drawn = rest
    return Input(
        name=scratch.to_text(name),
        label=scratch.to_text(label),
        split=split,
        sha256=sha256,
        span=span,
        problem=None if kind is None else Problem(kind, scratch.to_text(detail)),
        duplicate_of=scratch.to_text(duplicate_of),
        span_name=span_name,
        is_given=bool(is_given),
        is_known=bool(is_known),
        is_outside=bool(is_outside),
        drawn=drawn,
        id=number,
        same_as=same_as,
        is_done=bool(is_done),
    )


def _text(value: Any) -> str:
    return scratch.to_text(value) if isinstance(value, bytes) else str(value)
