"""Random changes to batches of uint8 images, each a function of its seed alone."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import tensorflow as tf

from trainer_module import input_pipeline
from trainer_module.input_pipeline import Framed

# Maps images uint8 [B, H, W, 3], perhaps framed, and a seed int64 [2] to such images.
Change = Callable[[tf.Tensor, tf.Tensor], tf.Tensor]


def flip_turn_scale(
    *, flip: bool, rotation: float = 0.0, zoom: float = 0.0
) -> input_pipeline.Augment | None:
    """Make an augmentation of `random_flip` and `random_move`; None where nothing is to change."""
    if rotation or zoom:

        def change(images: tf.Tensor, seed: tf.Tensor) -> tf.Tensor:
            return random_move(images, seed, flip=flip, rotation=rotation, zoom=zoom)
    elif flip:
        change = random_flip
    else:
        return None
    return lambda images, labels, seed: (change(images, seed), labels)


def in_turn(
    changes: Sequence[Change], *, alpha: float, num_classes: int
) -> input_pipeline.Augment | None:
    """All `changes` in their order, then `mixup` unless its `alpha` is 0; None where nothing is."""
    if not changes and not alpha:
        return None

    def augment(
        images: tf.Tensor | Framed, labels: tf.Tensor, seed: tf.Tensor
    ) -> tuple[tf.Tensor, tf.Tensor]:
        *seeds, last = tf.unstack(tf.random.experimental.stateless_split(seed, len(changes) + 1))
        for change, each in zip(changes, seeds, strict=True):
            images = change(images, each)
        if alpha:
            return mixup(images, labels, last, alpha=alpha, num_classes=num_classes)
        return images, labels

    return augment


def resized(
    augment: input_pipeline.Augment | None, size: int, *, antialias: bool = False
) -> input_pipeline.Augment:
    """Resize images to `size` bilinearly, without their frames, before `augment`."""

    def change(
        images: tf.Tensor | Framed, labels: tf.Tensor, seed: tf.Tensor
    ) -> tuple[tf.Tensor, tf.Tensor]:
        images = resize(input_pipeline.pixels_of(images), size, antialias=antialias)
        return augment(images, labels, seed) if augment else (images, labels)

    return change


def resize(images: tf.Tensor, size: int, *, antialias: bool = False) -> tf.Tensor:
    """Bring uint8 [..., H, W, 3] to uint8 [..., size, size, 3], bilinearly."""
    if images.shape[-3:-1] == (size, size):
        return images
    pixels = tf.image.resize(images, [size, size], antialias=antialias)
    return tf.cast(tf.round(pixels), tf.uint8)


def random_flip(images: tf.Tensor, seed: tf.Tensor) -> tf.Tensor:
    """Mirror about half of the images, uint8 [B, H, W, 3], left to right; seed: int64 [2]."""
    mirror = _halves(images, seed)
    # Chooses whole images, where tf.where would go through their pixels.
    return tf.raw_ops.Select(condition=mirror, x=tf.reverse(images, [2]), y=images)


def random_move(
    images: tf.Tensor, seed: tf.Tensor, *, flip: bool, rotation: float, zoom: float
) -> tf.Tensor:
    """Turn and scale each image about its centre; what comes into view is filled by reflection.

    Args:
        images: uint8 [B, H, W, 3].
        seed: int64 [2].
        flip: mirror about half of the images, before that.
        rotation: largest turn in either direction as a fraction of a full turn.
        zoom: largest relative change in size, below 1, drawn apart for height and for width.

    Returns:
        uint8 [B, H, W, 3].
    """
    flip_seed, move_seed = tf.unstack(tf.random.experimental.stateless_split(seed, 2))
    count, height, width = tf.shape(images)[0], images.shape[1], images.shape[2]
    angle, zoom_x, zoom_y = tf.unstack(tf.random.stateless_uniform([3, count], move_seed, -1, 1))
    angle *= rotation * 2 * math.pi
    zoom_x = 1 + zoom * zoom_x
    zoom_y = 1 + zoom * zoom_y
    # The place that a pixel of the result is read from is the matrix times its own, and the shift.
    xx, xy = tf.cos(angle) * zoom_x, -tf.sin(angle) * zoom_y
    yx, yy = tf.sin(angle) * zoom_x, tf.cos(angle) * zoom_y
    centre_x, centre_y = (width - 1) / 2, (height - 1) / 2
    shift_x = centre_x - xx * centre_x - xy * centre_y
    shift_y = centre_y - yx * centre_x - yy * centre_y
    if flip:
        sign = tf.where(_halves(images, flip_seed), -1.0, 1.0)
        xx, xy, shift_x = sign * xx, sign * xy, centre_x + sign * (shift_x - centre_x)
    return _sampled(images, tf.stack([xx, xy, shift_x, yx, yy, shift_y]))


def _halves(images: tf.Tensor, seed: tf.Tensor) -> tf.Tensor:
    return tf.random.stateless_uniform([tf.shape(images)[0]], seed) < 0.5


# Five times as fast as the kernel for projections, which computes the place for each channel.
@tf.function(jit_compile=True)
def _sampled(images: tf.Tensor, matrices: tf.Tensor) -> tf.Tensor:
    """Images read at other places, between four pixels each: uint8 [B, H, W, 3].

    `matrices`, float32 [6, B], are those of `random_move`, row by row.
    """
    _, height, width, channels = images.shape
    count = tf.shape(images)[0]
    xx, xy, shift_x, yx, yy, shift_y = tf.unstack(matrices[..., None, None])
    rows = tf.range(height, dtype=tf.float32)[:, None]
    columns = tf.range(width, dtype=tf.float32)

    def place(position: tf.Tensor, size: int) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
        """Return the two pixels on either side of it, and the share of the second one."""
        beyond = tf.math.floormod(position + 0.5, 2.0 * size)
        reflected = tf.minimum(beyond, 2.0 * size - beyond) - 0.5
        inside = tf.clip_by_value(reflected, 0.0, size - 1.0)
        first = tf.cast(inside, tf.int32)
        second = tf.minimum(first + 1, size - 1)
        return first, second, (inside - tf.cast(first, tf.float32))[..., None]

    left, right, share_x = place(xx * columns + xy * rows + shift_x, width)
    top, bottom, share_y = place(yx * columns + yy * rows + shift_y, height)
    pixels = tf.reshape(images, [count, height * width, channels])

    def read(y: tf.Tensor, x: tf.Tensor) -> tf.Tensor:
        found = tf.gather(pixels, tf.reshape(y * width + x, [count, -1]), batch_dims=1)
        return tf.cast(tf.reshape(found, tf.shape(images)), tf.float32)

    def between(first: tf.Tensor, second: tf.Tensor, share: tf.Tensor) -> tf.Tensor:
        return first + share * (second - first)

    above = between(read(top, left), read(top, right), share_x)
    below = between(read(bottom, left), read(bottom, right), share_x)
    return tf.cast(tf.round(between(above, below, share_y)), tf.uint8)


def random_crop(images: tf.Tensor, seed: tf.Tensor, size: int) -> tf.Tensor:
    """Cut a square at a place of its own out of each image, pixels unchanged.

    Args:
        images: uint8 [B, H, W, 3], H and W at least `size`.
        seed: int64 [2].
        size: pixels of a side.

    Returns:
        uint8 [B, size, size, 3].
    """
    seeds = tf.random.experimental.stateless_split(seed, 2)
    for axis in (1, 2):
        places = tf.random.stateless_uniform(
            [tf.shape(images)[0], 1], seeds[axis - 1], 0, images.shape[axis] - size + 1, tf.int32
        )
        images = tf.gather(images, places + tf.range(size), axis=axis, batch_dims=1)
    return images


def random_resized_crop(
    images: tf.Tensor | Framed, seed: tf.Tensor, size: int, *, min_area: float, antialias: bool
) -> tf.Tensor:
    """Cut a rectangle of random place, area and proportions out of each image and resize it.

    Of framed images the proportions are those before they were squeezed.

    Args:
        images: uint8 [B, H, W, 3], or framed.
        seed: int64 [2].
        size: pixels of a side of the result.
        min_area: smallest share of the image, 0 to 1; the largest is all of it. Sides are as 3 to 4
            up to 4 to 3.
        antialias: smooth before shrinking.

    Returns:
        uint8 [B, size, size, 3].
    """
    pixels = input_pipeline.pixels_of(images)
    count, height, width, _ = tf.unstack(tf.shape(pixels))
    sides = tf.stack([height, width])
    frames = images.frame if isinstance(images, Framed) else tf.tile(sides[None], [count, 1])
    seeds = tf.random.experimental.stateless_split(seed, count)

    def crop(image: tf.Tensor, frame: tf.Tensor, seed: tf.Tensor) -> tf.Tensor:
        begin, extent, _ = tf.image.stateless_sample_distorted_bounding_box(
            tf.concat([frame, [3]], 0),
            tf.zeros([0, 0, 4]),
            seed,
            min_object_covered=0,
            aspect_ratio_range=(0.75, 1.33),
            area_range=(min_area, 1.0),
            use_image_if_no_bounding_boxes=True,
        )
        # The rectangle's borders within the square, which holds all of the frame.
        scale = tf.cast(sides, tf.float32) / tf.cast(frame, tf.float32)
        begin, end = (tf.cast(each[:2], tf.float32) * scale for each in (begin, begin + extent))
        top, left = tf.unstack(tf.cast(tf.floor(begin + 1e-3), tf.int32))
        bottom, right = tf.unstack(tf.cast(tf.math.ceil(end - 1e-3), tf.int32))
        cut = image[top:bottom, left:right]
        resized = tf.image.resize(cut, [size, size], antialias=antialias)
        return tf.cast(tf.round(resized), tf.uint8)

    cropped = tf.map_fn(
        lambda each: crop(*each),
        (pixels, tf.cast(frames, tf.int32), seeds),
        fn_output_signature=tf.TensorSpec([size, size, 3], tf.uint8),
    )
    return tf.ensure_shape(cropped, [None, size, size, 3])


def mixup(
    images: tf.Tensor, labels: tf.Tensor, seed: tf.Tensor, *, alpha: float, num_classes: int
) -> tuple[tf.Tensor, tf.Tensor]:
    """Blend each image and label of a batch with those at the mirrored place in it.

    One share for all, from Beta(alpha, alpha).

    Args:
        images: uint8 [B, H, W, 3].
        labels: int64 [B].
        seed: int64 [2].
        alpha: above 0.
        num_classes: length of a label's vector.

    Returns:
        images, uint8 [B, H, W, 3], and labels, float32 [B, num_classes].
    """
    # Beta from two gammas: with a small alpha they are tiny, and in float32 often both 0.
    first, second = tf.unstack(
        tf.random.stateless_gamma([2], seed, tf.constant(alpha, tf.float64), dtype=tf.float64)
    )
    share = tf.cast(first / (first + second), tf.float32)

    def blend(values: tf.Tensor) -> tf.Tensor:
        return share * values + (1 - share) * tf.reverse(values, [0])

    mixed = tf.cast(tf.round(blend(tf.cast(images, tf.float32))), tf.uint8)
    return mixed, blend(tf.one_hot(labels, num_classes))
