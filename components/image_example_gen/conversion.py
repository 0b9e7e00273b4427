"""Opens image files, and makes PNGs of those that `components.decoding` cannot read.

It needs Pillow and no TensorFlow, so that a client of a model server can do what the ingest does.
"""

from __future__ import annotations

import io
import re

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageOps, TiffImagePlugin, UnidentifiedImageError, WebPImagePlugin

from components.image_example_gen.files import Unusable

Pixels = npt.NDArray[np.uint8]  # [H, W, 3], RGB

# Pillow loads these plugins on demand only, and knows them only once they are loaded.
_ON_DEMAND = (TiffImagePlugin, WebPImagePlugin)
_FORMATS = ("JPEG", "PNG", "GIF", "BMP", "DIB", "WEBP", "TIFF")
_NOT_IMAGES = {
    "HEIF or AVIF": re.compile(rb"^....ftyp(heic|heix|hevc|mif1|msf1|avif|avis)", re.DOTALL),
    "JPEG 2000 or XL": re.compile(rb"^(\x00\x00\x00\x0c(jP|JXL) |\xff\x0a|\xff\x4f\xff\x51)"),
    "SVG": re.compile(rb"^\s*(<\?xml[^>]*>\s*)?(<!--.*?-->\s*)?<svg", re.DOTALL),
    "a web page": re.compile(rb"^\s*(<!doctype html|<html|<head|<body)", re.IGNORECASE),
    "PDF": re.compile(rb"^%PDF"),
    "ICO": re.compile(rb"^\x00\x00\x01\x00"),
    "PSD": re.compile(rb"^8BPS"),
}


def readable(data: bytes, max_pixels: int) -> bytes:
    """The image as an exported model can read it: `data`, or a PNG of the same pixels.

    Raises Unusable where it is no image or one of more than `max_pixels`, and for TIFF, odd BMPs
    and animations where it is damaged.
    """
    with open_image(data, max_pixels) as image:
        return to_png(image)[0] if conversion(data, image, max_pixels) else data


def open_image(data: bytes, max_pixels: int) -> Image.Image:
    """The image, its header read and its pixels not. Raises Unusable."""
    assert _ON_DEMAND
    # Our own limit is checked before any pixel is read; Pillow's is another.
    Image.MAX_IMAGE_PIXELS = None
    try:
        header = Image.open(io.BytesIO(data), formats=_FORMATS)
    except UnidentifiedImageError:
        for name, pattern in _NOT_IMAGES.items():
            if pattern.match(data):
                raise Unusable("unsupported", f"{name}; convert it to JPEG or PNG") from None
        raise Unusable("not an image", "of no known format, or with a damaged header") from None
    # Pillow's plugins meet damaged files with almost any exception there is.
    except Exception as error:
        raise damaged(error) from error
    if header.width * header.height > max_pixels:
        raise Unusable(
            "too large",
            f"{header.width:,} x {header.height:,} pixels, data.max_pixels = {max_pixels:,}",
        )
    return header


def damaged(error: Exception) -> Unusable:
    """What an exception of Pillow's means."""
    return Unusable("damaged", f"{type(error).__name__}: {error}")


def conversion(data: bytes, image: Image.Image, max_pixels: int) -> str:
    """Why `data`, opened as `image`, has to be converted, "" where it need not be."""
    if image.format == "TIFF" or (image.format in ("BMP", "DIB") and not _is_plain_bmp(data)):
        return image.format.lower()
    try:
        frames = getattr(image, "n_frames", 1)
    except Exception as error:
        raise damaged(error) from error
    # Of a GIF, TensorFlow decodes all frames to return the first one.
    is_long = image.format == "GIF" and frames * image.width * image.height > max_pixels
    return "first-frame" if is_long or (image.format == "WEBP" and frames > 1) else ""


def _is_plain_bmp(data: bytes) -> bool:
    """24 bits, uncompressed: of any other TensorFlow takes palette indices or masks for colours."""
    return data[:2] == b"BM" and data[14] >= 40 and data[28:34] == b"\x18\0\0\0\0\0"


def to_png(image: Image.Image) -> tuple[bytes, Pixels]:
    """A PNG of the first frame, upright and on white, and its pixels. Raises Unusable."""
    try:
        pixels = _pixels(image)
    except Unusable:
        raise
    except Exception as error:
        raise damaged(error) from error
    buffer = io.BytesIO()
    # Higher levels take six times as long to save a twelfth.
    Image.fromarray(pixels).save(buffer, "PNG", compress_level=1)
    return buffer.getvalue(), pixels


def _pixels(image: Image.Image) -> Pixels:
    image.seek(0)
    tiles = getattr(image, "tile", None)
    frame = tiles[0][1] if image.format == "GIF" and tiles else (0, 0, *image.size)
    image.load()
    image = ImageOps.exif_transpose(image)
    if image.mode.startswith("I;16"):
        gray = (np.asarray(image).astype(np.uint16) >> 8).astype(np.uint8)
        return np.repeat(gray[..., np.newaxis], 3, axis=2)
    if image.mode in ("I", "F"):
        raise Unusable("unsupported", "more than 16 bits a channel; convert it to 8-bit PNG")
    if "A" in image.mode or "transparency" in image.info:
        rgb = _on_white(np.asarray(image.convert("RGBA")))
    else:
        rgb = np.asarray(image.convert("RGB"))
    if frame == (0, 0, *image.size):
        return rgb
    # What a GIF's frame does not cover is transparent, whatever colour Pillow gives it.
    left, top, right, bottom = frame
    canvas = np.full_like(rgb, 255)
    canvas[top:bottom, left:right] = rgb[top:bottom, left:right]
    return canvas


def _on_white(rgba: Pixels) -> Pixels:
    color, alpha = rgba[..., :3].astype(np.uint32), rgba[..., 3:].astype(np.uint32)
    return ((color * alpha + 255 * (255 - alpha) + 127) // 255).astype(np.uint8)
