"""Conversion to PNG of image files that `components.decoding` cannot read.

It needs Pillow but not TensorFlow, so that clients of a model server can use it as well.
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

# Importing these plugins registers their formats with Pillow.
_ON_DEMAND = (TiffImagePlugin, WebPImagePlugin)
_FORMATS = ("GIF", "BMP", "DIB", "WEBP", "TIFF")
_BLOCK = 2**20  # pixels blended at a time


def header(data: bytes, max_pixels: int) -> Header | None:
    """Read the header of a JPEG or PNG; None for data that has to be converted.

    Raises Unusable if it is damaged, or has more than `max_pixels`.
    """
    found = formats.header(data)
    if found:
        _check_size(found.width, found.height, max_pixels)
    return found


def to_png(data: bytes, max_pixels: int) -> tuple[bytes, Pixels, str]:
    """Convert the first frame to PNG, upright and on white.

    Returns the PNG, its pixels, and the name of the old format. Raises Unusable.
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
    # Higher levels take six times as long, and save a twelfth of the bytes.
    Image.fromarray(pixels).save(buffer, "PNG", compress_level=1)
    return buffer.getvalue(), pixels, name


def to_bmp(pixels: Pixels) -> bytes:
    """Encode pixels as BMP.

    Unlike PNG, whose bytes depend on the version of the compressor, it always gives the same pixels
    the same hash, and therefore the same split.
    """
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "BMP")
    return buffer.getvalue()


class Summary(NamedTuple):
    """Properties of a JPEG or PNG, as in `images.Picture`."""

    format: str
    width: int
    height: int
    channels: int
    mean: float
    contrast: float


def summary(data: bytes, max_pixels: int) -> Summary | None:
    """Summarize a JPEG or PNG without TensorFlow; None for other data.

    The figures equal those of `images.read_image`, except for rounded colours of a CMYK image.

    Raises Unusable if it is damaged, or has more than `max_pixels`.
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
    """Open an image without reading its pixels. Raises Unusable."""
    assert _ON_DEMAND
    # Pillow's limit; ours is checked before any pixel is read.
    Image.MAX_IMAGE_PIXELS = None
    try:
        return Image.open(io.BytesIO(data), formats=kinds)
    except UnidentifiedImageError:
        name = formats.known(data)
        if name in _READ:
            raise Unusable("damaged", f"a {name} with a damaged or rare header") from None
        if name:
            raise Unusable("unsupported", f"{name}; {formats.ADVICE}") from None
        raise Unusable("not an image", "its format is unknown, or its header damaged") from None
    # Pillow's plugins raise almost any exception for damaged files.
    except Exception as error:
        raise _damaged(error) from error


_READ = ("GIF", "TIFF", "WebP")


def _check_size(width: int, height: int, max_pixels: int) -> None:
    if width * height > max_pixels:
        raise Unusable(
            "too large", f"{width:,} x {height:,} pixels, data.max_pixels = {max_pixels:,}"
        )


def _damaged(error: Exception) -> Unusable:
    """Convert an exception of Pillow."""
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
    # Pixels outside of a GIF's frame are transparent, but Pillow gives them a colour.
    left, top, right, bottom = frame
    canvas = np.full_like(rgb, 255)
    canvas[top:bottom, left:right] = rgb[top:bottom, left:right]
    return canvas


def _on_white(rgba: Pixels) -> Pixels:
    """Blend with white as in `components.decoding`, some rows at a time."""
    rgb = np.empty((*rgba.shape[:2], 3), np.uint8)
    rows = max(1, _BLOCK // rgba.shape[1])
    for top in range(0, len(rgba), rows):
        block = rgba[top : top + rows].astype(np.uint16)
        color, alpha = block[..., :3], block[..., 3:]
        rgb[top : top + rows] = (color * alpha + 255 * (255 - alpha) + 127) // 255
    return rgb
