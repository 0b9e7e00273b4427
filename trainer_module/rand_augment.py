"""RandAugment (arXiv 1909.13719): a few random changes to each image, all of the same strength.

Operations and the meaning of a magnitude are those that AugReg (arXiv 2106.10270) pretrains with;
translation and cutout, which it gives in pixels, are relative to its 224 here.
`keras.layers.RandAugment` computes every operation for every image, chooses one for a whole batch,
and draws from a state of its own, so that a resumed training would go on differently.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable

import tensorflow as tf

GREY = 128  # of what comes into view
_MOST = 10  # the magnitude that arguments are relative to
_ROTATION = math.radians(30)
_SHEAR = 0.3
_TRANSLATION = 100 / 224  # of a side
_CUT = 40 / 224  # of a side, in each direction
_SOLARIZED = 110  # added to dark pixels

Change = Callable[[tf.Tensor], tf.Tensor]


def rand_augment(
    images: tf.Tensor, seed: tf.Tensor, *, operations: int, magnitude: float
) -> tf.Tensor:
    """Change each image by so many operations, drawn for each image apart, one after the other.

    Args:
        images: uint8 [B, H, W, 3], H and W known.
        seed: int64 [2].
        operations: above 0.
        magnitude: 0 to 30; AugReg has 10, 15 and 20.

    Returns:
        uint8 [B, H, W, 3].
    """
    seeds = tf.random.experimental.stateless_split(seed, tf.shape(images)[0])

    def changed(image: tf.Tensor, seed: tf.Tensor) -> tf.Tensor:
        for step in tf.unstack(tf.random.experimental.stateless_split(seed, operations)):
            image = _one(image, step, magnitude / _MOST)
        return image

    spec = tf.TensorSpec(images.shape[1:], tf.uint8)
    return tf.map_fn(lambda each: changed(*each), (images, seeds), fn_output_signature=spec)


def _one(image: tf.Tensor, seed: tf.Tensor, level: float) -> tf.Tensor:
    choice, turn, place = tf.unstack(tf.random.experimental.stateless_split(seed, 3))
    sign = tf.where(tf.random.stateless_uniform([], turn) < 0.5, -1.0, 1.0)
    changes = [functools.partial(change, image) for change in _changes(level, sign, place)]
    number = tf.random.stateless_uniform([], choice, 0, len(changes), tf.int32)
    return tf.ensure_shape(tf.switch_case(number, changes), image.shape)


def _changes(level: float, sign: tf.Tensor, place: tf.Tensor) -> list[Change]:
    """All operations at a magnitude of `level` tens, in the direction `sign`, -1 or 1.

    `place` is the seed of where a square is cut out.
    """
    enhancement = 0.1 + 1.8 * level
    turn, shear, shift = sign * level * _ROTATION, sign * level * _SHEAR, sign * level
    return [
        autocontrast,
        equalize,
        lambda image: 255 - image,
        lambda image: _rotated(image, turn),
        lambda image: posterize(image, int(4 * level)),
        lambda image: solarize(image, int(256 * level)),
        lambda image: _solarized_more(image, int(_SOLARIZED * level)),
        lambda image: _blended(_grey(image), image, enhancement),
        lambda image: _blended(tf.reduce_mean(_grey(image)), image, enhancement),
        lambda image: _blended(tf.constant(0.0), image, enhancement),
        lambda image: _blended(_smooth(image), image, enhancement),
        lambda image: _moved(image, 1.0, shear, 0.0, 0.0, 1.0, 0.0),
        lambda image: _moved(image, 1.0, 0.0, 0.0, shear, 1.0, 0.0),
        lambda image: _moved(image, 1.0, 0.0, shift * _pixels(image, 1), 0.0, 1.0, 0.0),
        lambda image: _moved(image, 1.0, 0.0, 0.0, 0.0, 1.0, shift * _pixels(image, 0)),
        lambda image: cutout(image, place, level * _CUT),
    ]


def autocontrast(image: tf.Tensor) -> tf.Tensor:
    """Stretch each channel of uint8 [H, W, 3] to 0 to 255; one that is all alike stays."""
    values = tf.cast(image, tf.float32)
    low, high = tf.reduce_min(values, (0, 1)), tf.reduce_max(values, (0, 1))
    stretched = (values - low) * 255 / tf.maximum(high - low, 1)
    return tf.where(high > low, tf.cast(tf.floor(stretched), tf.uint8), image)


def equalize(image: tf.Tensor) -> tf.Tensor:
    """Give each channel of uint8 [H, W, 3] an even histogram, as Pillow's `ImageOps.equalize`."""

    def channel(values: tf.Tensor) -> tf.Tensor:
        histogram = tf.math.bincount(tf.reshape(values, [-1]), minlength=256, maxlength=256)
        last = tf.gather(histogram, tf.reduce_max(values))
        step = (tf.reduce_sum(histogram) - last) // 255
        table = (tf.cumsum(histogram, exclusive=True) + step // 2) // tf.maximum(step, 1)
        table = tf.where(step > 0, tf.clip_by_value(table, 0, 255), tf.range(256))
        return tf.gather(table, values)

    channels = [channel(each) for each in tf.unstack(tf.cast(image, tf.int32), axis=-1)]
    return tf.cast(tf.stack(channels, axis=-1), tf.uint8)


def posterize(image: tf.Tensor, bits: int) -> tf.Tensor:
    """Keep the highest bits of uint8 values; 8 and more keep all."""
    kept = 256 - 2 ** (8 - min(bits, 8))
    return tf.bitwise.bitwise_and(image, tf.constant(kept, tf.uint8))


def solarize(image: tf.Tensor, threshold: int) -> tf.Tensor:
    """Invert uint8 values from `threshold` on; above 255 none."""
    return tf.where(tf.cast(image, tf.int32) < threshold, image, 255 - image)


def _solarized_more(image: tf.Tensor, addition: int) -> tf.Tensor:
    values = tf.cast(image, tf.int32)
    more = tf.cast(tf.clip_by_value(values + addition, 0, 255), tf.uint8)
    return tf.where(values < 128, more, image)


def cutout(image: tf.Tensor, seed: tf.Tensor, share: float) -> tf.Tensor:
    """Make a square of uint8 [H, W, 3] grey that reaches `share` of the sides about its centre."""
    height, width, _ = image.shape
    sides = tf.constant([height, width], tf.float32)
    centre = tf.floor(tf.random.stateless_uniform([2], seed) * sides)
    rows, columns = (
        tf.abs(tf.range(sides[axis]) - centre[axis]) < tf.round(share * sides[axis])
        for axis in (0, 1)
    )
    inside = tf.logical_and(rows[:, None], columns)[..., None]
    return tf.where(inside, tf.constant(GREY, tf.uint8), image)


def _blended(other: tf.Tensor, image: tf.Tensor, share: float) -> tf.Tensor:
    """`other` where `share` is 0, the image where it is 1, and beyond that where it is more."""
    values = other + share * (tf.cast(image, tf.float32) - other)
    return tf.saturate_cast(tf.round(values), tf.uint8)


def _grey(image: tf.Tensor) -> tf.Tensor:
    return tf.image.rgb_to_grayscale(tf.cast(image, tf.float32))


def _smooth(image: tf.Tensor) -> tf.Tensor:
    """Each pixel with a share of its neighbours; those at the border are as they were."""
    kernel = tf.constant([[1.0, 1, 1], [1, 5, 1], [1, 1, 1]])[..., None, None] / 13
    values = tf.cast(image, tf.float32)[None]
    inner = tf.nn.depthwise_conv2d(values, tf.tile(kernel, [1, 1, 3, 1]), [1, 1, 1, 1], "VALID")
    height, width, _ = image.shape
    padded = tf.pad(inner, [[0, 0], [1, 1], [1, 1], [0, 0]])
    inside = tf.pad(tf.ones([height - 2, width - 2, 1], tf.bool), [[1, 1], [1, 1], [0, 0]])
    return tf.where(inside, padded, values)[0]


def _pixels(image: tf.Tensor, axis: int) -> float:
    return _TRANSLATION * float(image.shape[axis])


def _rotated(image: tf.Tensor, angle: tf.Tensor) -> tf.Tensor:
    height, width, _ = image.shape
    x, y = (width - 1) / 2, (height - 1) / 2
    cos, sin = tf.cos(angle), tf.sin(angle)
    return _moved(image, cos, -sin, x - cos * x + sin * y, sin, cos, y - sin * x - cos * y)


def _moved(image: tf.Tensor, *matrix: float | tf.Tensor) -> tf.Tensor:
    """Read each pixel from the place that the affine `matrix`, row by row, maps its own to."""
    transform = [tf.cast(each, tf.float32) for each in (*matrix, 0.0, 0.0)]
    moved = tf.raw_ops.ImageProjectiveTransformV3(
        images=image[None],
        transforms=tf.stack(transform)[None],
        output_shape=tf.shape(image)[:2],
        fill_value=float(GREY),
        interpolation="NEAREST",
        fill_mode="CONSTANT",
    )
    return moved[0]
