"""What a trainer that was killed continues from."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import posixpath
import tempfile
import time
import zipfile
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import tensorflow as tf

from components import progress

KEPT = 2  # the last one, and one more should that turn out to be damaged
ABANDONED_DAYS = 14
_META = "meta"
UNREADABLE = (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile, tf.errors.OpError)


@dataclasses.dataclass(frozen=True)
class Saved:
    """One checkpoint: JSON-able `meta`, and lists of arrays by name."""

    meta: dict[str, Any]
    arrays: dict[str, list[np.ndarray]]


def directory(model_run_dir: str, identity: Mapping[str, Any]) -> str:
    """The folder for trainings with the same `identity`, JSON-able: another attempt finds it.

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
            tf.io.gfile.remove(old)

    def latest(self) -> Saved | None:
        """The newest checkpoint that is whole, or None."""
        for path in reversed(self._files()):
            try:
                return read(path)
            except UNREADABLE as error:
                progress.report(
                    "note", text=f"checkpoint {path} is damaged and passed over: {error}"
                )
        return None

    def clear(self) -> None:
        """Remove all, and those of other trainings that nobody came back to."""
        parent = posixpath.dirname(self._folder)
        for name in tf.io.gfile.listdir(parent) if tf.io.gfile.isdir(parent) else []:
            folder = posixpath.join(parent, name.rstrip("/"))
            if folder == self._folder or _is_abandoned(folder):
                tf.io.gfile.rmtree(folder)

    def _files(self) -> list[str]:
        return sorted(tf.io.gfile.glob(posixpath.join(self._folder, "*.npz")))


def write(path: str, meta: Mapping[str, Any], arrays: Mapping[str, Sequence]) -> None:
    """Write a `Saved`, to remote storage too; whenever it is interrupted, whole or not at all."""
    # Variables stay as they are: NumPy makes arrays of them one by one, not of all at once.
    flat: dict[str, Any] = {_META: np.array(json.dumps(dict(meta)))}
    flat |= {
        f"{name}/{index}": array
        for name, each in arrays.items()
        for index, array in enumerate(each)
    }
    tf.io.gfile.makedirs(posixpath.dirname(path))
    # A zip file needs to seek, which files on remote storage cannot.
    with tempfile.NamedTemporaryFile(suffix=".npz") as file:
        np.savez(file, allow_pickle=False, **flat)
        file.flush()
        tf.io.gfile.copy(file.name, f"{path}.partial", overwrite=True)
    tf.io.gfile.rename(f"{path}.partial", path, overwrite=True)


def read(path: str) -> Saved:
    """What `write` wrote. Raises one of `UNREADABLE`."""
    lists: dict[str, list[np.ndarray]] = {}
    with tf.io.gfile.GFile(path, "rb") as file, np.load(file, allow_pickle=False) as arrays:
        meta = json.loads(str(arrays[_META]))
        for key in arrays.files:
            if key != _META:
                lists.setdefault(key.rpartition("/")[0], []).append(arrays[key])
    return Saved(meta, lists)


def _is_abandoned(folder: str) -> bool:
    files = tf.io.gfile.glob(posixpath.join(folder, "*"))
    newest = max((tf.io.gfile.stat(file).mtime_nsec for file in files), default=0)
    return newest / 1e9 < time.time() - ABANDONED_DAYS * 86_400
