"""Small durable files on a file system or in an object store, by path or URI.

TensorFlow, which knows the object stores, is imported only for a URI.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import shutil
import tempfile
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

_LOCK = ".lock"


def is_uri(location: str) -> bool:
    """Whether it is something like gs://bucket/models, and not a path."""
    return "://" in location


def gfile() -> Any:
    """TensorFlow's file operations, for URIs."""
    import tensorflow as tf

    return tf.io.gfile


def join(base: str, *names: str) -> str:
    """`base` and the names below it."""
    return "/".join([base.rstrip("/"), *names])


def parent(location: str) -> str:
    """What holds `location`."""
    return location.rstrip("/").rpartition("/")[0]


def name(location: str) -> str:
    """The last part of `location`."""
    return location.rstrip("/").rpartition("/")[2]


@contextlib.contextmanager
def store_errors(location: str) -> Iterator[None]:
    """Raise what an object store refuses as an OSError, as disks do."""
    import tensorflow as tf

    try:
        yield
    except tf.errors.OpError as error:
        raise OSError(errno.EIO, f"{type(error).__name__}: {error.message}", location) from error


def read_text(location: str, errors: str = "strict") -> str | None:
    """Read a UTF-8 file; None where there is none. `errors` is what is done with other bytes."""
    if not is_uri(location):
        try:
            return Path(location).read_text(encoding="utf-8", errors=errors)
        except (FileNotFoundError, NotADirectoryError):
            return None
    with store_errors(location):
        if not gfile().exists(location):
            return None
        with gfile().GFile(location, "rb") as file:
            content: bytes = file.read()
    return content.decode("utf-8", errors)


def write_text(location: str, text: str) -> None:
    """Replace a file in one step, durably: readers and crashes find the old or the new one."""
    if is_uri(location):
        # For object stores this is a copy, which replaces an object at once.
        complete = join(parent(location), f".{name(location)}.{uuid.uuid4().hex}")
        with store_errors(location):
            with gfile().GFile(complete, "wb") as file:
                file.write(text.encode("utf-8"))
            gfile().rename(complete, location, overwrite=True)
        return
    path = Path(location)
    staging = path.with_name(f".{path.name}.{uuid.uuid4().hex}")
    try:
        with open(staging, "w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        staging.replace(path)
    finally:
        with contextlib.suppress(OSError):  # what failed before counts
            staging.unlink(missing_ok=True)
    sync(path.parent)


def append_line(location: str, line: str) -> None:
    """Add a line to a file, durably: all of it or nothing.

    On a file system, writers that do so at once lose nothing, and what a power failure has cut off
    does not swallow the line. Raises OSError, and the file is as it was.
    """
    if is_uri(location):
        text = read_text(location) or ""
        begin = "\n" if text and not text.endswith("\n") else ""
        write_text(location, f"{text}{begin}{line}\n")
        return
    descriptor = os.open(location, os.O_RDWR | os.O_APPEND | os.O_CREAT, 0o644)
    try:
        # Only for the moment of it, so that what is taken back is nobody else's.
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        size = os.fstat(descriptor).st_size
        is_cut_off = size > 0 and os.pread(descriptor, 1, size - 1) != b"\n"
        try:
            begin = "\n" if is_cut_off else ""
            _write_all(descriptor, f"{begin}{line}\n".encode())
            os.fsync(descriptor)
        except OSError as error:
            with contextlib.suppress(OSError):
                os.ftruncate(descriptor, size)
            error.filename = location
            raise
    finally:
        os.close(descriptor)


def _write_all(descriptor: int, content: bytes) -> None:
    while content:
        content = content[os.write(descriptor, content) :]


@contextlib.contextmanager
def local_copy(location: str) -> Iterator[Path]:
    """A folder as one of this machine: itself, or a copy for as long as it is needed."""
    if not is_uri(location):
        yield Path(location)
        return
    with tempfile.TemporaryDirectory() as copy:
        for folder, _, names in gfile().walk(location):
            here = Path(copy) / folder.removeprefix(location).strip("/")
            here.mkdir(parents=True, exist_ok=True)
            for file in filter(None, names):
                source = gfile().GFile(join(folder, file), "rb")
                with source, (here / file).open("wb") as sink:
                    shutil.copyfileobj(source, sink, 1 << 20)
        yield Path(copy)


@contextlib.contextmanager
def locked(folder: Path, wait: bool = True) -> Iterator[None]:
    """Be the only one that changes what is in `folder`; waits for whoever does.

    The lock of a killed process is gone with it. Raises BlockingIOError where somebody else has it
    and there is no `wait`, OSError where the folder cannot be written.
    """
    with open(folder / _LOCK, "a") as file:
        fcntl.flock(file, fcntl.LOCK_EX if wait else fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield


def remove(location: str) -> None:
    """Remove a file if it is there, durably."""
    if not is_uri(location):
        Path(location).unlink(missing_ok=True)
        sync(Path(location).parent)
        return
    with store_errors(location):
        if gfile().exists(location):
            gfile().remove(location)


def sync(path: Path) -> None:
    """Make a file's content, or a folder's list of names, outlast a power failure."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
