"""Random changes to batches of uint8 images, each a function of its seed alone."""

from __future__ import annotations

import math

import keras
import tensorflow as tf


def random_flip(images: tf.Tensor, seed: tf.Tensor) -> tf.Tensor:
    """Mirror about half of the images, uint8 [B, H, W, 3], left to right; seed: int64 [2]."""
    mirror = tf.random.stateless_uniform([tf.shape(images)[0], 1, 1, 1], seed) < 0.5
    return tf.where(mirror, tf.reverse(images, [2]), images)


def random_rotation_zoom(
    images: tf.Tensor, seed: tf.Tensor, *, rotation: float, zoom: float
) -> tf.Tensor:
    """Turn and scale each image about its centre; what comes into view is filled by reflection.

    Args:
        images: uint8 [B, H, W, 3].
        seed: int64 [2].
        rotation: largest turn in either direction as a fraction of a full turn.
        zoom: largest relative change in size, below 1, drawn apart for height and for width.

    Returns:
        uint8 [B, H, W, 3].
    """
    count, height, width = tf.shape(images)[0], images.shape[1], images.shape[2]
    angle, zoom_x, zoom_y = tf.unstack(tf.random.stateless_uniform([3, count], seed, -1, 1))
    angle *= rotation * 2 * math.pi
    zoom_x = 1 + zoom * zoom_x
    zoom_y = 1 + zoom * zoom_y
    # Rows of the matrix that takes a pixel of the result to the place it is read from.
    xx, xy = tf.cos(angle) * zoom_x, -tf.sin(angle) * zoom_y
    yx, yy = tf.sin(angle) * zoom_x, tf.cos(angle) * zoom_y
    centre_x, centre_y = (width - 1) / 2, (height - 1) / 2
    shift_x = centre_x - xx * centre_x - xy * centre_y
    shift_y = centre_y - yx * centre_x - yy * centre_y
    zero = tf.zeros_like(angle)
    matrix = tf.stack([xx, xy, shift_x, yx, yy, shift_y, zero, zero], axis=1)
    # In uint8 the kernel would cut fractions off and darken every image.
    moved = keras.ops.image.affine_transform(
        tf.cast(images, tf.float32), matrix, interpolation="bilinear", fill_mode="reflect"
    )
    return tf.saturate_cast(tf.round(moved), tf.uint8)


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
    images: tf.Tensor, seed: tf.Tensor, size: int, *, min_area: float
) -> tf.Tensor:
    """Cut a rectangle of random place, area and proportions out of each image and resize it.

    Args:
        images: uint8 [B, H, W, 3].
        seed: int64 [2].
        size: pixels of a side of the result.
        min_area: smallest share of the image, 0 to 1; the largest is all of it. Sides are as 3 to 4
            up to 4 to 3.

    Returns:
        uint8 [B, size, size, 3].
    """
    seeds = tf.random.experimental.stateless_split(seed, tf.shape(images)[0])

    def crop(image: tf.Tensor, seed: tf.Tensor) -> tf.Tensor:
        begin, extent, _ = tf.image.stateless_sample_distorted_bounding_box(
            tf.shape(image),
            tf.zeros([0, 0, 4]),
            seed,
            min_object_covered=0,
            aspect_ratio_range=(3 / 4, 4 / 3),
            area_range=(min_area, 1.0),
            use_image_if_no_bounding_boxes=True,
        )
        resized = tf.image.resize(tf.slice(image, begin, extent), [size, size], antialias=True)
        return tf.cast(tf.round(resized), tf.uint8)

    cropped = tf.map_fn(
        lambda pair: crop(*pair),
        (images, seeds),
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
