"""Files of named arrays: each is what its reader takes it for, or the file is named as damaged."""

from __future__ import annotations

import io
import random
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from components import arrays
from components.errors import DamagedFileError

MEMBERS = {"digests": "U N", "probabilities": "f N classes", "maps": "u N height width"}
WRITTEN: Mapping[str, Any] = {
    "digests": np.array(["a", "b", "c"]),
    "probabilities": np.full((3, 2), 0.5, np.float32),
    "maps": np.zeros((3, 4, 5), np.uint8),
}


def content(**members: Any) -> bytes:
    buffer = io.BytesIO()
    np.savez(buffer, **members)
    return buffer.getvalue()


def test_what_was_written_is_read(tmp_path: Path) -> None:
    path = tmp_path / "file.npz"
    path.write_bytes(content(**WRITTEN, other=np.zeros(3)))
    found = arrays.read(str(path), MEMBERS)
    assert found is not None
    assert list(found) == list(MEMBERS)
    assert all(np.array_equal(found[name], WRITTEN[name]) for name in MEMBERS)


def test_where_there_is_no_file_there_is_nothing(tmp_path: Path) -> None:
    assert arrays.read(str(tmp_path / "none" / "file.npz"), MEMBERS) is None


@pytest.mark.parametrize(
    ("name", "array"),
    [
        ("digests", None),  # it is missing
        ("digests", np.array([b"a", b"b", b"c"])),
        ("digests", np.array(["a", "b"])),  # fewer than there are probabilities
        ("probabilities", np.full((3, 2), "half")),
        ("probabilities", np.full(3, 0.5)),
        ("probabilities", np.array(0.5)),
        ("maps", np.array([{}, {}, {}], object)),
    ],
)
def test_another_array_is_named_with_the_file(tmp_path: Path, name: str, array: Any) -> None:
    path = tmp_path / "file.npz"
    given = {**WRITTEN, name: array}
    path.write_bytes(content(**{k: v for k, v in given.items() if v is not None}))
    with pytest.raises(DamagedFileError) as caught:
        arrays.read(str(path), MEMBERS)
    assert str(path) in str(caught.value)
    assert any(each in str(caught.value) for each in MEMBERS) or array.dtype == object
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("junk", [b"", b"junk", b"PK\x03\x04", b"\x93NUMPY\x01\x00", b"\x80\x04K."])
def test_what_is_no_such_file_is_named(tmp_path: Path, junk: bytes) -> None:
    path = tmp_path / "file.npz"
    path.write_bytes(junk)
    with pytest.raises(DamagedFileError, match=r"file\.npz"):
        arrays.read(str(path), MEMBERS)


def test_an_array_alone_is_no_such_file(tmp_path: Path) -> None:
    path = tmp_path / "file.npz"
    with path.open("wb") as file:
        np.save(file, np.zeros(3))
    with pytest.raises(DamagedFileError):
        arrays.read(str(path), MEMBERS)


@pytest.mark.parametrize("seed", range(4))
def test_whatever_becomes_of_its_bytes_it_is_read_or_named(tmp_path: Path, seed: int) -> None:
    """Flipped, cut off and swapped bytes, compressed or not."""
    chance = random.Random(seed)
    buffer = io.BytesIO()
    np.savez_compressed(buffer, **WRITTEN)
    path = tmp_path / "file.npz"
    for original in 150 * [content(**WRITTEN), buffer.getvalue()]:
        damaged = bytearray(original)
        for _ in range(chance.randint(1, 8)):
            damaged[chance.randrange(len(damaged))] = chance.randrange(256)
        if chance.random() < 0.3:
            del damaged[chance.randrange(len(damaged)) :]
        path.write_bytes(damaged)
        try:
            found = arrays.read(str(path), MEMBERS)
        except DamagedFileError as error:
            assert str(path) in str(error)  # noqa: PT017 - either is right
        else:
            assert found is not None
            assert found["maps"].shape == (3, 4, 5)
