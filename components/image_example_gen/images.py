"""Decoding an image file once, and what of it is kept.

JPEG and PNG are kept byte for byte: `components.decoding`, which Transform and the exported model
read them by, turns, blends and converts what is stored otherwise, and the record says so. Anything
else becomes a PNG: see `conversion`.
"""

from __future__ import annotations

import dataclasses

import numpy as np
import tensorflow as tf
from PIL import Image

from components.decoding import decode_now
from components.image_example_gen import conversion
from components.image_example_gen.conversion import Pixels
from components.image_example_gen.files import Unusable
from components.image_example_gen.formats import Header
from components.wording import of_op

THUMB = 9  # pixels a side
STATISTICS_SIZE = 64  # pixels

_LEVELS = np.arange(256)


@dataclasses.dataclass(frozen=True)
class Picture:
    """An image as it is stored, and what is known of it.

    Attributes:
      encoded: the stored file's bytes.
      format: "jpeg" or "png".
      width, height: pixels, upright.
      channels: 1 gray, 3 colour, 4 with alpha.
      normalized: what is changed on the way to pixels, "none" for nothing: "orientation", "alpha",
        "cmyk" and "16-bit" by `components.decoding`; "bmp", "gif", "tiff" and "webp" by the ingest,
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
    header = conversion.header(data, max_pixels)
    if header is None:
        encoded, pixels, change = conversion.to_png(data, max_pixels)
        size = pixels.shape[1], pixels.shape[0]
        return _picture(encoded, "png", size, pixels, 3, change)
    size, pixels, changes = _decode(data, header)
    return _picture(data, header.format, size, pixels, header.channels, changes)


def _decode(data: bytes, header: Header) -> tuple[tuple[int, int], Pixels, str]:
    """Upright width and height, pixels of the image or of one shrunk, and what was changed."""
    ratio = 1
    if header.format == "jpeg":
        least = min(header.width, header.height) // STATISTICS_SIZE
        ratio = next((ratio for ratio in (8, 4, 2) if ratio <= least), 1)
    try:
        decoded = decode_now(data, ratio)
    except tf.errors.OpError as error:
        raise Unusable("damaged", f"truncated or corrupt: {of_op(error.message)}") from error
    orientation = int(decoded.orientation)
    changes = {
        "cmyk": header.is_cmyk,
        "16-bit": header.bits == 16,
        "alpha": bool(decoded.is_clear),
        "orientation": orientation > 1,
    }
    told = "+".join(name for name, is_done in changes.items() if is_done)
    size = (header.width, header.height)
    return size if orientation < 5 else size[::-1], decoded.pixels.numpy(), told or "none"


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
    counts = np.array(small.convert("L").histogram())
    mean = counts @ _LEVELS / counts.sum()
    return Picture(
        encoded=encoded,
        format=image_format,
        width=width,
        height=height,
        channels=channels,
        normalized=normalized,
        mean=float(mean),
        contrast=float(np.sqrt(counts @ (_LEVELS - mean) ** 2 / counts.sum())),
        thumb=small.resize((THUMB, THUMB), Image.Resampling.BOX).tobytes(),
    )
