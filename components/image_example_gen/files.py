"""Local files, and remote ones through Beam's file systems, read the same way."""

from __future__ import annotations

import contextlib
import hashlib
import importlib.util
import os
import queue
import shutil
import stat
import tempfile
import threading
from collections.abc import Iterator
from typing import Any, BinaryIO, NamedTuple

from components.errors import BadDataError
from components.image_example_gen.source_name import is_remote
from components.progress import report

# By scheme: Beam's extra, and the module that it brings.
_EXTRAS = {"gs": ("gcp", "google.cloud"), "s3": ("aws", "boto3"), "hdfs": ("hadoop", "hdfs")}
_READ_BYTES = 2**20
_MOST_TEXT = 300  # characters of a client's message
REACH_S = 20.0  # in which a store must answer once, before all of its files are given up


class Unusable(Exception):  # noqa: N818 - not an error of the program: it becomes a line of a report
    """An input that cannot become an example.

    `kind` is what such inputs are counted under, `detail` says what is wrong with this one.
    """

    def __init__(self, kind: str, detail: str = "") -> None:
        super().__init__(f"{kind}: {detail}" if detail else kind)
        self.kind = kind
        self.detail = detail


class RemoteFile(NamedTuple):
    """Path relative to the listed root, and bytes."""

    name: str
    size: int


def join(root: str, name: str) -> str:
    """`name`, taken from `root` where it is relative."""
    return name if is_remote(name) else os.path.join(root, name)


def read(path: str, limit: int) -> bytes:
    """The bytes of a file of at most `limit` bytes. Raises Unusable where it cannot be read."""
    try:
        with _open(path) as file:
            data = file.read(limit + 1 if is_remote(path) else _size(file, limit) + 1)
    except OSError as error:
        raise Unusable("unreadable", error.strerror or str(error)) from error
    except BadDataError as error:
        raise Unusable("unreachable", str(error)) from error
    except Exception as error:
        if not is_remote(path):
            raise
        raise Unusable("unreachable", _reason(error)) from error  # whichever client the scheme has
    if len(data) > limit:
        raise Unusable("too large", f"more than {limit:,} bytes, see data.max_pixels")
    return bytes(data)


@contextlib.contextmanager
def stream(path: str) -> Iterator[BinaryIO]:
    """A file to be read bit by bit, of which a remote one is copied here first.

    Raises Unusable where it cannot be read.
    """
    with contextlib.ExitStack() as stack:
        try:
            file = stack.enter_context(_open(stack.enter_context(local_copy(path))))
        except OSError as error:
            raise Unusable("unreadable", error.strerror or str(error)) from error
        except BadDataError as error:
            raise Unusable("unreachable", str(error)) from error
        except Exception as error:
            if not is_remote(path):
                raise
            raise Unusable("unreachable", _reason(error)) from error
        yield file


def _size(file: Any, limit: int) -> int:
    return min(os.fstat(file.fileno()).st_size, limit)


def digest(path: str) -> str:
    """Changes with the content: SHA-256, or what the remote store keeps. "" where unreadable."""
    if is_remote(path):
        try:
            return str(_remote(path).checksum(path))
        except Exception:  # of whichever client the scheme has
            return ""
    sha256 = hashlib.sha256()
    try:
        with _open(path) as file:
            while block := file.read(_READ_BYTES):
                sha256.update(block)
    except OSError:
        return ""
    return sha256.hexdigest()


def list_remote(root: str) -> list[RemoteFile]:
    """All files below `root`, or `root` itself where it is one, sorted. Raises BadDataError."""
    root = root.rstrip("/")
    systems = _remote(root)
    # Without network or credentials, clients try for minutes before they give up.
    report("note", text=f"listing {root}")
    found: dict[str, int] = {}
    try:
        for pattern in (f"{root}/**", root):
            (match,) = systems.match([pattern])
            files = [item for item in match.metadata_list if not item.path.endswith("/")]
            found = {item.path: item.size_in_bytes for item in files}
            if found:
                break
    except OSError as error:
        raise BadDataError(
            f"{root}: cannot be read: {error}; check the name, your network and your access"
        ) from error
    return [RemoteFile(path[len(root) :].lstrip("/"), size) for path, size in sorted(found.items())]


def unreachable(path: str) -> str:
    """Why the store of a remote file cannot be asked about it within some seconds, or "".

    A file that is not there is no reason. Clients without a network try for minutes; the thread
    that still does is left behind, as there is no way to end it.
    """
    outcome: queue.Queue[str] = queue.Queue()

    def ask() -> None:
        try:
            _remote(path).exists(path)
        except BadDataError as error:
            outcome.put(str(error))
        except Exception as error:  # of whichever client the scheme has
            outcome.put(_reason(error))
        else:
            outcome.put("")

    threading.Thread(target=ask, daemon=True).start()
    try:
        return outcome.get(timeout=REACH_S)
    except queue.Empty:
        return f"no answer within {REACH_S:g} s"


def _reason(error: Exception) -> str:
    return f"{type(error).__name__}: {error}".splitlines()[0][:_MOST_TEXT]


@contextlib.contextmanager
def local_copy(path: str) -> Iterator[str]:
    """`path` where it is local, else a temporary copy of it."""
    if not is_remote(path):
        yield path
        return
    with tempfile.NamedTemporaryFile(prefix="perennial-") as copy:
        with _open(path) as remote:
            shutil.copyfileobj(remote, copy, _READ_BYTES)
        copy.flush()
        yield copy.name


@contextlib.contextmanager
def _open(path: str) -> Iterator[Any]:
    if is_remote(path):
        from apache_beam.io.filesystem import CompressionTypes

        with _remote(path).open(path, compression_type=CompressionTypes.UNCOMPRESSED) as file:
            yield file
        return
    # O_NONBLOCK: a pipe among the images must not be waited for.
    with open(os.open(path, os.O_RDONLY | os.O_NONBLOCK), "rb") as file:
        if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
            raise OSError(0, "not a regular file")
        yield file


def _remote(path: str) -> Any:
    """Beam's FileSystems. Raises BadDataError where the scheme's is not installed."""
    from apache_beam.io.filesystems import FileSystems
    from apache_beam.options.pipeline_options import PipelineOptions

    scheme = path.partition("://")[0]
    extra, module = _EXTRAS.get(scheme, ("", ""))
    if module and importlib.util.find_spec(module) is None:
        raise BadDataError(
            f"{path}: reading {scheme}:// needs an extra: pip install 'apache-beam[{extra}]'"
        )
    # A Beam pipeline sets its own; outside of one S3 and HDFS would have none.
    if getattr(FileSystems, "_pipeline_options", None) is None:
        FileSystems.set_options(PipelineOptions([]))
    try:
        FileSystems.get_filesystem(path)
    except ValueError as error:
        raise BadDataError(
            f"{path}: {scheme}:// cannot be read here; copy the data to a local folder"
        ) from error
    return FileSystems
