"""A manifest: a table with the columns path, label and optionally split, or JSON lines.

Paths are relative to the manifest's folder, absolute, or URIs. Files that are not listed are not
read. Tables are CSV, with commas, semicolons or tabs, or Parquet.
"""

# Locations may be URIs, which pathlib would change.
# ruff: noqa: PTH110, PTH116, PTH120, PTH208

from __future__ import annotations

import csv
import io
import itertools
import json
import os
import re
import urllib.parse
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from pathlib import PurePosixPath
from typing import Any, BinaryIO

from components import storage
from components.errors import BadDataError
from components.image_example_gen import files
from components.image_example_gen.options import Options
from components.image_example_gen.sources.base import Content, Listing, label_of, split_name
from components.image_example_gen.sources.file_table import FileTable, SourceFile
from components.wording import counted

COLUMNS = ("path", "label")
_DELIMITERS = ",;\t"
_HEAD_BYTES = 2**16
_BATCH = 10_000  # rows of a Parquet file
_WINDOWS = re.compile(r"[A-Za-z]:[\\/]|\\\\")
_BY_WEB = ("http://", "https://", "ftp://")
_UTF_16 = (b"\xff\xfe", b"\xfe\xff")

# Number of a line, and its values by column, or a problem.
Row = tuple[int, Mapping[Any, Any] | str]


def listing(location: str, options: Options) -> Listing:
    """List a manifest. Raises BadDataError if it cannot be read."""
    root = os.path.dirname(location)
    paths = _Paths(root)
    ignored: Counter[str] = Counter()
    labels: set[str] = set()
    splits: Counter[str] = Counter()

    def found(rows: Iterable[Row]) -> Iterator[SourceFile]:
        for line, row in rows:
            if isinstance(row, Mapping) and not any(map(_has_value, row.values())):
                ignored["empty row"] += 1
            else:
                yield _source_file(row, f"line {line}", paths)

    def noted(sources: Iterable[SourceFile]) -> Iterator[SourceFile]:
        for file in sources:
            if not file.problem:
                labels.add(file.label)
                splits[file.split] += 1
            yield file

    try:
        with files.stream(location) as file:
            sources = noted(_reachable(found(_rows(file, location)), root))
            table = FileTable(root, sources, options.max_bytes)
    except files.Unusable as error:
        raise BadDataError(f"{location}: not a readable manifest ({error})") from error
    told = ", ".join(f"{count:,} {split}" for split, count in sorted(splits.items()) if split)
    return Listing(
        units=table,
        contents=lambda: table.contents if table.files else [Content("no rows")],
        inputs=table.files,
        is_remote=storage.is_uri(location) or paths.remote > 0,
        ignored=ignored,
        hint="expected lines with a path and a label",
        reading=[
            ("Classes", f"{len(labels):,} in the column label of {counted(table.files, 'row')}"),
            ("Splits", f"the column split: {told}" if told else "by the content of each image"),
        ],
    )


def _rows(file: BinaryIO, location: str) -> Iterator[Row]:
    """Yield the rows of a manifest, of which only a part is in memory."""
    lowered = location.lower()
    if lowered.endswith(".parquet"):
        return _parquet_rows(file, location)
    if lowered.endswith((".csv", ".tsv")):
        return _csv_rows(_decoded(file, location, newline=""), location)
    return _json_rows(_decoded(file, location, newline="\n"))


def _decoded(file: BinaryIO, location: str, newline: str) -> Iterator[str]:
    """Yield the lines with their ends; for `newline` see `open`."""
    head = file.read(_HEAD_BYTES)
    file.seek(0)
    if head.startswith(_UTF_16):  # Excel's "Unicode text"
        encoding = "utf-16"
    elif head.count(b"\0") > len(head) // 4:
        raise BadDataError(f"{location}: not text, or UTF-16 without its mark; save it as UTF-8")
    else:
        encoding = "utf-8-sig"
    text = io.TextIOWrapper(file, encoding, newline=newline)
    try:
        yield from text
    except UnicodeDecodeError:
        text.detach()  # otherwise it closes the file
        raise _not_utf_8(file, location) from None


def _not_utf_8(file: BinaryIO, location: str) -> BadDataError:
    file.seek(0)
    where = ""
    for number, line in enumerate(file, start=1):
        try:
            line.decode()
        except UnicodeDecodeError as error:
            where = f"line {number}: byte {line[error.start]:#04x} is not UTF-8, and so "
            break
    return BadDataError(
        f"{location}: {where}this may be Latin-1 or Windows-1252; save it as UTF-8 (in Excel: CSV "
        "UTF-8), or convert it with iconv -f WINDOWS-1252 -t UTF-8"
    )


def _has_value(value: object) -> bool:
    return value is not None and (not isinstance(value, str) or bool(value.strip()))


def _source_file(row: Mapping[Any, Any] | str, line: str, paths: _Paths) -> SourceFile:
    """Convert a row to a file; `row` is a text if it is a problem."""
    if isinstance(row, str):
        return SourceFile(line, problem=("manifest", row))
    values = {str(key).strip().lower(): value for key, value in row.items()}
    path, split = values.get("path"), values.get("split")
    if not _has_value(path):
        return SourceFile(line, problem=("manifest", "no path"))
    if not isinstance(path, str):
        return SourceFile(line, problem=("manifest", "the path is not a text"))
    path = path.strip()
    try:
        label = label_of("" if values.get("label") is None else values["label"])
    except ValueError as error:
        return SourceFile(path, problem=("manifest", f"{line}: {error}"))
    known = split_name("" if split is None else str(split))
    if known is None:
        return SourceFile(path, problem=("manifest", f"{line}: unknown split {split!r}"))
    path, size, problem = paths.find(path)
    if problem:
        return SourceFile(path, problem=(problem[0], f"{line}: {problem[1]}"))
    return SourceFile(path, label=label, split=known, size=size)


def _reachable(sources: Iterable[SourceFile], root: str) -> Iterator[SourceFile]:
    """Give all files of unreachable stores a problem, after one request to each store.

    The store of the manifest itself is reachable.
    """
    reasons: dict[str, str] = {_store(root): ""}
    for file in sources:
        path = files.join(root, file.name)
        if not file.problem and storage.is_uri(path):
            store = _store(path)
            if store not in reasons:
                reasons[store] = files.unreachable(path)
            if reasons[store]:
                problem = ("unreachable", f"{store}: {reasons[store]}")
                file = file._replace(label="", split="", problem=problem)
        yield file


def _store(uri: str) -> str:
    """Return the scheme and bucket or host of a URI."""
    scheme, mark, rest = uri.partition("://")
    return f"{scheme}{mark}{rest.partition('/')[0]}"


def _csv_rows(lines: Iterator[str], location: str) -> Iterator[Row]:
    first = next(lines, "")
    delimiter = _delimiter(first)
    reader = csv.DictReader(itertools.chain([first], lines), strict=True, delimiter=delimiter)
    try:
        header = [str(name).strip().lower() for name in reader.fieldnames or ()]
        missing = [name for name in COLUMNS if name not in header]
        if missing:
            raise BadDataError(
                f"{location}: the first line must name the columns path, label and perhaps split, "
                f"separated by commas; {' and '.join(missing)} not found in {header}"
            )
        twice = [name for name in (*COLUMNS, "split") if header.count(name) > 1]
        if twice:
            raise BadDataError(f"{location}: the first line names {' and '.join(twice)} twice")
        for row in reader:
            extra = row.pop(None, None)
            bad = any(map(_has_value, extra or ()))
            yield reader.line_num, "more fields than columns" if bad else row
    except csv.Error as error:
        raise BadDataError(f"{location}: not CSV: line {reader.line_num}: {error}") from error


def _delimiter(line: str) -> str:
    """Return the delimiter that makes the first line valid, else a comma."""
    first = line.lower().strip()
    for delimiter in _DELIMITERS:
        names = [name.strip(' "') for name in first.split(delimiter)]
        if all(column in names for column in COLUMNS):
            return delimiter
    return ","


def _parquet_rows(file: BinaryIO, location: str) -> Iterator[Row]:
    import pyarrow.parquet  # takes a while, and only Parquet needs it

    try:
        table = pyarrow.parquet.ParquetFile(file)
        names = table.schema_arrow.names
        columns = {name.strip().lower(): name for name in names}
        missing = [name for name in COLUMNS if name not in columns]
        if missing:
            raise BadDataError(
                f"{location}: must have the columns path, label and perhaps split; "
                f"{' and '.join(missing)} not found in {sorted(columns)}"
            )
        wanted = [columns[name] for name in (*COLUMNS, "split") if name in columns]
        batches = table.iter_batches(batch_size=_BATCH, columns=wanted)
        rows = itertools.chain.from_iterable(batch.to_pylist() for batch in batches)
        yield from enumerate(rows, start=1)
    except (pyarrow.ArrowException, OSError, ValueError) as error:
        reason = next(iter(str(error).splitlines()), type(error).__name__)
        raise BadDataError(f"{location}: not a readable Parquet file: {reason}") from error


def _json_rows(lines: Iterator[str]) -> Iterator[Row]:
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            row = json.loads(line, object_pairs_hook=_no_key_twice)
        except (ValueError, RecursionError) as error:
            yield number, f"not JSON: {error}"
            continue
        yield number, row if isinstance(row, dict) else "not a JSON object"


def _no_key_twice(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    counts = Counter(key.strip().lower() for key, _ in pairs)
    twice = [key for key in (*COLUMNS, "split") if counts[key] > 1]
    if twice:
        raise ValueError(f"{' and '.join(twice)} given twice")
    return dict(pairs)


class _Paths:
    """Finds files relative to `root`, a folder or URI."""

    def __init__(self, root: str) -> None:
        self._root = root
        self._names: dict[str, dict[str, str]] = {}
        self.remote = 0  # number of URIs

    def find(self, path: str) -> tuple[str, int, tuple[str, str] | None]:
        """Return the path or URI to read, bytes (0: unknown), and kind and detail of a problem."""
        if path.lower().startswith("file://"):
            path = urllib.parse.unquote(urllib.parse.urlsplit(path).path)
        if path.lower().startswith(_BY_WEB):
            scheme = path.partition("://")[0]
            detail = f"{scheme}:// is not read; download the images and give their paths"
            return path, 0, ("unreachable", detail)
        full = files.join(self._root, path)
        if storage.is_uri(full):
            self.remote += 1
            return path, 0, None
        try:
            return path, os.stat(full).st_size, None
        except (OSError, ValueError) as error:
            reason = error.strerror if isinstance(error, OSError) else str(error)
            detail = str(reason)
            if isinstance(error, FileNotFoundError | NotADirectoryError):
                detail += self._advice(path)
            return path, 0, ("unreadable", detail)

    def _advice(self, path: str) -> str:
        if _WINDOWS.match(path):
            return (
                "; it is a path of Windows: give one of this machine, or relative to the manifest"
            )
        looked = "" if path.startswith("/") else f"; looked for in {self._root or '.'}"
        if "\\" in path:
            other = path.replace("\\", "/")
            there = os.path.exists(os.path.join(self._root, other))
            return f"{looked}; it has backslashes, {'and' if there else 'but'} {other} is " + (
                "there: write /" if there else "not there either"
            )
        if not PurePosixPath(path).suffix:
            name = PurePosixPath(path).name
            if found := self._stems(path).get(name):
                return f"{looked}; {found} is there: give names with their extension"
            return f"{looked}; it has no extension"
        return looked

    def _stems(self, path: str) -> dict[str, str]:
        """Return the names in the folder of the path, by the name without extension."""
        folder = os.path.join(self._root, str(PurePosixPath(path).parent))
        if folder not in self._names:
            try:
                names = sorted(os.listdir(folder), reverse=True)
            except OSError:
                names = []
            self._names[folder] = {PurePosixPath(name).stem: name for name in names}
        return self._names[folder]
