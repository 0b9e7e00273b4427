"""Digests of what damaged files are read as, to be compared between processes.

    MALLOC_PERTURB_=170 python -m tests.kit.readings

prints a line for each: memory that was never written differs from one process to the other.
"""

from __future__ import annotations

import hashlib

import numpy as np

from components.image_example_gen.files import Unusable
from components.image_example_gen.images import read_image
from tests.kit import image_corpus as corpus

EACH = 12  # damaged copies of a file


def main() -> None:
    """Damage a file of each kind in the same ways each time, and read it."""
    rng = np.random.default_rng(0)
    for name, (content, _) in corpus.VALID.items():
        if "/" in name or "one pixel" in name or name.endswith((".JPG", ".123")):
            continue
        data = content(3)
        for _ in range(EACH * (3 if "tif" in name.lower() else 1)):
            damaged = bytearray(data)
            for _ in range(rng.integers(1, 4)):
                damaged[rng.integers(len(data))] ^= 1 << rng.integers(8)
            if rng.random() < 0.2:
                del damaged[rng.integers(len(data)) :]
            print(name.encode(), _reading(bytes(damaged)))


def _reading(data: bytes) -> str:
    try:
        picture = read_image(data, 1_000_000)
    except Unusable as error:
        return error.kind
    known = (picture.encoded, picture.thumb, picture.mean, picture.contrast, picture.normalized)
    return hashlib.sha256(repr(known).encode()).hexdigest()


if __name__ == "__main__":
    main()
