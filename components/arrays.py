"""Files of named arrays, .npz, that one part of the product writes and another reads back."""

from __future__ import annotations

import io
from collections.abc import Mapping

import numpy as np

from components import storage
from components.errors import read_back


def read(location: str, members: Mapping[str, str]) -> dict[str, np.ndarray] | None:
    """Read the named arrays of the file at a path or URI; None where there is none.

    Args:
      location: path or URI.
      members: what each array is: the kind, as in NumPy's dtype.kind, and the names of its
        dimensions, such as "u N H W"; those of the same name are of the same size.

    Raises DamagedFileError where it is not such a file, else OSError.
    """
    try:
        content = storage.read_bytes(location)
    except (FileNotFoundError, NotADirectoryError):
        return None
    with read_back(location):
        found = _parsed(content, members)
        sizes: dict[str, int] = {}
        for name, member in members.items():
            kind, *dimensions = member.split()
            array = found[name]
            is_meant = array.dtype.kind == kind and array.ndim == len(dimensions)
            if not is_meant or any(
                sizes.setdefault(dimension, size) != size
                for dimension, size in zip(dimensions, array.shape, strict=True)
            ):
                raise ValueError(f"{name} is {array.dtype} {array.shape} and not {member}")
    return found


def _parsed(content: bytes, members: Mapping[str, str]) -> dict[str, np.ndarray]:
    try:
        with np.load(io.BytesIO(content), allow_pickle=False) as file:
            return {name: file[name] for name in members if name in file.files}
    # NumPy, zipfile and zlib have many kinds for it.
    except Exception as error:
        raise ValueError(f"it is not an .npz file: {error}") from error
