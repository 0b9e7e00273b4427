"""Files that several processes write: one at a time, or whoever has seen the latest state.

A folder of this machine has a lock. Object stores have none, but replace an object on the condition
that it is still in the state that the writer has seen.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from components.storage.content import read_text
from components.storage.locations import _told, filesystem, is_uri, scheme

_APPENDS = 20  # by others, between reading and writing
_STATES = ("generation", "ETag", "etag", "created")  # of Google, S3, Azure and memory


def state(location: str) -> str:
    """Return what names the present state of a store's file, "" where there is none.

    Raises OSError.
    """
    with _told(location):
        try:
            return _state_in(filesystem(location).info(location))
        except FileNotFoundError:
            return ""


def replace(location: str, text: str, known: str) -> str:
    """Replace a store's file of UTF-8 in one step, if it is in the state `known`.

    Returns its new state. Raises FileExistsError where it is in another one, else OSError.
    """
    try:
        with _told(location):
            return _put(location, text.encode(), known)
    except OSError as error:
        # Each client has another error for a condition that does not hold. And a request whose
        # answer got lost is repeated, and then conflicts with itself.
        now = state(location)
        if now == known:
            raise
        if read_text(location, errors="replace") == text:
            return now
        raise FileExistsError(errno.EEXIST, "was written by somebody else", location) from error


def _put(location: str, content: bytes, known: str) -> str:
    store, kind = filesystem(location), scheme(location)
    is_azure = kind in ("az", "abfs")
    done: Any = None
    if not known:
        option = {"overwrite": False} if is_azure else {"mode": "create"}
        done = store.pipe_file(location, content, **option)
    elif kind in ("s3", "s3a"):
        done = store.pipe_file(location, content, IfMatch=known)
    elif is_azure:
        from azure.core import MatchConditions  # of an extra

        condition = MatchConditions.IfNotModified
        done = store.pipe_file(location, content, etag=known, match_condition=condition)
    elif kind in ("gs", "gcs"):
        bucket, key, _ = store.split_path(location)
        place = f"{store._location}/upload/storage/v1/b/{{}}/o"
        options = {"uploadType": "media", "name": key, "ifGenerationMatch": known}
        done = store.call("POST", place, bucket, data=content, json_out=True, **options)
    elif state(location) == known:  # in memory
        store.pipe_file(location, content)
    else:
        raise FileExistsError(location)
    return _state_in(done) if done else state(location)


def _state_in(about: Any) -> str:
    return str(next((about[name] for name in _STATES if about.get(name)), ""))


def create(location: str, text: str) -> None:
    """Make a file of UTF-8 in one step. Raises FileExistsError where there is one already."""
    if is_uri(location):
        replace(location, text, "")
        return
    with open(location, "x") as file:
        file.write(text)


def append_line(location: str, line: str) -> None:
    """Add a line to a file, durably: all of it or nothing.

    Writers that do so at once lose nothing, and what a power failure has cut off does not swallow
    the line. Raises OSError, and the file is as it was.
    """
    if is_uri(location):
        _append_object(location, line)
        return
    descriptor = os.open(location, os.O_RDWR | os.O_APPEND | os.O_CREAT, 0o644)
    try:
        # Only for the moment of it, so that what is taken back is nobody else's.
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        before = os.fstat(descriptor).st_size
        is_cut_off = before > 0 and os.pread(descriptor, 1, before - 1) != b"\n"
        try:
            begin = "\n" if is_cut_off else ""
            _write_all(descriptor, f"{begin}{line}\n".encode())
            os.fsync(descriptor)
        except OSError as error:
            with contextlib.suppress(OSError):
                os.ftruncate(descriptor, before)
            error.filename = location
            raise
    finally:
        os.close(descriptor)


def _append_object(location: str, line: str) -> None:
    for _ in range(_APPENDS):
        known = state(location)
        text = read_text(location) or ""
        begin = "\n" if text and not text.endswith("\n") else ""
        with contextlib.suppress(FileExistsError):
            replace(location, f"{text}{begin}{line}\n", known)
            return
    raise OSError(errno.EBUSY, "others write to it all the time", location)


def _write_all(descriptor: int, content: bytes) -> None:
    while content:
        content = content[os.write(descriptor, content) :]


@contextlib.contextmanager
def locked(folder: Path, name: str = ".lock", *, wait: bool = True) -> Iterator[None]:
    """Be the only one that changes what is in a folder of this machine; waits for whoever does.

    The lock is the file called `name`; that of a killed process is gone with it. Raises
    BlockingIOError where somebody else has it and there is no `wait`, OSError where the folder
    cannot be written.
    """
    with open(folder / name, "a") as file:
        fcntl.flock(file, fcntl.LOCK_EX if wait else fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield
