"""Folders of small images: data roots for tests."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image

from tests.kit import image_corpus as corpus


def photos(root: Path, *sizes: tuple[int, int]) -> str:
    """Images of (width, height), in two classes."""
    for index, size in enumerate(sizes):
        folder = root / f"class{index % 2}"
        folder.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", size).save(folder / f"{index}.png")
    return str(root)


def put(root: Path, *names: str) -> Path:
    """Distinct images at `names` below `root`."""
    for seed, name in enumerate(names):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(corpus.make("PNG", seed))
    return root


def write_span(root: Path, number: int, images: int = 30, labels: str = "ab") -> None:
    """Distinct images of noise."""
    for label in labels:
        folder = root / str(number) / label
        folder.mkdir(parents=True)
        for index in range(images):
            random = np.random.default_rng([number, ord(label), index])
            pixels = random.integers(0, 256, (9, 9, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(folder / f"{index}.png")
