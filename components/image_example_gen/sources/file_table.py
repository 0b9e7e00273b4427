"""Table of the labelled files of a source, on disk, and their units."""

from __future__ import annotations

import dataclasses
import functools
import json
import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, NamedTuple, overload

from components.image_example_gen import files, scratch
from components.image_example_gen.sources.base import Content, Item, Unit, printable

# A unit becomes a TFRecord shard per split, and is processed by one worker. Units depend only on
# the data, not on the runner or number of workers, so that the cache is valid for all.
UNIT_BYTES = 64 * 2**20
UNIT_FILES = 1_000
MIN_UNITS = 2  # so that a second worker is used for small sets

# Files with these problems are not hashed: a link may lead outside of the data, and clients of an
# unreachable store try for minutes.
_NOT_READ = ("link", "manifest", "unreadable", "unreachable")

_COLUMNS = "name, label, split, kind, detail, is_folder, size"
_TABLES = """
CREATE TABLE found (
  rank INTEGER PRIMARY KEY,
  name BLOB, label BLOB, split TEXT, kind TEXT, detail BLOB, is_folder INTEGER, size INTEGER);
CREATE TABLE dealt (
  unit INTEGER, rank INTEGER,
  name BLOB, label BLOB, split TEXT, kind TEXT, detail BLOB, is_folder INTEGER, size INTEGER,
  PRIMARY KEY (unit, rank)) WITHOUT ROWID
"""


class SourceFile(NamedTuple):
    """One labelled file. `name` is its path relative to the root, with forward slashes.

    `is_folder` marks a folder that cannot be listed, which has a problem.
    """

    name: str
    label: str = ""
    split: str = ""
    problem: tuple[str, str] | None = None
    is_folder: bool = False
    size: int = 0


@dataclasses.dataclass(frozen=True)
class FileUnit(Unit):
    """A unit of files below a root."""

    root: str
    files: tuple[SourceFile, ...]
    max_bytes: int

    def items(self) -> Iterator[Item]:
        for file in self.files:
            yield Item(
                name=printable(file.name),
                label=file.label,
                load=self._loader(file),
                size=file.size,
                split=file.split,
                problem=file.problem,
            )

    def _loader(self, file: SourceFile) -> Callable[[], bytes]:
        if file.problem and file.problem[0] in _NOT_READ:
            return functools.partial(_refuse, *file.problem)
        return functools.partial(files.read, files.join(self.root, file.name), self.max_bytes)


def _refuse(kind: str, detail: str) -> bytes:
    raise files.Unusable(kind, detail)


class FileTable(Sequence[Unit]):
    """The units of the files below a root.

    Args:
      root: path or URI.
      found: the files.
      max_bytes: largest size of a file that can be used.
      by_name: whether they are sorted; otherwise their order is kept.
    """

    def __init__(
        self, root: str, found: Iterable[SourceFile], max_bytes: int, *, by_name: bool = False
    ) -> None:
        self._root, self._max_bytes = root, max_bytes
        self._found = Files(found)
        self.files, size = self._found.totals
        wanted = max(MIN_UNITS, math.ceil(size / UNIT_BYTES), math.ceil(self.files / UNIT_FILES))
        self._units = min(self.files, wanted)
        self._found.deal(self._units, "name" if by_name else "rank")

    def __len__(self) -> int:
        return self._units

    @overload
    def __getitem__(self, index: int) -> Unit: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[Unit]: ...
    def __getitem__(self, index: int | slice) -> Unit | Sequence[Unit]:
        if isinstance(index, slice):
            return [self[each] for each in range(*index.indices(self._units))]
        if not -self._units <= index < self._units:
            raise IndexError(index)
        return FileUnit(self._root, self._found.of_unit(index % self._units), self._max_bytes)

    @property
    def contents(self) -> Iterator[Content]:
        """One entry for each file; a file with a problem may not exist."""
        for index in range(self._units):
            for file in self._found.of_unit(index):
                yield Content(
                    json.dumps([file.name, file.label, file.split, file.problem]),
                    "" if file.problem else files.join(self._root, file.name),
                )


class Files:
    """A list of files on disk."""

    def __init__(self, found: Iterable[SourceFile]) -> None:
        self._base = scratch.database(_TABLES)
        self._base.executemany(
            f"INSERT INTO found ({_COLUMNS}) VALUES (?, ?, ?, ?, ?, ?, ?)", map(_row, found)
        )

    def __iter__(self) -> Iterator[SourceFile]:
        yield from map(_file, self._base.execute(f"SELECT {_COLUMNS} FROM found ORDER BY rank"))

    def names(self, condition: str = "TRUE") -> Iterator[str]:
        """Yield the names of the files that meet an SQL condition."""
        rows = self._base.execute(f"SELECT name FROM found WHERE {condition} ORDER BY rank")
        return (scratch.to_text(name) for (name,) in rows)

    @property
    def totals(self) -> tuple[int, int]:
        """The number of files, and the sum of their bytes."""
        count, size = self._base.execute("SELECT COUNT(*), SUM(size) FROM found").fetchone()
        return count, size or 0

    def deal(self, units: int, order: str) -> None:
        """Distribute the files to units, in turn, and drop the list."""
        rows = self._base.execute(f"SELECT {_COLUMNS} FROM found ORDER BY {order}")
        self._base.executemany(
            "INSERT INTO dealt VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)",
            ((rank % units, rank, *row) for rank, row in enumerate(rows)),
        )
        self._base.execute("DROP TABLE found")

    def of_unit(self, index: int) -> tuple[SourceFile, ...]:
        """Return the files of a unit."""
        rows = f"SELECT {_COLUMNS} FROM dealt WHERE unit = ? ORDER BY rank"
        return tuple(map(_file, self._base.execute(rows, (index,))))


class Names:
    """Iterable of the names of files without a problem."""

    def __init__(self, found: Files) -> None:
        self._found = found

    def __iter__(self) -> Iterator[str]:
        return self._found.names("kind IS NULL")


def _row(file: SourceFile) -> tuple[object, ...]:
    kind, detail = file.problem or (None, "")
    name, label = scratch.to_blob(file.name), scratch.to_blob(file.label)
    return name, label, file.split, kind, scratch.to_blob(detail), file.is_folder, file.size


def _file(row: tuple[Any, ...]) -> SourceFile:
    name, label, split, kind, detail, is_folder, size = row
    problem = None if kind is None else (kind, scratch.to_text(detail))
    name, label = scratch.to_text(name), scratch.to_text(label)
    return SourceFile(name, label, split, problem, bool(is_folder), size)
