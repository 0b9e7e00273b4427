"""The copies on this machine of artifacts that are in an object store.

TensorFlow reads no S3. So what a node reads is copied to a folder of this machine first, and what
it writes is uploaded when it has ended well: nodes meet local files only. A location below
`s3://bucket` is at AREA/s3/bucket, and tells where it comes from.

Beside an artifact that was uploaded whole is the list of its files, which is written last: what an
upload that was cut off left has none. The list is trusted and not what a store lists, which may be
late. The same list beside a copy tells whose content it has.

A file of a split is copied when it is read (`here`), all others before. A copy is made once for all
nodes that share the folder, which PERENNIAL_STAGING names; those used longest ago make room.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import fnmatch
import json
import os
import re
import shutil
import tempfile
import time
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from pydantic import BaseModel

from components.errors import read_back
from components.storage import content, shared
from components.storage.content import MANIFEST
from components.storage.locations import is_uri, join

FOLDER = "PERENNIAL_STAGING"  # names the folder for the copies
LIMIT_GB = "PERENNIAL_STAGING_GB"  # ... and how much may be in it
_AREA = ".staged"
_TAKEN = ".taken.jsonl"  # beside a copy: files of it that are in the store already
_MIRRORED = re.compile(rf"/{re.escape(_AREA)}/(\w+)/(.+)$")
_AT_ONCE = 8
_LATE_S = 30.0  # that a store may take to show an object that it has taken


class File(BaseModel):
    """A file of an artifact. sha256: "" where nobody has read it."""

    size: int
    sha256: str = ""


class Manifest(BaseModel):
    """The files of an artifact, by path in it."""

    files: dict[str, File]


class NotWholeError(OSError):
    """An artifact in a store that is not what was uploaded."""


def area() -> Path:
    """Return the folder of the copies."""
    given = os.environ.get(FOLDER)
    place = Path(given) if given else Path(tempfile.gettempdir()) / f"perennial-{os.getuid()}"
    return place.absolute() / _AREA


def local(uri: str) -> str:
    """Return the path of the copy of a URI, there or not; a path as it is."""
    kind, mark, rest = uri.partition("://")
    return str(area() / kind / rest.strip("/")) if mark else uri


def origin(location: str) -> str:
    """Return the URI of a local copy, or of an output on its way; other locations as they are."""
    found = None if is_uri(location) else _MIRRORED.search(location)
    return f"{found[1]}://{found[2]}" if found else location


def here(path: str) -> str:
    """Fetch `path` if it is in a copy that is not whole yet. Returns it. Raises OSError."""
    uri = origin(path)
    if uri != path and not os.path.exists(path):  # noqa: PTH110
        root = _root(path)
        known = _read(f"{root}{MANIFEST}") if root else None
        file = known.files.get(path[len(root) :].lstrip("/")) if root and known else None
        make_room(file.size if file else 0)
        _fetch(uri, Path(path), file)
    return path


def here_all(patterns: Iterable[str]) -> list[str]:
    """Return the files that match glob patterns, sorted; staged ones are fetched first.

    Raises OSError.
    """
    found: set[str] = set()
    for pattern in patterns:
        root = _root(pattern)
        if root is None:
            found.update(_glob(pattern))
        else:
            names = _known(f"{root}{MANIFEST}").files
            found.update(n for each in names if fnmatch.fnmatch(n := f"{root}/{each}", pattern))
    with ThreadPoolExecutor(_AT_ONCE) as pool:
        return list(pool.map(here, sorted(found)))


def _glob(pattern: str) -> list[str]:
    """Match names in a folder; only the last part of the pattern may be a pattern."""
    folder, _, name = pattern.rpartition("/")
    return [join(folder, each) for each in content.names(folder) if fnmatch.fnmatch(each, name)]


def _root(path: str) -> str | None:
    """Return the copy of an artifact that a path is in."""
    if not _MIRRORED.search(path):
        return None
    while _MIRRORED.search(path):
        if os.path.exists(f"{path}{MANIFEST}"):  # noqa: PTH110
            return path
        path = path.rpartition("/")[0]
    return None


def take_over(source: str, target: str) -> None:
    """Have the file `source` as `target` too: the same bytes where that can be.

    The target of a copy is in the store from now on, and here when somebody reads it.
    """
    uri = origin(target)
    if uri != target and is_uri(source):
        content.copy(source, uri)
        line = json.dumps({"path": target, "size": content.size(source)})
        root = _output(target)
        Path(root).parent.mkdir(parents=True, exist_ok=True)
        shared.append_line(f"{root}{_TAKEN}", line)
        return
    Path(target).parent.mkdir(parents=True, exist_ok=True)
    try:
        os.link(source, target)
    except OSError:  # another disk, or a file system without links
        content.copy(source, target)


def remove(path: str) -> None:
    """Remove a file of an output, also where it was taken over. Raises OSError."""
    uri = origin(path)
    content.remove(path)
    if uri != path and content.exists(uri):
        content.remove(uri)
        shared.append_line(f"{_output(path)}{_TAKEN}", json.dumps({"path": path, "size": None}))


def _output(path: str) -> str:
    """Return the copy of an unfinished artifact that a path is in."""
    while not os.path.exists(f"{path}{_TAKEN}"):  # noqa: PTH110
        path, _, name = path.rpartition("/")
        if not name:
            raise FileNotFoundError(errno.ENOENT, "is in no output of a node", path)
    return path


@contextlib.contextmanager
def inputs(uris: Iterable[str], splits: Iterable[str] = ()) -> Iterator[None]:
    """Have copies of artifacts for as long as they are needed; of `splits` when they are read.

    Raises OSError.
    """
    with contextlib.ExitStack() as stack:
        lazy = set(splits)
        for uri in dict.fromkeys(uris):
            stack.enter_context(_held(local(uri)))
            _stage(uri, with_splits=uri not in lazy)
        yield


@contextlib.contextmanager
def _held(root: str) -> Iterator[None]:
    """Keep a copy from making room for another one."""
    Path(root).parent.mkdir(parents=True, exist_ok=True)
    with open(f"{root}.lock", "a") as file:
        fcntl.flock(file, fcntl.LOCK_SH)
        yield


def _stage(uri: str, *, with_splits: bool) -> None:
    root = local(uri)
    manifest = manifest_of(uri)
    known = _read(f"{root}{MANIFEST}")
    if known is not None and known != manifest:
        shutil.rmtree(root, ignore_errors=True)  # of an artifact that was there before this one
    Path(root).mkdir(parents=True, exist_ok=True)
    content.write_text(f"{root}{MANIFEST}", manifest.model_dump_json(), durable=False)
    wanted = {
        name: file
        for name, file in manifest.files.items()
        if (with_splits or not name.startswith("Split-")) and not os.path.exists(join(root, name))  # noqa: PTH110
    }
    make_room(sum(file.size for file in wanted.values()))
    with ThreadPoolExecutor(_AT_ONCE) as pool:
        jobs = [
            pool.submit(_fetch, join(uri, name), Path(root) / name, file)
            for name, file in wanted.items()
        ]
        for job in jobs:
            job.result()


def manifest_of(uri: str) -> Manifest:
    """Return the files of an artifact in a store: by its own list, else by the store's.

    An artifact without a list was written by a node that did not run on copies.
    """
    text = content.read_text(f"{uri.rstrip('/')}{MANIFEST}")
    if text is None:
        return Manifest(files={name: File(size=size) for name, size in content.files(uri).items()})
    with read_back(f"{uri}{MANIFEST}"):
        return Manifest.model_validate_json(text)


def _read(path: str) -> Manifest | None:
    try:
        return Manifest.model_validate_json(Path(path).read_bytes())
    except (OSError, ValueError):
        return None


def _known(path: str) -> Manifest:
    with read_back(path):
        return Manifest.model_validate_json(Path(path).read_bytes())


def _fetch(uri: str, path: Path, file: File | None) -> None:
    """Copy a file, and see that it is the one that was uploaded. Raises OSError."""
    deadline = time.monotonic() + (_LATE_S if file is not None else 0)
    while True:
        try:
            with content.writing(str(path), durable=False) as staging:
                content.download(uri, staging)
                if file is None or _is(staging, file):
                    return
                raise NotWholeError(errno.EIO, "is not what was uploaded; run again", uri)
        except (FileNotFoundError, NotWholeError) as error:
            if time.monotonic() > deadline:
                if isinstance(error, NotWholeError):
                    raise
                raise FileNotFoundError(errno.ENOENT, "is gone from the store", uri) from error
            time.sleep(1)


def _is(path: Path, file: File) -> bool:
    return path.stat().st_size == file.size and file.sha256 in ("", content.digest(str(path)))


@contextlib.contextmanager
def output(uri: str) -> Iterator[None]:
    """Have an empty folder for what is to become the artifact at `uri`; see `finish`."""
    for path in area().rglob(f"*{_TAKEN}"):
        _discard_idle(str(path).removesuffix(_TAKEN))  # of nodes that were killed
    root = local(uri)
    with _held(root):
        discard(uri)
        Path(root).mkdir(parents=True)
        Path(f"{root}{_TAKEN}").touch()
        try:
            yield
        finally:
            if Path(f"{root}{_TAKEN}").exists():
                discard(uri)


def discard(uri: str) -> None:
    """Remove the copy of an artifact."""
    _discard(local(uri))


def _discard(root: str) -> None:
    shutil.rmtree(root, ignore_errors=True)
    for suffix in (MANIFEST, _TAKEN):
        Path(f"{root}{suffix}").unlink(missing_ok=True)


def finish(uri: str) -> None:
    """Upload what was written as the artifact at `uri`, and its list when all of it is there.

    The copy stays for the nodes that read it. Raises OSError.
    """
    root = local(uri)
    taken = Path(f"{root}{_TAKEN}")
    files: dict[str, File] = {}
    for line in taken.read_text().splitlines():
        row = json.loads(line)
        name = row["path"][len(root) :].lstrip("/")
        if row["size"] is None:
            files.pop(name)
        else:
            files[name] = File(size=row["size"])
    written = {name: size for name, size in content.files(root).items() if name not in files}

    def send(name: str) -> None:
        content.upload(join(root, name), join(uri, name))

    with ThreadPoolExecutor(_AT_ONCE) as pool:
        for job in [pool.submit(send, name) for name in written]:
            job.result()
    for name, size in written.items():
        files[name] = File(size=size, sha256=content.digest(join(root, name)))
    text = Manifest(files=dict(sorted(files.items()))).model_dump_json()
    content.write_text(f"{uri}{MANIFEST}", text)
    content.write_text(f"{root}{MANIFEST}", text, durable=False)
    taken.unlink()


def make_room(needed: int) -> None:
    """Remove copies that nobody uses, those used longest ago first, until `needed` bytes fit.

    Raises OSError where they do not fit even then.
    """
    place = area()
    place.mkdir(parents=True, exist_ok=True)
    given = os.environ.get(LIMIT_GB)
    limit = float(given) * 1e9 if given else float("inf")
    used = sum(content.files(str(place)).values()) if given else 0
    idle = None
    while used + needed > limit or shutil.disk_usage(place).free < needed:
        if idle is None:
            found = place.rglob(f"*{MANIFEST}")
            idle = sorted(found, key=lambda path: path.stat().st_mtime, reverse=True)
        if not idle:
            raise OSError(
                errno.ENOSPC,
                f"{needed / 1e9:,.2f} GB of artifacts do not fit beside those in use; free some "
                f"space, or raise storage.staging_gb ({LIMIT_GB})",
                str(place),
            )
        used -= _discard_idle(str(idle.pop()).removesuffix(MANIFEST))


def _discard_idle(root: str) -> int:
    """Remove a copy, unless somebody uses it. Returns the bytes that are free now."""
    try:
        with shared.locked(Path(root).parent, f"{Path(root).name}.lock", wait=False):
            freed = sum(content.files(root).values())
            _discard(root)
            return freed
    except BlockingIOError:
        return 0
