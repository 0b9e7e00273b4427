"""Conversion to PNG of image files that `components.decoding` cannot read.

It needs Pillow and no TensorFlow, so that a client of a model server can do what the ingest does.
"""

from __future__ import annotations

import io
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from PIL import ExifTags, Image, ImageOps, TiffImagePlugin, UnidentifiedImageError, WebPImagePlugin

from components.image_example_gen import formats, luminance, tiff
from components.image_example_gen.files import Unusable
from components.image_example_gen.formats import Header

Pixels = npt.NDArray[np.uint8]  # [H, W, 3], RGB

# Pillow loads these plugins on demand only, and knows them only once they are loaded.
_ON_DEMAND = (TiffImagePlugin, WebPImagePlugin)
_FORMATS = ("GIF", "BMP", "DIB", "WEBP", "TIFF")
_BLOCK = 2**20  # pixels that are blended at a time


def header(data: bytes, max_pixels: int) -> Header | None:
    """Read the header of an image that is kept as it is; None for one that must be converted.

    Raises Unusable where it is damaged, or has more than `max_pixels`.
    """
    found = formats.header(data)
    if found:
        _check_size(found.width, found.height, max_pixels)
    return found


def to_png(data: bytes, max_pixels: int) -> tuple[bytes, Pixels, str]:
    """Make a PNG of the first frame, upright and on white.

    Returns it, its pixels, and the name of the old format.

    Raises Unusable.
    """
    with _open(data) as image:
        _check_size(image.width, image.height, max_pixels)
        try:
            if isinstance(image, TiffImagePlugin.TiffImageFile):
                tiff.check(data, image, max_pixels)
            pixels = _pixels(image)
        except Unusable:
            raise
        except Exception as error:
            raise _damaged(error) from error
        name = {"DIB": "bmp"}.get(str(image.format), str(image.format).lower())
    buffer = io.BytesIO()
    # Higher levels take six times as long to save a twelfth.
    Image.fromarray(pixels).save(buffer, "PNG", compress_level=1)
    return buffer.getvalue(), pixels, name


class Summary(NamedTuple):
    """A JPEG or PNG, as `images.Picture` has it."""

    format: str
    width: int
    height: int
    channels: int
    mean: float
    contrast: float


def summary(data: bytes, max_pixels: int) -> Summary | None:
    """Summarize a JPEG or PNG by Pillow alone; None for anything else.

    The figures are those of `images.read_image`, up to the rounding of colours in a CMYK image.

    Raises Unusable where it is damaged, or has more than `max_pixels`.
    """
    found = header(data, max_pixels)
    if found is None:
        return None
    with _open(data, ("JPEG", "PNG")) as image:
        try:
            if found.format == "jpeg":
                ratio = luminance.jpeg_ratio(found.width, found.height)
                image.draft(None, (found.width // ratio, found.height // ratio))
            is_turned = image.getexif().get(ExifTags.Base.Orientation, 1) in (5, 6, 7, 8)
            pixels = _pixels(image)
        except Exception as error:
            raise _damaged(error) from error
    size = (found.width, found.height)
    width, height = size[::-1] if is_turned else size
    shown = luminance.mean_and_contrast(luminance.shrunk(pixels).image)
    return Summary(found.format, width, height, found.channels, *shown)


def _open(data: bytes, kinds: tuple[str, ...] = _FORMATS) -> Image.Image:
    """Open an image, of which only the header is read. Raises Unusable."""
    assert _ON_DEMAND
    # Our own limit is checked before any pixel is read; Pillow's is another.
    Image.MAX_IMAGE_PIXELS = None
    try:
        return Image.open(io.BytesIO(data), formats=kinds)
    except UnidentifiedImageError:
        name = formats.known(data)
        if name in _READ:
            raise Unusable("damaged", f"a {name} with a damaged or rare header") from None
        if name:
            raise Unusable("unsupported", f"{name}; {formats.ADVICE}") from None
        raise Unusable("not an image", "of no known format, or with a damaged header") from None
    # Pillow's plugins meet damaged files with almost any exception there is.
    except Exception as error:
        raise _damaged(error) from error


_READ = ("GIF", "TIFF", "WebP")


def _check_size(width: int, height: int, max_pixels: int) -> None:
    if width * height > max_pixels:
        raise Unusable(
            "too large", f"{width:,} x {height:,} pixels, data.max_pixels = {max_pixels:,}"
        )


def _damaged(error: Exception) -> Unusable:
    """Translate an exception of Pillow's."""
    return Unusable("damaged", f"{type(error).__name__}: {error}")


def _pixels(image: Image.Image) -> Pixels:
    image.seek(0)
    tiles = getattr(image, "tile", None)
    frame = tiles[0][1] if image.format == "GIF" and tiles else None
    image.load()
    image = ImageOps.exif_transpose(image)
    if image.mode.startswith("I;16"):
        gray = (np.asarray(image) >> 8).astype(np.uint8)
        return np.repeat(gray[..., np.newaxis], 3, axis=2)
    if image.mode in ("I", "F"):
        raise Unusable("unsupported", "more than 16 bits a channel; convert it to 8-bit PNG")
    if "A" in image.mode or "transparency" in image.info:
        rgb = _on_white(np.asarray(image.convert("RGBA")))
    else:
        rgb = np.asarray(image.convert("RGB"))
    if frame in (None, (0, 0, *image.size)):
        return rgb
    # What a GIF's frame does not cover is transparent, whatever colour Pillow gives it.
    left, top, right, bottom = frame
    canvas = np.full_like(rgb, 255)
    canvas[top:bottom, left:right] = rgb[top:bottom, left:right]
    return canvas


def _on_white(rgba: Pixels) -> Pixels:
    """Blend with white as `components.decoding` does, some rows at a time."""
    rgb = np.empty((*rgba.shape[:2], 3), np.uint8)
    rows = max(1, _BLOCK // rgba.shape[1])
    for top in range(0, len(rgba), rows):
        block = rgba[top : top + rows].astype(np.uint16)
        color, alpha = block[..., :3], block[..., 3:]
        rgb[top : top + rows] = (color * alpha + 255 * (255 - alpha) + 127) // 255
    return rgb
