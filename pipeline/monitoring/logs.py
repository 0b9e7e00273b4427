"""The folder of recorded traffic: append-only TFRecord files, which are removed as a whole.

A file is named after the time of its first request, and closed when it is large or old enough. Many
recorders can share a folder. A killed recorder leaves at most one cut-off record, which is skipped.
"""

from __future__ import annotations

import contextlib
import dataclasses
import datetime
import os
import time
import uuid
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import BinaryIO, NamedTuple

from components import framing
from pipeline.errors import ConfigError
from pipeline.monitoring import rows
from pipeline.monitoring.retention import STAMP, SUFFIX, began, files, modified, prune
from pipeline.monitoring.rows import Row


class Limits(NamedTuple):
    """The limits of a folder.

    total: size of all files in bytes; beyond it the oldest are removed.
    each: size of a file in bytes, beyond which a new one is begun.
    seconds: age of a file in s, beyond which a new one is begun.
    days: age of a file in days, beyond which it is removed; 0: never.
    """

    total: int = 1_000_000_000
    each: int = 32_000_000
    seconds: float = 3600.0
    days: float = 30.0


class Writer:
    """A writer of rows to a folder within limits. Not thread-safe."""

    def __init__(self, folder: Path, limits: Limits) -> None:
        """Prepare to write; no file is made before the first row."""
        self._folder = folder
        self._limits = limits
        self._file: BinaryIO | None = None
        self._path = folder
        self._began = 0.0
        self._size = 0

    def write(self, row: Row) -> None:
        """Add a row. Raises OSError, after which the next row begins a new file."""
        content = rows.to_example(row)
        try:
            if self._file is None or self._is_full():
                self._begin(row.time)
            assert self._file
            self._file.write(framing.framed(content))
            self._file.flush()
        except OSError:
            self.close()
            raise
        self._size += len(content) + framing.OVERHEAD

    def _is_full(self) -> bool:
        is_old = time.monotonic() - self._began >= self._limits.seconds
        # A file that `forget` has replaced, or a person removed, is not written to any more.
        return is_old or self._size >= self._limits.each or not self._path.exists()

    def _begin(self, at: int) -> None:
        self.close()
        self._folder.mkdir(parents=True, exist_ok=True)
        # Leaves room for the new file, so that the limit holds at any time.
        prune(self._folder, max(0, self._limits.total - self._limits.each), self._limits.days)
        stamp = datetime.datetime.fromtimestamp(at / 1000, datetime.UTC).strftime(STAMP)
        self._path = self._folder / f"{stamp}-{uuid.uuid4().hex[:8]}{SUFFIX}"
        self._file = _created(self._path)
        self._began, self._size = time.monotonic(), 0

    def close(self) -> None:
        """Close the file that is written to."""
        file, self._file = self._file, None
        if file:
            with contextlib.suppress(OSError):  # it was reported before
                file.close()


def _created(path: Path) -> BinaryIO:
    # Readable by its owner only: it holds users' images.
    return os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb")


class Reading(NamedTuple):
    """The rows, and a line for each file that is partly unreadable."""

    rows: list[Row]
    damaged: list[str]


def read(
    folder: Path,
    since: datetime.datetime | None = None,
    until: datetime.datetime | None = None,
    images: bool = True,
) -> Reading:
    """Read the rows of requests in [since, until), ordered by time.

    Args:
      folder: of the files.
      since: UTC; None: from the first.
      until: UTC; None: to the last.
      images: whether to keep the images, which take most of the memory.

    Raises ConfigError if the folder does not exist.
    """
    if not folder.is_dir():
        raise ConfigError(f"{folder}: there is no such folder of recorded traffic")
    first = since.timestamp() * 1000 if since else 0.0
    last = until.timestamp() * 1000 if until else float("inf")
    found = Reading([], [])
    for path in files(folder):
        start = began(path)
        # Requests are written in about the order in which they came.
        if modified(path) * 1000 < first or (start and start.timestamp() * 1000 - 60_000 > last):
            continue
        try:
            for content in _records(path):
                row = rows.from_example(content)
                if first <= row.time < last:
                    found.rows.append(row if images else dataclasses.replace(row, image=b""))
        except FileNotFoundError:
            continue  # removed meanwhile
        except (ValueError, OSError) as error:
            found.damaged.append(f"{path}: the rest is left out: {error}")
    found.rows.sort(key=lambda row: (row.time, row.request, row.position, row.label))
    return found


def forget(folder: Path, requests: Collection[str]) -> dict[str, int]:
    """Remove all records of these requests; return their number by request.

    Records that are written during the call may be lost.

    Raises OSError, and ConfigError where there is no such folder.
    """
    if not folder.is_dir():
        raise ConfigError(f"{folder}: there is no such folder of recorded traffic")
    removed = dict.fromkeys(requests, 0)
    for path in files(folder):
        contents = _whole(path)
        kept = []
        for content, request in contents:
            if request in removed:
                removed[request] += 1
            else:
                kept.append(content)
        if len(kept) == len(contents):
            continue
        status = path.stat()
        staging = path.with_name(f".{path.name}.{uuid.uuid4().hex}")
        with _created(staging) as file:
            for content in kept:
                file.write(framing.framed(content))
        os.utime(staging, (status.st_atime, status.st_mtime))  # its age is what retention goes by
        # Under another name, so that a recorder that writes to the old one begins a new file.
        staging.rename(
            path.with_name(f"{path.name[: -len(SUFFIX) - 9]}-{uuid.uuid4().hex[:8]}{SUFFIX}")
        )
        path.unlink()
    return removed


def _whole(path: Path) -> list[tuple[bytes, str]]:
    """Read the records up to the first damaged one, each with its request."""
    found: list[tuple[bytes, str]] = []
    with contextlib.suppress(ValueError, FileNotFoundError):
        found.extend((each, rows.from_example(each).request) for each in _records(path))
    return found


def _records(path: Path) -> Iterator[bytes]:
    """Yield the records of a file. Raises ValueError at a cut-off or damaged one."""
    with path.open("rb") as file:
        yield from framing.records(file, os.fstat(file.fileno()).st_size)
