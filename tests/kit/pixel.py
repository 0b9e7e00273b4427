"""Pixels of encoded images, by the product and by Pillow, to be compared."""

from __future__ import annotations

import io

import numpy as np
import tensorflow as tf
from PIL import Image, ImageOps

from components import decoding
from components.image_example_gen.conversion import Pixels

GRAPH = tf.function(decoding.decode, [tf.TensorSpec([], tf.string)], autograph=False)


def difference(one: Pixels, other: Pixels) -> int:
    """Return the largest difference of any value; the shapes must be the same."""
    assert one.shape == other.shape
    return int(np.abs(one.astype(int) - other).max())


def as_transform_reads(data: bytes) -> Pixels:
    """Pixels as the graph of Transform and of the exported model decodes them."""
    pixels: Pixels = GRAPH(data).pixels.numpy()
    return pixels


def as_a_viewer_shows(data: bytes) -> Pixels:
    """Pixels as Pillow decodes them: first frame, upright, on white, 8 bits of RGB."""
    opened = Image.open(io.BytesIO(data))
    frame = opened.tile[0][1] if opened.format == "GIF" else None
    opened.load()
    image: Image.Image = ImageOps.exif_transpose(opened)
    if image.mode.startswith("I;16"):
        return np.repeat((np.asarray(image) >> 8).astype(np.uint8)[..., np.newaxis], 3, axis=2)
    if image.mode in ("RGBA", "LA") or "transparency" in image.info:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    image = image.convert("RGB")
    if frame:  # Pillow shows a colour where a browser shows through
        canvas = Image.new("RGB", image.size, "white")
        canvas.paste(image.crop(frame), frame)
        image = canvas
    return np.asarray(image)
