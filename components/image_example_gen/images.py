"""Decoding an image file once, and what of it is kept.

What reads images later, Transform and serving, is `tf.io.decode_image(channels=3,
expand_animations=False)`. A file that it shows as a viewer would is kept byte for byte. The others
are normalised, which serving does not do with what it is sent:

- EXIF orientation is applied, CMYK becomes RGB: a new JPEG, quality 95 without chroma subsampling;
- alpha and transparency are composited on white, 16 bits cut to their upper 8, WebP, TIFF and the
  kinds of BMP and GIF that TensorFlow misreads become RGB: a new PNG, which loses nothing more.
"""

from __future__ import annotations

import dataclasses
import io
import re
from typing import Any

import numpy as np
import numpy.typing as npt
import tensorflow as tf
from PIL import ExifTags, Image, ImageOps, TiffImagePlugin, UnidentifiedImageError, WebPImagePlugin

from components.image_example_gen.files import Unusable

Pixels = npt.NDArray[np.uint8]  # [H, W, 3], RGB

THUMB = 9  # pixels a side
STATISTICS_SIZE = 64  # pixels
JPEG_QUALITY = 95

_LUMA = np.array([0.299, 0.587, 0.114], np.float32)
_JPEG = ("JPEG", "MPO")
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
_TENSORFLOW_NOISE = re.compile(r"\{\{function_node.*?\}\} | \[Op:\w+\].*", re.DOTALL)


@dataclasses.dataclass(frozen=True)
class Picture:
    """An image as it is stored, and what is known of it.

    Attributes:
      encoded: the stored file's bytes.
      format: "jpeg", "png", "gif" or "bmp".
      width, height: pixels.
      channels: 1 gray, 3 colour, 4 with alpha.
      normalized: what was changed, "none" for nothing.
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
    try:
        with _header(data, max_pixels) as header:
            return _read(data, header, max_pixels)
    except Unusable:
        raise
    # Pillow's plugins meet damaged files with almost any exception there is.
    except Exception as error:
        raise Unusable("damaged", f"{type(error).__name__}: {error}") from error


def _header(data: bytes, max_pixels: int) -> Image.Image:
    """The image, its header read and its pixels not."""
    assert _ON_DEMAND
    # Our own limit is checked before any pixel is read; Pillow's is another.
    Image.MAX_IMAGE_PIXELS = None
    try:
        header = Image.open(io.BytesIO(data), formats=_FORMATS)
    except UnidentifiedImageError:
        for name, pattern in _NOT_IMAGES.items():
            if pattern.match(data):
                raise Unusable("unsupported", f"{name}; convert it to JPEG or PNG") from None
        raise Unusable("not an image", "or one with a damaged header") from None
    if header.width * header.height > max_pixels:
        raise Unusable(
            "too large",
            f"{header.width:,} x {header.height:,} pixels, data.max_pixels = {max_pixels:,}",
        )
    return header


def _read(data: bytes, header: Image.Image, max_pixels: int) -> Picture:
    if header.format in _JPEG:
        return _read_jpeg(data, header)
    if header.format == "PNG":
        return _read_png(data, header)
    if header.format == "GIF":
        return _read_gif(data, header, max_pixels)
    if header.format == "BMP" and _is_plain_bmp(data):
        return _kept(data, "bmp", _decode(data))
    return _normalized(_converted(header), [str(header.format).lower()], "png")


def _read_jpeg(data: bytes, header: Image.Image) -> Picture:
    pixels = _decode(data)
    changes = ["cmyk"] if header.mode == "CMYK" else []
    pixels, turned = _upright(pixels, header)
    changes += turned
    if changes:
        return _normalized(pixels, changes, "jpeg")
    return _kept(data, "jpeg", pixels, channels=len(header.getbands()))


def _read_png(data: bytes, header: Image.Image) -> Picture:
    # The first chunk is IHDR, whose ninth byte is the depth: Pillow's mode does not tell.
    changes = ["16-bit"] if data[24] == 16 else []
    has_alpha = "A" in header.mode or "transparency" in header.info
    if has_alpha:
        pixels, is_opaque = _on_white(_decode(data, channels=4))
        changes += [] if is_opaque else ["alpha"]
    else:
        pixels = _decode(data)
    pixels, turned = _upright(pixels, header)
    changes += turned
    if changes:
        return _normalized(pixels, changes, "png")
    channels = 4 if has_alpha else 1 if header.mode in ("1", "L") else 3
    return _kept(data, "png", pixels, channels)


def _read_gif(data: bytes, header: Image.Image, max_pixels: int) -> Picture:
    frames = getattr(header, "n_frames", 1)
    header.seek(0)
    tile = getattr(header, "tile", None)
    covers = tile and tile[0][1] == (0, 0, *header.size)
    changes = []
    if "transparency" in header.info or not covers:
        changes.append("alpha")
    # TensorFlow decodes all frames to return the first one.
    if frames * header.width * header.height > max_pixels:
        changes.append("first-frame")
    if changes:
        return _normalized(_converted(header), changes, "png")
    return _kept(data, "gif", _decode(data))


def _is_plain_bmp(data: bytes) -> bool:
    """24 bits, uncompressed: of any other TensorFlow takes palette indices or masks for colours."""
    bits, compression = data[28:30], data[30:34]
    return data[14:18] == b"\x28\0\0\0" and bits == b"\x18\0" and compression == b"\0\0\0\0"


def _decode(data: bytes, channels: int = 3) -> Pixels:
    try:
        image = tf.io.decode_image(data, channels=channels, expand_animations=False)
    except tf.errors.OpError as error:
        reason = _TENSORFLOW_NOISE.sub("", error.message)
        raise Unusable("damaged", f"truncated or corrupt: {reason}") from error
    pixels: Pixels = image.numpy()
    return pixels


def _upright(pixels: Pixels, header: Image.Image) -> tuple[Pixels, list[str]]:
    """The pixels turned as EXIF says. EXIF that cannot be read says nothing."""
    try:
        orientation = header.getexif().get(ExifTags.Base.Orientation, 1)
    except Exception:  # whatever a parser may raise: the image itself is fine
        return pixels, []
    # By EXIF: 2 mirror, 3 half turn, 4 flip, 5 transpose, 6 and 8 quarter turns, 7 transverse.
    if orientation not in range(2, 9):
        return pixels, []
    if orientation >= 5:
        pixels = pixels.swapaxes(0, 1)
    if orientation in (2, 3, 6, 7):
        pixels = pixels[:, ::-1]
    if orientation in (3, 4, 7, 8):
        pixels = pixels[::-1]
    return np.ascontiguousarray(pixels), ["orientation"]


def _on_white(rgba: Pixels) -> tuple[Pixels, bool]:
    """RGB over white, and whether nothing shone through."""
    color, alpha = rgba[..., :3], rgba[..., 3:]
    if alpha.min() == 255:
        return np.ascontiguousarray(color), True
    mixed = color.astype(np.uint32) * alpha + 255 * (255 - alpha.astype(np.uint32))
    return ((mixed + 127) // 255).astype(np.uint8), False


def _converted(image: Image.Image) -> Pixels:
    """Pillow's reading of the first frame, upright, as RGB."""
    image.load()
    image = ImageOps.exif_transpose(image)
    if image.mode.startswith("I;16"):
        gray = (np.asarray(image).astype(np.uint16) >> 8).astype(np.uint8)
        return np.repeat(gray[..., np.newaxis], 3, axis=2)
    if image.mode in ("I", "F"):
        raise Unusable("unsupported", "more than 16 bits a channel; convert it to 8-bit PNG")
    if "A" in image.mode or "transparency" in image.info:
        pixels, _ = _on_white(np.asarray(image.convert("RGBA")))
        return pixels
    return np.asarray(image.convert("RGB"))


def _normalized(pixels: Pixels, changes: list[str], image_format: str) -> Picture:
    buffer = io.BytesIO()
    # PNG's higher levels take six times as long to save a twelfth.
    options: dict[str, Any] = (
        {"quality": JPEG_QUALITY, "subsampling": 0}
        if image_format == "jpeg"
        else {"compress_level": 1}
    )
    Image.fromarray(pixels).save(buffer, image_format, **options)
    return _picture(buffer.getvalue(), image_format, pixels, 3, "+".join(changes))


def _kept(data: bytes, image_format: str, pixels: Pixels, channels: int = 3) -> Picture:
    return _picture(data, image_format, pixels, channels, "none")


def _picture(
    encoded: bytes, image_format: str, pixels: Pixels, channels: int, normalized: str
) -> Picture:
    height, width = pixels.shape[:2]
    factor = max(1, min(height, width) // STATISTICS_SIZE)
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
