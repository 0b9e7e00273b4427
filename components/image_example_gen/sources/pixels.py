"""Image files made of bare pixels."""

from __future__ import annotations

import io

import numpy as np
import numpy.typing as npt

Pixels = npt.NDArray[np.uint8]  # [H, W, 3], RGB


def encode(pixels: Pixels) -> bytes:
    """A BMP of uint8 [H, W, 3], RGB.

    Unlike PNG, whose bytes change with the compressor's version, it gives the same pixels the same
    hash everywhere, and so the same split.
    """
    # Slow to import, and rarely needed.
    from PIL import Image

    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "BMP")
    return buffer.getvalue()
