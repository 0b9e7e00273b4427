"""Small texts on a file system or in an object store, by path or URI.

TensorFlow, which knows the object stores, is imported only for a URI.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import tempfile
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any


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


def read_text(location: str) -> str | None:
    """Read a UTF-8 file; None where there is none."""
    if not is_uri(location):
        try:
            return Path(location).read_text(encoding="utf-8")
        except (FileNotFoundError, NotADirectoryError):
            return None
    if not gfile().exists(location):
        return None
    with gfile().GFile(location, "rb") as file:
        content: bytes = file.read()
    return content.decode("utf-8")


def write_text(location: str, text: str) -> None:
    """Replace a file in one step, durably: readers and crashes find the old or the new one."""
    if is_uri(location):
        # For object stores this is a copy, which replaces an object at once.
        complete = join(parent(location), f".{name(location)}.{uuid.uuid4().hex}")
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
        staging.unlink(missing_ok=True)
    sync(path.parent)


def append_line(location: str, line: str) -> None:
    """Add a line to a file. On a file system, writers that do so at once lose nothing."""
    if is_uri(location):
        write_text(location, f"{read_text(location) or ''}{line}\n")
        return
    descriptor = os.open(location, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
    try:
        os.write(descriptor, f"{line}\n".encode())
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


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


def remove(location: str) -> None:
    """Remove a file if it is there."""
    if not is_uri(location):
        Path(location).unlink(missing_ok=True)
    elif gfile().exists(location):
        gfile().remove(location)


def sync(path: Path) -> None:
    """Make a file's content, or a folder's list of names, outlast a power failure."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
