"""Pictures in the encodings that Transform has to decode."""

from __future__ import annotations

import io
from typing import Any

import numpy as np
from PIL import Image

# Format, PIL mode.
ENCODINGS = [
    ("PNG", "L"),
    ("PNG", "LA"),
    ("PNG", "P"),
    ("PNG", "RGB"),
    ("PNG", "RGBA"),
    ("JPEG", "L"),
    ("JPEG", "RGB"),
    ("JPEG", "CMYK"),
]
IDS = ["-".join(encoding) for encoding in ENCODINGS]


def picture(width: int = 31, height: int = 23) -> Image.Image:
    noise = np.random.default_rng(0).integers(0, 256, (6, 8, 3), dtype=np.uint8)
    return Image.fromarray(noise).resize((width, height), Image.Resampling.BICUBIC)


def encode(image: Image.Image, image_format: str = "PNG", **options: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, image_format, **options)
    return buffer.getvalue()
