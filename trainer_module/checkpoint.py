"""Checkpoints, from which a killed training continues."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import posixpath
import time
import zipfile
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from components import progress, storage

KEPT = 2  # the last one, and one more should that turn out to be damaged
ABANDONED_DAYS = 14
_META = "meta"
UNREADABLE = (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile)


@dataclasses.dataclass(frozen=True)
class Saved:
    """One checkpoint: JSON-able `meta`, and lists of arrays by name."""

    meta: dict[str, Any]
    arrays: dict[str, list[np.ndarray]]


def directory(model_run_dir: str, identity: Mapping[str, Any]) -> str:
    """Return the folder for trainings with the same `identity`, JSON-able, in any attempt.

    It is beside the outputs of the node's executions and not in them, because what a failed
    execution has put out is removed.
    """
    key = hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()[:16]
    node = posixpath.dirname(posixpath.dirname(model_run_dir.rstrip("/")))
    return posixpath.join(node, ".checkpoints", key)


class Checkpoints:
    """The checkpoints of one training, in a folder that may be remote."""

    def __init__(self, folder: str) -> None:
        self._folder = folder

    def save(self, number: int, meta: Mapping[str, Any], arrays: Mapping[str, Sequence]) -> None:
        """Write a checkpoint and remove older ones; a later one has a higher `number`."""
        write(posixpath.join(self._folder, f"{number:012d}.npz"), meta, arrays)
        for old in self._files()[:-KEPT]:
            storage.remove(old)

    def latest(self) -> Saved | None:
        """Read the newest checkpoint that is whole, or None."""
        for path in reversed(self._files()):
            try:
                return read(path)
            except UNREADABLE as error:
                progress.report(
                    "note", text=f"checkpoint {path} is damaged and passed over: {error}"
                )
        return None

    def clear(self) -> None:
        """Remove all, and those of other trainings that were never continued."""
        parent = posixpath.dirname(self._folder)
        for name in storage.names(parent):
            folder = posixpath.join(parent, name)
            if folder == self._folder or _is_abandoned(folder):
                storage.remove_tree(folder)

    def _files(self) -> list[str]:
        names = [name for name in storage.names(self._folder) if name.endswith(".npz")]
        return [posixpath.join(self._folder, name) for name in names if not name.startswith(".")]


def write(path: str, meta: Mapping[str, Any], arrays: Mapping[str, Sequence]) -> None:
    """Write a `Saved`, to remote storage too; whenever it is interrupted, whole or not at all."""
    # Variables stay as they are: NumPy makes arrays of them one by one, not of all at once.
    flat: dict[str, Any] = {_META: np.array(json.dumps(dict(meta)))}
    flat |= {
        f"{name}/{index}": array
        for name, each in arrays.items()
        for index, array in enumerate(each)
    }
    with storage.writing(path) as staging, staging.open("wb") as file:
        np.savez(file, allow_pickle=False, **flat)


def read(path: str) -> Saved:
    """Read a file of `write`. Raises one of `UNREADABLE`."""
    lists: dict[str, list[np.ndarray]] = {}
    with storage.opened(path) as file, np.load(file, allow_pickle=False) as arrays:
        meta = json.loads(str(arrays[_META]))
        for key in arrays.files:
            if key != _META:
                lists.setdefault(key.rpartition("/")[0], []).append(arrays[key])
    return Saved(meta, lists)


def _is_abandoned(folder: str) -> bool:
    changed = storage.changed(folder)
    return changed < time.time() - ABANDONED_DAYS * 86_400
