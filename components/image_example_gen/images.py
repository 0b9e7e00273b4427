"""Decoding an image file once, and what of it is kept.

A file is kept byte for byte where `components.decoding` can read it, which is what Transform and
the exported model do; that reading turns, blends and converts what is stored otherwise, and the
record says so. Anything else becomes a PNG: see `conversion`.
"""

from __future__ import annotations

import dataclasses
import re

import numpy as np
import tensorflow as tf
from PIL import Image

from components.decoding import decode_now
from components.image_example_gen import conversion
from components.image_example_gen.conversion import Pixels
from components.image_example_gen.files import Unusable

THUMB = 9  # pixels a side
STATISTICS_SIZE = 64  # pixels

_LUMA = np.array([0.299, 0.587, 0.114], np.float32)
_TENSORFLOW_NOISE = re.compile(r"\{\{function_node.*?\}\} | \[Op:\w+\].*", re.DOTALL)


@dataclasses.dataclass(frozen=True)
class Picture:
    """An image as it is stored, and what is known of it.

    Attributes:
      encoded: the stored file's bytes.
      format: "jpeg", "png", "gif", "bmp" or "webp".
      width, height: pixels, upright.
      channels: 1 gray, 3 colour, 4 with alpha.
      normalized: what is changed on the way to pixels, "none" for nothing: "orientation", "alpha",
        "cmyk" and "16-bit" by `components.decoding`; "tiff", "bmp" and "first-frame" by the ingest,
        which stores a PNG.
      mean, contrast: mean and standard deviation of luminance, 0 to 255, of the image shrunk to
        about STATISTICS_SIZE pixels.
      thumb: THUMB x THUMB RGB pixels.
    """

    encoded: bytes
    format: str
    width: int
    height: int
    channels: int
    normalized: str
    mean: float
    contrast: float
    thumb: bytes


def read_image(data: bytes, max_pixels: int) -> Picture:
    """Decode a file completely. Raises Unusable, and nothing else whatever `data` is."""
    if not data:
        raise Unusable("empty", "zero bytes")
    with conversion.open_image(data, max_pixels) as header:
        if change := conversion.conversion(data, header, max_pixels):
            encoded, pixels = conversion.to_png(header)
            size = pixels.shape[1], pixels.shape[0]
            return _picture(encoded, "png", size, pixels, 3, change)
        size, pixels, changes = _decode(data, header)
        image_format = "jpeg" if header.format == "MPO" else str(header.format).lower()
        return _picture(data, image_format, size, pixels, _channels(header), changes)


def _decode(data: bytes, header: Image.Image) -> tuple[tuple[int, int], Pixels, str]:
    """Upright width and height, pixels of the image or of one shrunk, and what was changed."""
    ratio = 1
    if header.format in ("JPEG", "MPO"):
        least = min(header.size) // STATISTICS_SIZE
        ratio = next((ratio for ratio in (8, 4, 2) if ratio <= least), 1)
    try:
        decoded = decode_now(data, ratio)
    except tf.errors.OpError as error:
        reason = _TENSORFLOW_NOISE.sub("", error.message)
        raise Unusable("damaged", f"truncated or corrupt: {reason}") from error
    orientation = int(decoded.orientation)
    changes = {
        "cmyk": header.mode == "CMYK",
        # The first chunk of a PNG is IHDR, whose ninth byte is the depth: the mode does not tell.
        "16-bit": header.format == "PNG" and data[24] == 16,
        "alpha": bool(decoded.is_clear),
        "orientation": orientation > 1,
    }
    told = "+".join(name for name, is_done in changes.items() if is_done)
    width, height = header.size if orientation < 5 else reversed(header.size)
    return (width, height), decoded.pixels.numpy(), told or "none"


def _channels(header: Image.Image) -> int:
    if header.mode in ("RGBA", "LA", "PA") or "transparency" in header.info:
        return 4
    return 1 if header.mode in ("1", "L", "I;16", "I") else 3


def _picture(
    encoded: bytes,
    image_format: str,
    size: tuple[int, int],
    pixels: Pixels,
    channels: int,
    normalized: str,
) -> Picture:
    width, height = size
    factor = max(1, min(pixels.shape[:2]) // STATISTICS_SIZE)
    # Two rows for each that is left are enough, and spare most of the copying.
    step = max(1, factor // 2)
    small = Image.fromarray(pixels[::step]).reduce((factor, factor // step))
    luminance = np.asarray(small) @ _LUMA
    return Picture(
        encoded=encoded,
        format=image_format,
        width=width,
        height=height,
        channels=channels,
        normalized=normalized,
        mean=float(luminance.mean()),
        contrast=float(luminance.std()),
        thumb=small.resize((THUMB, THUMB), Image.Resampling.BOX).tobytes(),
    )
