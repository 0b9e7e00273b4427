"""Small pictures for the pages: PNGs of few pixels, JPEGs of photographs."""

from __future__ import annotations

import io

import numpy as np
import numpy.typing as npt
from PIL import Image

Pixels = npt.NDArray[np.uint8]  # [H, W, 3], RGB

SIDE = 144  # pixels: the longer side of what is shown, at most
_EXACT = 64  # pixels: up to here every one of them is kept
_GAP = 2  # pixels between patches
_MOST_PATCHES = 32  # a side; of more nothing could be seen


def encode(pixels: Pixels) -> bytes:
    """Encode pixels as a small picture."""
    image, buffer = Image.fromarray(pixels), io.BytesIO()
    if max(image.size) <= _EXACT:
        image.save(buffer, "PNG", optimize=True)
    else:
        image.thumbnail((SIDE, SIDE))
        image.save(buffer, "JPEG", quality=80)
    return buffer.getvalue()


def heated(
    encoded: bytes, looked: npt.NDArray[np.uint8], *, resize_mode: str, crop_fraction: float
) -> bytes:
    """Darken a picture by the attention map `looked`, uint8 [h, w].

    `looked` covers the square that `resize_mode` and `crop_fraction`, two settings, made of the
    picture.
    """
    picture = Image.open(io.BytesIO(encoded)).convert("RGB")
    width, height = picture.size
    if resize_mode != "stretch":
        side = (min if resize_mode == "crop" else max)(width, height)
        width = height = side
    covered = (max(1, round(width * crop_fraction)), max(1, round(height * crop_fraction)))
    light = Image.fromarray(looked).resize(covered, Image.Resampling.BICUBIC)
    mask = Image.new("L", picture.size, 0)
    place = [(whole - part) // 2 for whole, part in zip(picture.size, covered, strict=True)]
    mask.paste(light, (place[0], place[1]))
    share = 0.25 + 0.75 * np.asarray(mask, np.float32)[..., None] / 255
    return encode((np.asarray(picture) * share).round().astype(np.uint8))


def patches(pixels: Pixels, count: int) -> bytes | None:
    """Cut an image into the `count` x `count` patches of a vision transformer.

    Returns None if they would be too small to see.
    """
    if not 1 < count <= _MOST_PATCHES:
        return None
    each = max(pixels.shape[0] // count, 1, 2 * SIDE // (3 * count))
    few = pixels.shape[0] <= _EXACT
    whole = Image.fromarray(pixels).resize(
        (count * each,) * 2, Image.Resampling.NEAREST if few else Image.Resampling.BICUBIC
    )
    side = count * (each + _GAP) - _GAP
    sheet = np.zeros([side, side, 4], np.uint8)  # what is between them is transparent
    for row in range(count):
        for column in range(count):
            box = (column * each, row * each, (column + 1) * each, (row + 1) * each)
            top, left = row * (each + _GAP), column * (each + _GAP)
            sheet[top : top + each, left : left + each, :3] = np.asarray(whole.crop(box))
            sheet[top : top + each, left : left + each, 3] = 255
    buffer = io.BytesIO()
    Image.fromarray(sheet).save(buffer, "PNG", optimize=True)
    return buffer.getvalue()
