"""A pretrained classifier as it is, without any training."""

from __future__ import annotations

from collections.abc import Sequence

import keras
import numpy as np
import tensorflow as tf

from trainer_module import transform
from trainer_module.models.bit_weights import pretrained_classifier
from trainer_module.weights import WeightsError, WeightSpec

Predictions = list[list[tuple[str, float]]]


def classify(
    images: Sequence[bytes],
    labels: Sequence[str],
    weights: WeightSpec,
    *,
    variant: str = "R50x1",
    image_size: int = 480,
    top: int = 5,
) -> Predictions:
    """Predict the most probable classes of encoded images by a BiT with its published head.

    Args:
        images: JPEG or PNG files. They are resized to squares.
        labels: the names of the head's classes, in its order.
        weights: an .npz file with a head, or a SavedModel that gives logits.
        variant: the architecture of an .npz file; a SavedModel brings its own.
        image_size: pixels of the squares.
        top: how many classes for each image.

    Returns:
        For each image (name, probability) pairs, the most probable one first.

    Raises:
        WeightsError: the weights cannot be had, do not fit the variant, or have another number of
            classes than there are labels.
        tf.errors.InvalidArgumentError: bytes that are no image.
    """
    model = pretrained_classifier(variant, weights, image_size=image_size)
    if model.output_shape[-1] != len(labels):
        raise WeightsError(
            f"the weights {weights.source} tell {model.output_shape[-1]} classes apart, but there "
            f"are {len(labels)} labels; give the label names that belong to the weights"
        )
    pixels = tf.stack([transform.load_image(image, image_size, "bilinear") for image in images])
    probabilities = np.asarray(keras.ops.softmax(model.predict(pixels, verbose=0)))
    return [
        [(labels[place], float(row[place])) for place in np.argsort(-row, kind="stable")[:top]]
        for row in probabilities
    ]
