"""CIFAR-10 as published: a folder of batches, of the binary or the Python version.

The Python version's batches are pickles, which could run any code. Here only dicts, lists, texts,
bytes, numbers and arrays of bytes can be unpickled.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import io
import json
import math
import os
import pickle
import re
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from components.errors import BadDataError
from components.image_example_gen import files
from components.image_example_gen.conversion import Pixels, to_bmp
from components.image_example_gen.options import Options
from components.image_example_gen.sources.base import Content, Item, Listing, Unit
from components.image_example_gen.sources.file_table import UNIT_FILES

BATCH = re.compile(r"(data_batch_\d|test_batch)(\.bin)?")
_META = ("batches.meta", "batches.meta.txt")
_SHAPE = (3, 32, 32)
_ROW = 1 + 3 * 32 * 32  # bytes: label, then the red, green and blue planes
_MAX_BYTES = 2**28  # a published batch has 30 MB


def recognises(location: str) -> bool:
    """Return whether a local folder contains batches."""
    return any(map(BATCH.fullmatch, _names(location)))


def listing(location: str, options: Options) -> Listing:  # noqa: ARG001 - the common interface
    """List the batches. Raises BadDataError if there are none."""
    names = _names(location)
    batches = [name for name in names if BATCH.fullmatch(name)]
    if not batches:
        raise BadDataError(
            f"{location}: no batches of CIFAR-10; unpack its archive and give the folder that "
            "holds data_batch_1"
        )
    meta = [name for name in names if name in _META]
    classes = _class_names(location, meta)
    return Listing(
        units=[
            _Batch(path, classes, part, parts)
            for path, parts in (_divided(os.path.join(location, name)) for name in batches)
            for part in range(parts)
        ],
        contents=lambda: [
            Content(json.dumps([name, "as BMP"]), os.path.join(location, name))
            for name in [*batches, *meta]
        ],
        ignored=Counter({"not a batch": len(names) - len(batches) - len(meta)}),
    )


def _names(location: str) -> list[str]:
    folder = Path(location)
    return sorted(path.name for path in folder.iterdir()) if folder.is_dir() else []


def _class_names(location: str, meta: list[str]) -> tuple[str, ...]:
    for name in meta:
        path = os.path.join(location, name)
        try:
            data = files.read(path, _MAX_BYTES)
            if name.endswith(".txt"):
                return tuple(data.decode().split())
            return tuple(label.decode() for label in loads(data)[b"label_names"])
        except (files.Unusable, ValueError, KeyError, TypeError, AttributeError) as error:
            raise BadDataError(f"{path}: not CIFAR-10's class names ({error})") from error
    return tuple(map(str, range(10)))


def _divided(path: str) -> tuple[str, int]:
    """Return a batch and the number of its parts."""
    with contextlib.suppress(OSError):
        return path, max(1, math.ceil(Path(path).stat().st_size / (UNIT_FILES * _ROW)))
    return path, 1


@dataclasses.dataclass(frozen=True)
class _Batch(Unit):
    """One of the `parts` of a batch file."""

    path: str
    classes: tuple[str, ...]
    part: int
    parts: int

    def items(self) -> Iterator[Item]:
        name = Path(self.path).name
        split = "test" if name.startswith("test") else "train"
        try:
            state = Path(self.path).stat()
            labels, images = _read(self.path, (state.st_mtime_ns, state.st_size, state.st_ino))
        except (files.Unusable, OSError, ValueError, KeyError, TypeError) as error:
            if self.part == 0:
                yield self._damaged(0, error)
            return
        known = range(len(self.classes))
        bad = next((row for row, label in enumerate(labels) if label not in known), len(labels))
        start, end = (len(labels) * part // self.parts for part in (self.part, self.part + 1))
        for row in range(start, min(end, bad)):
            pixels = images[row].reshape(_SHAPE).transpose(1, 2, 0)
            yield Item(
                name=f"{name}#{row:05d}",
                label=self.classes[labels[row]],
                load=functools.partial(to_bmp, pixels),
                size=pixels.nbytes,
                split=split,
            )
        if start <= bad < end:
            yield self._damaged(bad, f"{labels[bad]} is not a class")

    def _damaged(self, row: int, reason: object) -> Item:
        return Item(
            name=f"{Path(self.path).name}#{row:05d}",
            label="",
            load=functools.partial(files.read, self.path, _MAX_BYTES),
            size=0,
            problem=("damaged", f"this image and all after it cannot be read: {reason}"),
        )


# A batch can only be read whole, and its parts come one after the other.
@functools.lru_cache(maxsize=1)
def _read(path: str, state: tuple[int, ...]) -> tuple[list[int], Pixels]:  # noqa: ARG001 - a key
    """Return labels, and uint8 [N, 3072]. Raises Unusable, ValueError, KeyError or TypeError."""
    data = files.read(path, _MAX_BYTES)
    if path.endswith(".bin"):
        whole, rest = divmod(len(data), _ROW)
        if rest or not whole:
            raise ValueError(f"{len(data):,} bytes are not a whole number of {_ROW:,}-byte rows")
        rows = np.frombuffer(data, np.uint8).reshape(-1, _ROW)
        return rows[:, 0].tolist(), rows[:, 1:]
    batch = loads(data)
    labels, images = batch[b"labels"], batch[b"data"]
    if not (isinstance(images, np.ndarray) and images.shape == (len(labels), _ROW - 1)):
        raise ValueError("not a batch of 32 x 32 images")
    return [int(label) for label in labels], images


def loads(data: bytes) -> Any:
    """Unpickle plain values and arrays of bytes. Raises ValueError for other data."""
    try:
        return _resolve(_Unpickler(io.BytesIO(data), encoding="bytes").load())
    # Unpickling damaged bytes raises almost any exception.
    except Exception as error:
        raise ValueError(f"not a plain pickle: {error}") from error


class _Dtype:
    """Replacement of numpy.dtype, which only has a name."""

    def __init__(self, name: object, *_: object) -> None:
        self.name = name

    def __setstate__(self, state: object) -> None:
        pass  # byte order and alignment, which do not matter for bytes


class _Array:
    """Replacement of numpy.ndarray until its values are set."""

    values: Pixels

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        _, shape, dtype, is_fortran, raw = state
        if getattr(dtype, "name", None) not in (b"u1", "u1") or is_fortran:
            raise pickle.UnpicklingError("an array of other values than bytes")
        self.values = np.frombuffer(raw, np.uint8).reshape(shape)


def _resolve(value: Any) -> Any:
    """Replace `_Array` by its values, at the top level of a dict."""
    if not isinstance(value, dict):
        raise ValueError("not a dict")
    return {k: v.values if isinstance(v, _Array) else v for k, v in value.items()}


class _Maker:
    """A function that a pickle may call but not modify."""

    def __init__(self, make: Callable[..., Any]) -> None:
        self._make = make

    def __call__(self, *args: object) -> Any:
        return self._make(*args)

    def __setstate__(self, state: object) -> None:
        raise pickle.UnpicklingError("a state for a function")


class _Unpickler(pickle.Unpickler):
    """Unpickler that finds only the replacements of the parts of an array."""

    _known: dict[tuple[str, str], Callable[..., Any]] = {
        ("numpy", "ndarray"): _Array,
        ("numpy", "dtype"): _Dtype,
        ("numpy.core.multiarray", "_reconstruct"): _Maker(lambda *_: _Array()),
        ("numpy._core.multiarray", "_reconstruct"): _Maker(lambda *_: _Array()),
        ("_codecs", "encode"): _Maker(lambda text, _encoding: text.encode("latin1")),
    }

    def find_class(self, module: str, name: str) -> Callable[..., Any]:
        try:
            return self._known[module, name]
        except KeyError:
            raise pickle.UnpicklingError(f"{module}.{name} is not allowed") from None

    def persistent_load(self, pid: object) -> Any:
        raise pickle.UnpicklingError(f"persistent id {pid!r} is not allowed")
