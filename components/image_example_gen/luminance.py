"""Brightness and contrast of an image, computed from a reduced one, without TensorFlow."""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from PIL import Image

STATISTICS_SIZE = 32  # pixels


class Small(NamedTuple):
    """A reduced image: each pixel is the mean of `across` x `down` pixels."""

    image: Image.Image
    across: int
    down: int


def jpeg_ratio(width: int, height: int) -> int:
    """Return the factor, 1, 2, 4 or 8, by which a JPEG may be reduced while it is decoded."""
    least = min(width, height) // STATISTICS_SIZE
    return next((ratio for ratio in (8, 4, 2) if ratio <= least), 1)


def shrunk(pixels: npt.NDArray[np.uint8]) -> Small:
    """Shrink RGB pixels [H, W, 3] to about STATISTICS_SIZE."""
    factor = max(1, min(pixels.shape[:2]) // STATISTICS_SIZE)
    # Two rows for each one of the result are enough, and faster.
    step = max(1, factor // 2)
    down = factor // step
    small = Image.fromarray(pixels[::step])
    if factor > 1:
        small = small.reduce((factor, down))
    return Small(small, factor, step * down)


def mean_and_contrast(small: Image.Image) -> tuple[float, float]:
    """Return the mean and the standard deviation of luminance, 0 to 255."""
    levels = np.asarray(small.convert("L")).ravel().astype(np.int64)
    count, total, squares = levels.size, int(levels.sum()), int(levels @ levels)
    return total / count, math.sqrt(count * squares - total**2) / count
