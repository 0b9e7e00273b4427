"""Decoding of an image file at ingest.

JPEG and PNG are stored unchanged: `components.decoding` turns, blends and converts them in
Transform and in the exported model. Other formats are converted to PNG: see `conversion`.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
from collections.abc import Sequence
from typing import TypeAlias

import numpy as np
import numpy.typing as npt
import tensorflow as tf

from components.decoding import TOGETHER, decode_now, decode_together
from components.image_example_gen import conversion, formats, luminance
from components.image_example_gen.conversion import Pixels
from components.image_example_gen.files import Unusable
from components.image_example_gen.formats import Header
from components.wording import of_op

THUMB = 9  # pixels a side
SMALL_PIXELS = 2**19  # of images that may be decoded together
SMALL_DECODED = 2**15  # their pixels after the reduction, of which a few hundred images wait


@dataclasses.dataclass(frozen=True)
class Picture:
    """A stored image and its properties.

    Attributes:
      encoded: the bytes of the stored file.
      format: "jpeg" or "png".
      width, height: pixels, upright.
      channels: 1 gray, 3 colour, 4 with alpha.
      normalized: the conversions on the way to pixels, "none" for none: "orientation", "alpha",
        "cmyk" and "16-bit" by `components.decoding`; "bmp", "gif", "tiff" and "webp" by the ingest,
        which stores a PNG.
      mean, contrast: mean and standard deviation of luminance, 0 to 255, of the image shrunk to
        about `luminance.STATISTICS_SIZE` pixels.
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


Decoded: TypeAlias = tf.Tensor | Picture | Unusable


def decode_images(batch: Sequence[bytes], max_pixels: int) -> list[Decoded]:
    """Decode files completely; `picture` does the rest, which is Python, and fast in one thread.

    Returns for each the picture, or why it cannot be used, or the pixels of a small JPEG. Several
    of these are decoded in one call.
    """
    small = _decode_small(batch, max_pixels)
    return [
        small[index] if index in small else _read(data, max_pixels)
        for index, data in enumerate(batch)
    ]


def picture(data: bytes, max_pixels: int, decoded: Decoded) -> Picture | Unusable:
    """Complete what `decode_images` returned for a file."""
    return decoded if isinstance(decoded, Picture | Unusable) else _read(data, max_pixels, decoded)


def _read(data: bytes, max_pixels: int, decoded: tf.Tensor | None = None) -> Picture | Unusable:
    try:
        return read_image(data, max_pixels, decoded)
    except Unusable as error:
        return error


def _decode_small(batch: Sequence[bytes], max_pixels: int) -> dict[int, tf.Tensor]:
    """Decode small JPEGs to pixels by position; large, damaged and remaining ones are left out."""
    by_ratio: dict[int, list[int]] = {}
    for index, data in enumerate(batch):
        with contextlib.suppress(Unusable):
            header = formats.header(data)
            if header and header.format == "jpeg":
                area, ratio = header.width * header.height, _ratio(header)
                if area <= min(max_pixels, SMALL_PIXELS, SMALL_DECODED * ratio**2):
                    by_ratio.setdefault(ratio, []).append(index)
    decoded: dict[int, tf.Tensor] = {}
    for ratio, found in by_ratio.items():
        for start in range(0, len(found), TOGETHER):
            some = found[start : start + TOGETHER]
            with contextlib.suppress(tf.errors.OpError):
                pixels = decode_together([batch[index] for index in some], ratio)
                decoded |= zip(some, pixels, strict=True)
    return decoded


def _ratio(header: Header) -> int:
    is_jpeg = header.format == "jpeg"
    return luminance.jpeg_ratio(header.width, header.height) if is_jpeg else 1


def read_image(data: bytes, max_pixels: int, decoded: tf.Tensor | None = None) -> Picture:
    """Decode a file completely. Raises only Unusable, for any `data`.

    decoded: its pixels, if `decode_together` has decoded them.
    """
    if not data:
        raise Unusable("empty", "zero bytes")
    header = conversion.header(data, max_pixels)
    if header is None:
        encoded, pixels, change = conversion.to_png(data, max_pixels)
        size = pixels.shape[1], pixels.shape[0]
        return _picture(encoded, "png", size, pixels, 3, change, 1)
    size, pixels, changes, orientation = _decode(data, header, decoded)
    return _picture(data, header.format, size, pixels, header.channels, changes, orientation)


def _decode(
    data: bytes, header: Header, decoded: tf.Tensor | None
) -> tuple[tuple[int, int], Pixels, str, int]:
    """Decode a JPEG or PNG, a large JPEG at a reduced size.

    Returns upright width and height, the pixels, the conversions, and EXIF's orientation.
    """
    try:
        upright = decode_now(data, _ratio(header), decoded)
    except tf.errors.OpError as error:
        raise Unusable("damaged", f"truncated or corrupt: {of_op(error.message)}") from error
    orientation = int(upright.orientation)
    changes = {
        "cmyk": header.is_cmyk,
        "16-bit": header.bits == 16,
        "alpha": bool(upright.is_clear),
        "orientation": orientation > 1,
    }
    told = "+".join(name for name, is_done in changes.items() if is_done)
    size = (header.width, header.height)
    size = size if orientation < 5 else size[::-1]
    return size, upright.pixels.numpy(), told or "none", orientation


def _picture(
    encoded: bytes,
    image_format: str,
    size: tuple[int, int],
    pixels: Pixels,
    channels: int,
    normalized: str,
    orientation: int,
) -> Picture:
    width, height = size
    small, across, down = luminance.shrunk(pixels)
    # The last row and column of a reduced JPEG cover fewer pixels; orientation may have moved them.
    ratio = round(height / pixels.shape[0])
    top = pixels.shape[0] - height / ratio if orientation in (3, 4, 7, 8) else 0
    left = pixels.shape[1] - width / ratio if orientation in (2, 3, 6, 7) else 0
    rows = _averaging(small.height, top / down, height / (ratio * down))
    columns = _averaging(small.width, left / across, width / (ratio * across))
    averages = (rows @ np.asarray(small).reshape(small.height, -1)).reshape(THUMB, -1, 3)
    mean, contrast = luminance.mean_and_contrast(small)
    return Picture(
        encoded=encoded,
        format=image_format,
        width=width,
        height=height,
        channels=channels,
        normalized=normalized,
        mean=mean,
        contrast=contrast,
        thumb=np.rint(columns @ averages).astype(np.uint8).tobytes(),
    )


@functools.lru_cache(1024)
def _averaging(count: int, start: float, size: float) -> npt.NDArray[np.float32]:
    """Return the weights, [THUMB, count], that average `count` pixels to those of the thumbnail.

    It covers `size` pixels from `start` on. Pillow's box filter counts whole pixels only.
    """
    ends = start + np.linspace(0, size, THUMB + 1)
    firsts, places = ends[:-1, np.newaxis], np.arange(count)
    overlap = np.minimum(ends[1:, np.newaxis], places + 1) - np.maximum(firsts, places)
    return (np.maximum(overlap, 0) * THUMB / size).astype(np.float32)
