"""Reading of local files and of objects in stores."""

from __future__ import annotations

import contextlib
import hashlib
import os
import queue
import stat
import threading
from collections.abc import Iterator
from typing import Any, BinaryIO

from components import storage
from components.errors import BadDataError
from components.progress import report

REACH_S = 20.0  # a store without an answer in this time is unreachable, with all its files


class Unusable(Exception):  # noqa: N818 - not an error: it becomes a line of a report
    """An input that cannot become an example.

    Inputs are counted by `kind`; `detail` describes the problem of this one.
    """

    def __init__(self, kind: str, detail: str = "") -> None:
        super().__init__(f"{kind}: {detail}" if detail else kind)
        self.kind = kind
        self.detail = detail


def join(root: str, name: str) -> str:
    """Join `root` and `name`, unless `name` is absolute or a URI."""
    return name if storage.is_uri(name) else os.path.join(root, name)


def read(path: str, limit: int) -> bytes:
    """Read a file of at most `limit` bytes. Raises Unusable if that fails."""
    try:
        if storage.is_uri(path):
            _check_supported(path)
            data = storage.read_bytes(path, limit + 1)
        else:
            with _open(path) as file:
                data = file.read(min(os.fstat(file.fileno()).st_size, limit) + 1)
    except OSError as error:
        raise _unusable(path, error) from error
    except BadDataError as error:
        raise Unusable("unreachable", str(error)) from error
    if len(data) > limit:
        raise Unusable("too large", f"more than {limit:,} bytes, see data.max_pixels")
    return data


@contextlib.contextmanager
def stream(path: str) -> Iterator[BinaryIO]:
    """Open a file, of which a remote one is copied to this machine first.

    Raises Unusable if that fails.
    """
    with contextlib.ExitStack() as stack:
        try:
            file = stack.enter_context(_open(stack.enter_context(local_copy(path))))
        except OSError as error:
            raise _unusable(path, error) from error
        except BadDataError as error:
            raise Unusable("unreachable", str(error)) from error
        yield file


def _unusable(path: str, error: OSError) -> Unusable:
    is_there = not storage.is_uri(path) or isinstance(error, FileNotFoundError)
    kind = "unreadable" if is_there else "unreachable"
    return Unusable(kind, error.strerror or str(error))


def digest(path: str) -> str:
    """Return the SHA-256, or a remote store's own digest; "" if unreadable."""
    try:
        if storage.is_uri(path):
            return storage.checksum(path)
        with _open(path) as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError:
        return ""


def list_remote(root: str) -> dict[str, int]:
    """List the files below `root`, sorted: bytes by relative path, "" if `root` is a file itself.

    Raises BadDataError.
    """
    _check_supported(root)
    # Without network or credentials, this takes minutes.
    report("note", text=f"listing {root}")
    try:
        found = storage.files(root)
        if not found and storage.exists(root):
            return {"": storage.size(root)}
    except OSError as error:
        raise BadDataError(
            f"{root}: cannot be read: {error.strerror}; check the name, your network and your "
            "access"
        ) from error
    return found


def unreachable(path: str) -> str:
    """Return why the store of a remote file does not answer within REACH_S, "" if it does.

    A missing file is not a reason. Without a network, clients try for minutes; their thread cannot
    be ended, and is left running.
    """
    outcome: queue.Queue[str] = queue.Queue()

    def ask() -> None:
        try:
            _check_supported(path)
            storage.exists(path)
        except (BadDataError, OSError) as error:
            outcome.put(getattr(error, "strerror", None) or str(error))
        else:
            outcome.put("")

    threading.Thread(target=ask, daemon=True).start()
    try:
        return outcome.get(timeout=REACH_S)
    except queue.Empty:
        return f"no answer within {REACH_S:g} s"


@contextlib.contextmanager
def local_copy(path: str) -> Iterator[str]:
    """Return `path` if it is local, else a temporary copy of it."""
    _check_supported(path)
    with storage.local_file(path) as copied:
        yield copied


@contextlib.contextmanager
def _open(path: str) -> Iterator[Any]:
    # O_NONBLOCK: do not wait for a pipe.
    with open(os.open(path, os.O_RDONLY | os.O_NONBLOCK), "rb") as file:
        if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
            raise OSError(0, "not a regular file")
        yield file


def _check_supported(path: str) -> None:
    """Raise BadDataError if there is no client for a URI."""
    if why := storage.unsupported(path):
        raise BadDataError(f"{path}: {why}; or copy the data to a local folder")
