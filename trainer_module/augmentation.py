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
