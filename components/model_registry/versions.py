"""Versions of a model below a folder or a prefix: which there are, and how one is added.

<base>/<version>/saved_model.pb, variables/, ...   the model
<base>/<version>/perennial-manifest.json           written last: see `Manifest`
<base>/<version>/model.sig                         of all this, where it is signed
<base>/.*                                          ours for the moment, or the file system's

On a file system a version is copied into a hidden folder, made durable, and renamed: it is there as
a whole or not at all. A killed push leaves at most a hidden folder, which no server looks at and
which the next push removes.

In an object store there is no rename and no lock. A version counts once its manifest is there; what
a killed push left is never counted and goes with the next push. So servers must be told versions by
a model configuration, because one that follows the newest number would see objects as they arrive.
Pushes at the same time get numbers of their own.
"""

from __future__ import annotations

import contextlib
import errno
import shutil
import tempfile
import time
import uuid
from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from components import progress, storage
from components.errors import ConfigError
from components.model_registry import signing

MANIFEST = "perennial-manifest.json"
SERVABLE = "saved_model.pb"
_DOOMED = ".removed-"
# Of what was cut off: copies that were not finished, and what was not removed to the end.
_LEFTOVERS = (".[0-9]*-*", ".staging-*", f"{_DOOMED}*")
_CLAIM = ".claim-"  # and a number: an object of a store, which one push has made
_LONGEST_PUSH = 24 * 3600.0  # seconds after which a version that is not whole was cut off
_HIGHEST = 2**63 - 1  # TensorFlow Serving's version numbers are int64


class Manifest(BaseModel, frozen=True):
    """The content of a pushed version.

    record: JSON-able facts about the push; the Pusher writes `version`, `run`, `pushed` (UTC time),
    `metrics` by name and `validated` (by which server). files: SHA-256 in hex by path within the
    version.
    """

    record: Mapping[str, Any]
    files: Mapping[str, str]


def read_manifest(base: str, version: int) -> Manifest | None:
    """Read the manifest of a version; None where there is none that can be read."""
    try:
        content = storage.read_bytes(storage.join(base, str(version), MANIFEST))
        return Manifest.model_validate_json(content)
    except (OSError, ValueError):  # pydantic's ValidationError is one
        return None


def find(base: str) -> list[int]:
    """List the version numbers below `base`, lowest first.

    Raises ConfigError where it holds anything else, and so is used for something else too.
    """
    numbers = []
    if not storage.is_uri(base) and Path(base).is_file():
        raise ConfigError(f"{base} is a file; choose another push.directory")
    for name in storage.names(base):
        if name.startswith(".") or name == "lost+found":
            continue
        reason = ""
        if not (name.isascii() and name.isdecimal() and name == str(int(name))):
            reason = "is not a version number"
        elif not 0 < int(name) <= _HIGHEST:
            reason = "is not a version number that can be served"
        elif not storage.is_uri(base) and not (Path(base) / name / SERVABLE).is_file():
            if _is_removed(Path(base) / name):
                continue
            reason = f"has no {SERVABLE} in it"
        if reason:
            raise ConfigError(
                f"{base} is not only a folder of model versions: {name!r} {reason}; move it away, "
                "or choose another push.directory"
            )
        numbers.append(int(name))
    return sorted(numbers)


def _is_removed(version: Path) -> bool:
    """Whether a version that was listed is gone, or empty as by a removal that was cut off."""
    try:
        return not any(version.iterdir())
    except FileNotFoundError:
        return True
    except NotADirectoryError:
        return False


def local_digests(folder: Path) -> dict[str, str]:
    """Compute the SHA-256, in hex, of every file below a local folder, by path within it."""
    return {name: digest_of(str(folder / name)) for name in storage.files(str(folder))}


def damaged_files(base: str, version: int, manifest: Manifest) -> list[str]:
    """List the files of a version that are missing, or are not what was pushed."""
    return [
        name
        for name, digest in manifest.files.items()
        if digest_of(storage.join(base, str(version), name)) != digest
    ]


def digest_of(location: str) -> str:
    """Compute the SHA-256, in hex, of a file or object; empty where there is none."""
    try:
        return storage.digest(location)
    except FileNotFoundError:
        return ""


def push(
    model: Path,
    base: str | Path,
    record: Mapping[str, Any],
    keep: int,
    served: Callable[[], Collection[int]],
    keys: signing.Keys | None = None,
) -> int:
    """Make `model` the highest version below `base`, once, and remove superseded versions.

    Args:
        model: folder of a SavedModel.
        base: path or URI of the numbered versions; made where it is missing.
        record: for the manifest.
        keep: how many of the newest versions remain, at least 1.
        served: returns the versions that must remain; called while nobody can change them.
        keys: to sign the version with.

    Returns:
        The version: the existing one where the highest holds the same files, signed if so wanted.

    Raises:
        ConfigError: `base` holds other things, its disk has not the space, `keys` cannot sign, or
            what was written to a store is not what is read back. Nothing changed.
        OSError: from the disk or the store. Nothing changed. A superseded version that cannot be
            removed is not an error, and is removed by a later push.
    """
    base = str(base)
    is_store = storage.is_uri(base)
    find(base)  # before anything is written into a folder that is not ours
    with contextlib.ExitStack() as stack:
        if not is_store:
            Path(base).mkdir(parents=True, exist_ok=True)
            stack.enter_context(storage.locked(Path(base)))
            remove_leftovers(Path(base))
        numbers = find(base)
        pinned = served()
        files = local_digests(model)
        manifests = {number: read_manifest(base, number) for number in numbers}
        counted = [number for number in numbers if manifests[number] or not is_store]
        version = max(counted, default=0)
        newest = manifests.get(version)
        same = newest is not None and newest.files == files
        if not same or (keys and not keys.have_signed(base, version)):
            version = max(numbers, default=0) + 1
            if is_store:
                version = _claimed(base, version)
            manifest = Manifest(record={"version": version, **record}, files=files)
            publish = _publish_to_store if is_store else _publish_in_folder
            publish(model, storage.join(base, str(version)), manifest, keys)
            counted.append(version)
        for number in sorted({*numbers, *counted} - {*counted[-keep:]} - {*pinned}):
            if number in counted or not _is_under_way(base, number):
                _remove(base, number)
    return version


def _claimed(base: str, version: int) -> int:
    """Return the first number from `version` on that no other push to the store has taken.

    Stores have no locks, but an object that is only made where none is. Its name begins with a dot,
    which is none of a version.
    """
    while True:
        try:
            storage.create(_claim(base, version), str(time.time()))
        except FileExistsError:
            version += 1
        else:
            return version


def _claim(base: str, version: int) -> str:
    return storage.join(base, f"{_CLAIM}{version}")


def _is_under_way(base: str, version: int) -> bool:
    """Whether another push to the store may still be writing the version."""
    claimed = storage.read_text(_claim(base, version))
    return claimed is not None and time.time() - float(claimed) < _LONGEST_PUSH


def _remove(base: str, number: int) -> None:
    """Remove what is superseded, or half; where that fails, a later push does it."""
    version = storage.join(base, str(number))
    try:
        if storage.is_uri(version):
            storage.remove_tree(version)
            storage.remove(_claim(base, number))
        else:
            remove_folder(Path(version))
    except OSError as error:  # of what comes after the push, which is done
        why = f"{version} is superseded and cannot be removed: {error.strerror or error}"
        progress.report("note", text=why)


def remove_leftovers(base: Path) -> None:
    """Remove what a push, or a mirror, that was killed has left in a locked folder."""
    for leftover in (path for pattern in _LEFTOVERS for path in base.glob(pattern)):
        with contextlib.suppress(OSError):  # it is in nobody's way
            shutil.rmtree(leftover)


def remove_folder(version: Path) -> None:
    """Remove a version, in one step for readers where the file system can do that."""
    doomed = version.with_name(f"{_DOOMED}{uuid.uuid4().hex}")
    try:
        version.rename(doomed)
    except OSError as error:
        # An overlay of file systems does not rename a folder of a lower one.
        if error.errno != errno.EXDEV:
            raise
        doomed = version
        # First what makes it a version that is promoted or pushed again, so that half a one is not.
        (version / MANIFEST).unlink(missing_ok=True)
        for entry in version.iterdir():
            if entry.name != SERVABLE:
                shutil.rmtree(entry) if entry.is_dir() else entry.unlink()
    shutil.rmtree(doomed)


def _stage(model: Path, folder: Path, manifest: Manifest, keys: signing.Keys | None) -> None:
    """Make a whole version of a model in an empty folder."""
    shutil.copytree(model, folder, dirs_exist_ok=True)
    (folder / MANIFEST).write_text(manifest.model_dump_json(indent=2), encoding="utf-8")
    if keys:
        keys.sign(folder)


def _publish_in_folder(
    model: Path, version: str, manifest: Manifest, keys: signing.Keys | None
) -> None:
    base = Path(version).parent
    _check_space(model, base)
    try:
        with storage.writing_folder(Path(version)) as staging:
            _stage(model, staging, manifest, keys)
    except (OSError, shutil.Error) as error:
        if "No space left" in str(error) or getattr(error, "errno", None) == errno.ENOSPC:
            raise ConfigError(f"the disk that holds {base} is full; free some") from error
        if isinstance(error, shutil.Error):  # of all files that it could not copy
            raise OSError(error.args[0][0][2]) from error
        raise


def _check_space(model: Path, base: Path) -> None:
    """Refuse early: on a full disk others would fail too while the copy is under way."""
    needed, free = sum(storage.files(str(model)).values()), shutil.disk_usage(base).free
    if free < needed:
        raise ConfigError(
            f"the model takes {needed / 1e6:,.1f} MB and the disk that holds {base} has "
            f"{free / 1e6:,.1f} MB free; free some, or choose another push.directory"
        )


def _publish_to_store(
    model: Path, version: str, manifest: Manifest, keys: signing.Keys | None
) -> None:
    with tempfile.TemporaryDirectory() as folder:
        whole = Path(folder)
        _stage(model, whole, manifest, keys)
        last = [SERVABLE, *([signing.SIGNATURE] if keys else [])]
        try:
            for name in [*sorted({*manifest.files} - {*last}), *last]:
                storage.upload(str(whole / name), storage.join(version, name))
            number = int(storage.name(version))
            for name in damaged_files(storage.parent(version), number, manifest):
                raise ConfigError(
                    f"{storage.join(version, name)} does not read back as it was written; run again"
                )
            storage.upload(str(whole / MANIFEST), storage.join(version, MANIFEST))
        except BaseException:
            storage.remove_tree(version)
            raise
