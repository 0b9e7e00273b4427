"""A pretrained classifier as it is, without any training."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import keras
import numpy as np
import tensorflow as tf

from trainer_module import transform
from trainer_module.models.bit_weights import pretrained_classifier
from trainer_module.weights import WeightsError, WeightSpec


def classifier(
    weights: WeightSpec, classes: int, variant: str = "R50x1", image_size: int = 480
) -> Callable[[Sequence[bytes]], np.ndarray]:
    """Load a BiT with the head that it was published with.

    Args:
        weights: an .npz file with a head, or a SavedModel that gives logits.
        classes: number of classes that the head must have.
        variant: the architecture of an .npz file; a SavedModel brings its own.
        image_size: pixels of the squares to which images are resized.

    Returns:
        A function from encoded images that `components.decoding` reads to their probabilities,
        float32 [N, classes].

    Raises:
        WeightsError: the weights cannot be had, do not fit the variant, or have another number of
            classes.
    """
    model = pretrained_classifier(variant, weights, image_size=image_size)
    if model.output_shape[-1] != classes:
        raise WeightsError(
            f"the weights {weights.source} tell {model.output_shape[-1]} classes apart, but there "
            f"are {classes} labels; give the label names that belong to the weights"
        )

    def predict(images: Sequence[bytes]) -> np.ndarray:
        pixels = tf.stack([transform.load_image(image, image_size, "bilinear") for image in images])
        return np.asarray(keras.ops.softmax(model.predict(pixels, verbose=0)))

    return predict
