"""Image files made of bare pixels."""

from __future__ import annotations

import io

from PIL import Image

from components.image_example_gen.conversion import Pixels


def encode(pixels: Pixels) -> bytes:
    """Encode uint8 [H, W, 3], RGB, as a BMP.

    Unlike PNG, whose bytes change with the compressor's version, it gives the same pixels the same
    hash everywhere, and so the same split.
    """
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "BMP")
    return buffer.getvalue()
