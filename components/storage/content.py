"""Read, write, list, copy and remove files by path or URI."""

from __future__ import annotations

import contextlib
import hashlib
import os
import shutil
import tempfile
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

from components.storage.locations import _told, filesystem, is_uri, join, name

_CHUNK = 2**20
# Beside what was uploaded whole, the list of its files.
MANIFEST = ".files.json"


def exists(location: str) -> bool:
    """Tell whether there is a file, or a folder that is not empty. Raises OSError."""
    if not is_uri(location):
        return os.path.exists(location)  # noqa: PTH110 - no path is refused
    with _told(location):
        return bool(filesystem(location).exists(location))


def size(location: str) -> int:
    """Return the bytes of a file. Raises OSError."""
    if not is_uri(location):
        return Path(location).stat().st_size
    with _told(location):
        return int(filesystem(location).info(location)["size"])


@contextlib.contextmanager
def opened(location: str) -> Iterator[IO[bytes]]:
    """Open a file to read it, piece by piece. Raises OSError."""
    if not is_uri(location):
        with open(location, "rb") as file:
            yield file
        return
    with _told(location), filesystem(location).open(location, "rb", block_size=8 * _CHUNK) as file:
        yield file


def read_bytes(location: str, limit: int | None = None) -> bytes:
    """Read a file, at most `limit` bytes of it. Raises OSError."""
    if not is_uri(location):
        with open(location, "rb") as file:
            return file.read(-1 if limit is None else limit)
    with _told(location):
        return bytes(filesystem(location).cat_file(location, end=limit))


def read_text(location: str, errors: str = "strict") -> str | None:
    """Read a UTF-8 file; None where there is none. `errors` is what is done with other bytes."""
    try:
        return read_bytes(location).decode("utf-8", errors)
    except (FileNotFoundError, NotADirectoryError):
        return None


def write_bytes(location: str, content: bytes, *, durable: bool = True) -> None:
    """Replace a file in one step, making its folder; readers find the old one or the new one.

    durable: so do crashes of the machine. Raises OSError, and the file is as it was.
    """
    if is_uri(location):
        with _told(location):  # an object is replaced at once, when all of it has arrived
            filesystem(location).pipe_file(location, content)
        return
    with writing(location, durable=durable) as staging:
        staging.write_bytes(content)


def write_text(location: str, text: str, *, durable: bool = True) -> None:
    """Write a text in UTF-8; see `write_bytes`."""
    write_bytes(location, text.encode(), durable=durable)


@contextlib.contextmanager
def writing_folder(target: Path, *, durable: bool = True) -> Iterator[Path]:
    """Fill a local folder, which gets its name in one step at the end; `target` must not exist.

    Raises OSError. After any error there is no `target`.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    # What cannot be removed is empty, or the leftover of another error, which counts.
    temporary = tempfile.TemporaryDirectory(
        dir=target.parent, prefix=f".{target.name}-", ignore_cleanup_errors=True
    )
    with temporary as name:
        staging = Path(name, target.name)
        staging.mkdir()
        yield staging
        for each in [*staging.rglob("*"), staging] if durable else ():
            sync(each)
        staging.rename(target)
    if durable:
        sync(target.parent)


@contextlib.contextmanager
def writing(location: str, *, durable: bool = True) -> Iterator[Path]:
    """Write a local file, which replaces the one at `location` at the end.

    Raises OSError. After any error the file at `location` is as it was.
    """
    if is_uri(location):
        with tempfile.TemporaryDirectory(prefix="perennial-") as folder:
            yield (staging := Path(folder) / (name(location) or "file"))
            upload(str(staging), location)
        return
    path = Path(location)
    path.parent.mkdir(parents=True, exist_ok=True)
    staging = path.with_name(f".{path.name}.{uuid.uuid4().hex}")
    try:
        yield staging
        if durable:
            sync(staging)
        staging.replace(path)
    finally:
        with contextlib.suppress(OSError):  # what failed before counts
            staging.unlink(missing_ok=True)
    if durable:
        sync(path.parent)


def copy(source: str, target: str) -> None:
    """Copy a file; within a store the bytes do not leave it. The target is whole or not there."""
    if is_uri(source) and is_uri(target):
        store = filesystem(source)
        with _told(target):
            if store is filesystem(target):
                store.cp_file(source, target)
            else:
                with opened(source) as file, writing(target) as copied, copied.open("wb") as sink:
                    shutil.copyfileobj(file, sink, _CHUNK)
    elif is_uri(source):
        download(source, Path(target))
    elif is_uri(target):
        upload(source, target)
    else:
        with writing(target, durable=False) as staging:
            shutil.copyfile(source, staging)


def upload(source: str, target: str) -> None:
    """Copy a file of this machine to a URI. Raises OSError, and nothing is there."""
    with _told(target):
        filesystem(target).put_file(source, target)


def download(source: str, target: Path) -> None:
    """Copy the file of a URI to this machine, whole or not at all. Raises OSError."""
    with writing(str(target), durable=False) as staging:
        with _told(source):
            filesystem(source).get_file(source, str(staging))
        if not staging.exists():  # of an empty object
            staging.touch()


def move(source: str, target: str) -> None:
    """Give a file another name, in one step on a file system. Raises OSError."""
    if not is_uri(source) and not is_uri(target):
        Path(target).parent.mkdir(parents=True, exist_ok=True)
        Path(source).replace(target)
        return
    copy(source, target)
    remove(source)


def files(root: str) -> dict[str, int]:
    """List the bytes of every file below `root`, by path relative to it, sorted; {} for none.

    Raises OSError.
    """
    root = root.rstrip("/")
    if is_uri(root):
        with _told(root):
            store = filesystem(root)
            base = store._strip_protocol(root).rstrip("/")
            found = store.find(root, detail=True)
        return {
            path[len(base) :].lstrip("/"): int(about["size"] or 0)
            for path, about in sorted(found.items())
            if about["type"] == "file" and not path.endswith("/") and path != base
        }
    listed = {
        os.path.relpath(os.path.join(folder, each), root): os.path.join(folder, each)
        for folder, _, names in os.walk(root)
        for each in names
    }
    return {path: os.stat(listed[path]).st_size for path in sorted(listed)}  # noqa: PTH116


def make_folder(folder: str) -> None:
    """Have a folder, also an empty one; in a store there is none. Raises OSError."""
    if not is_uri(folder):
        Path(folder).mkdir(parents=True, exist_ok=True)


def copy_tree(source: str, target: str) -> None:
    """Copy all files below `source`. Raises OSError."""
    for each in files(source):
        copy(join(source, each), join(target, each))


def changed(folder: str) -> float:
    """Return when any file in a folder was last written, in epoch seconds; 0 without one."""
    if not is_uri(folder):
        return max((path.stat().st_mtime for path in Path(folder).glob("*")), default=0)
    with _told(folder):
        store = filesystem(folder)
        times = [store.modified(join(folder, each)) for each in files(folder)]
    return max((time.timestamp() for time in times), default=0)


def names(folder: str) -> list[str]:
    """List the files and folders directly in a folder, sorted; [] without one.

    Raises OSError.
    """
    if is_uri(folder):
        with _told(folder):
            try:
                found = filesystem(folder).ls(folder.rstrip("/"), detail=False)
            except FileNotFoundError:
                return []
        return sorted({name(each) for each in found} - {"", name(folder)})
    try:
        return sorted(os.listdir(folder))  # noqa: PTH208 - the names are asked for
    except (FileNotFoundError, NotADirectoryError):
        return []


def checksum(location: str) -> str:
    """Return a store's checksum of a file, or SHA-256 of a local one. Raises OSError."""
    if not is_uri(location):
        return digest(location)
    with _told(location):
        about = filesystem(location).info(location)
    kept = about.get("ETag") or about.get("etag") or about.get("md5Hash") or about.get("crc32c")
    return f"{kept or about.get('mtime') or about.get('created') or ''}-{about['size']}".strip('"')


def digest(location: str) -> str:
    """SHA-256 of a file, in hex. Raises OSError."""
    found = hashlib.sha256()
    with opened(location) as file:
        while block := file.read(_CHUNK):
            found.update(block)
    return found.hexdigest()


def remove(location: str) -> None:
    """Remove a file if it is there. Raises OSError."""
    if not is_uri(location):
        Path(location).unlink(missing_ok=True)
        return
    with _told(location), contextlib.suppress(FileNotFoundError):
        filesystem(location).rm_file(location)


def remove_tree(folder: str) -> None:
    """Remove a folder and all that is in it, if it is there. Raises OSError.

    In a store the list of its files goes first, so that what is left over is nothing whole; what an
    upload that was cut off has sent goes too.
    """
    if not is_uri(folder):
        with contextlib.suppress(FileNotFoundError):
            shutil.rmtree(folder)
        return
    remove(f"{folder.rstrip('/')}{MANIFEST}")
    store = filesystem(folder)
    with _told(folder):
        found = [join(folder, each) for each in files(folder)]
        if found:
            store.rm(found)
        with contextlib.suppress(FileNotFoundError):  # what only stands for a folder
            store.rm(folder.rstrip("/"), recursive=True)
        _abort_uploads(store, folder)


def _abort_uploads(store: Any, folder: str) -> None:
    """End the uploads of several parts below a prefix of S3, whose parts are paid for."""
    if not hasattr(store, "call_s3"):
        return
    bucket, prefix, _ = store.split_path(folder)
    with contextlib.suppress(OSError, NotImplementedError):  # such as for want of the right
        found = store.call_s3("list_multipart_uploads", Bucket=bucket, Prefix=f"{prefix}/")
        for each in found.get("Uploads", ()):
            store.call_s3(
                "abort_multipart_upload", Bucket=bucket, Key=each["Key"], UploadId=each["UploadId"]
            )


@contextlib.contextmanager
def local_copy(folder: str) -> Iterator[Path]:
    """Give a folder on this machine: a local one itself, or a copy that is removed afterwards."""
    if not is_uri(folder):
        yield Path(folder)
        return
    with tempfile.TemporaryDirectory(prefix="perennial-") as copied:
        for each in files(folder):
            download(join(folder, each), Path(copied) / each)
        yield Path(copied)


@contextlib.contextmanager
def local_file(location: str) -> Iterator[str]:
    """Give a file on this machine: a local one itself, or a copy that is removed afterwards."""
    if not is_uri(location):
        yield location
        return
    with tempfile.TemporaryDirectory(prefix="perennial-") as folder:
        download(location, copied := Path(folder) / name(location))
        yield str(copied)


def sync(path: Path) -> None:
    """Make a file's content, or a folder's list of names, outlast a power failure."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
