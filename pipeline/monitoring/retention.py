"""Files of recorded traffic and the removal of old ones, without TensorFlow."""

from __future__ import annotations

import datetime
import time
from pathlib import Path

SUFFIX = ".tfrecord"
STAMP, _STAMP_LENGTH = "%Y%m%dT%H%M%S.%f", 22
_DAY = 86400.0  # s


def files(folder: Path) -> list[Path]:
    """List the files of a folder, oldest first."""
    return sorted(folder.glob(f"*{SUFFIX}"))


def began(path: Path) -> datetime.datetime | None:
    """Return the time of a file's first request, UTC; None if its name has none."""
    try:
        stamp = datetime.datetime.strptime(path.name[:_STAMP_LENGTH], STAMP)
    except ValueError:
        return None
    return stamp.replace(tzinfo=datetime.UTC)


def expired(folder: Path, days: float) -> list[Path]:
    """List the files whose records are all older than `days`; none for 0."""
    oldest = time.time() - days * _DAY
    return [path for path in files(folder) if days and modified(path) < oldest]


def prune(folder: Path, total: int, days: float) -> None:
    """Remove files older than `days`, then the oldest beyond `total` bytes."""
    for path in expired(folder, days):
        path.unlink(missing_ok=True)
    size = 0
    for path in reversed(files(folder)):
        try:
            size += path.stat().st_size
        except FileNotFoundError:  # another recorder has removed it
            continue
        if size > total:
            path.unlink(missing_ok=True)


def modified(path: Path) -> float:
    """Return the time of the last write to a file, in seconds since 1970."""
    try:
        return path.stat().st_mtime
    except FileNotFoundError:
        return time.time()
