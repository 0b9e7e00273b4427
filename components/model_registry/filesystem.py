"""Push to a file system: a version is there as a whole or not at all.

The model is copied into a hidden folder beside its destination, made durable, and renamed. A killed
push leaves at most a hidden folder, which no server looks at and which the next push removes.
Nothing here needs TensorFlow.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import shutil
import uuid
from collections.abc import Callable, Collection, Iterator, Mapping
from pathlib import Path
from typing import Any

from components import progress, storage
from components.errors import PushRefusedError
from components.model_registry import signing, versions

_STAGING = ".staging-"
_DOOMED = ".removed-"
_LOCK = ".lock"


def push(
    model: Path,
    base: Path,
    record: Mapping[str, Any],
    keep: int,
    served: Callable[[], Collection[int]],
    keys: signing.Keys | None = None,
) -> int:
    """Make `model` the highest version below `base`, once, and remove superseded versions.

    Args:
        model: folder of a SavedModel.
        base: folder of numbered versions; made where it is missing.
        record: for the manifest.
        keep: how many of the newest versions remain, at least 1.
        served: tells, while nobody can change it, which versions must remain in any case.
        keys: to sign the version with.

    Returns:
        The version: the existing one where the highest holds the same files, signed if so wanted.

    Raises:
        PushRefusedError: `base` holds other things, its disk has not the space, or `keys` cannot
            sign. Nothing changed.
        OSError: from the disk. Nothing changed. A superseded version that cannot be removed is no
            error, and is removed by a later push.
    """
    versions.find(str(base))  # before anything is written into a folder that is not ours
    base.mkdir(parents=True, exist_ok=True)
    with locked(base):
        for leftover in (*base.glob(f"{_STAGING}*"), *base.glob(f"{_DOOMED}*")):
            with contextlib.suppress(OSError):  # it is in nobody's way
                shutil.rmtree(leftover)
        numbers = versions.find(str(base))
        pinned = served()
        files = versions.local_digests(model)
        version = max(numbers, default=0)
        newest = versions.read_manifest(str(base), version)
        same = newest is not None and newest.files == files
        if not same or (keys and not keys.have_signed(str(base), version)):
            version += 1
            manifest = versions.Manifest(files, {"version": version, **record})
            _publish(model, base / str(version), manifest, keys)
        for number in versions.superseded([*numbers, version], keep, pinned):
            try:
                _remove(base / str(number))
            except OSError as error:  # of what comes after the push, which is done
                progress.report(
                    "note",
                    text=f"version {number} below {base} is superseded and cannot be removed: "
                    f"{error.strerror}",
                )
    return version


@contextlib.contextmanager
def locked(folder: Path, wait: bool = True) -> Iterator[None]:
    """Be the only one that changes what is in `folder`; waits for whoever does.

    The lock of a killed process is gone with it. Raises BlockingIOError where somebody else has it
    and there is no `wait`, OSError where the folder cannot be written.
    """
    with open(folder / _LOCK, "a") as file:
        fcntl.flock(file, fcntl.LOCK_EX if wait else fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield


def _remove(version: Path) -> None:
    """Remove a version, at once for whoever looks where the file system can do that."""
    doomed = version.with_name(f"{_DOOMED}{uuid.uuid4().hex}")
    try:
        version.rename(doomed)
    except OSError as error:
        # An overlay of file systems does not rename a folder of a lower one.
        if error.errno != errno.EXDEV:
            raise
        doomed = version
        # First what makes it a version that is promoted or pushed again, so that half a one is not.
        (version / versions.MANIFEST).unlink(missing_ok=True)
        for entry in version.iterdir():
            if entry.name != versions.SERVABLE:
                shutil.rmtree(entry) if entry.is_dir() else entry.unlink()
    shutil.rmtree(doomed)


def _publish(
    model: Path, destination: Path, manifest: versions.Manifest, keys: signing.Keys | None
) -> None:
    base = destination.parent
    _check_space(model, base)
    staging = base / f"{_STAGING}{uuid.uuid4().hex}"
    try:
        shutil.copytree(model, staging)
        (staging / versions.MANIFEST).write_text(manifest.to_json(), encoding="utf-8")
        if keys:
            keys.sign(staging)
        for path in [*staging.rglob("*"), staging]:
            storage.sync(path)
        staging.rename(destination)
    except (OSError, shutil.Error) as error:
        if "No space left" in str(error) or getattr(error, "errno", None) == errno.ENOSPC:
            raise PushRefusedError(f"the disk that holds {base} is full; free some") from error
        raise
    finally:
        shutil.rmtree(staging, ignore_errors=True)
    storage.sync(base)


def _check_space(model: Path, base: Path) -> None:
    """Refuse early: on a full disk others would fail too while the copy is under way."""
    disk = os.statvfs(base)
    block = disk.f_frsize
    sizes = [path.stat().st_size for path in model.rglob("*")]
    needed = (
        sum(-(-size // block) * block for size in sizes) + 16 * block
    )  # manifest, signature, folders
    free = disk.f_bavail * block
    if free < needed:
        raise PushRefusedError(
            f"the model takes {needed / 1e6:,.1f} MB and the disk that holds {base} has "
            f"{free / 1e6:,.1f} MB free; free some, or choose another push.directory"
        )
