"""Trainings of a few images in this process."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
import tensorflow as tf

from trainer_module import fit, recipes
from trainer_module.input_pipeline import Split
from trainer_module.recipes.base import Module


def split(images: np.ndarray, labels: np.ndarray) -> Split:
    """Images, uint8 [N, S, S, 3], of the classes that `labels` name, from 0."""
    labels = labels.astype(np.int64)
    classes = int(labels.max()) + 1
    return Split(tf.data.Dataset.from_tensor_slices((images, labels)), labels, classes)


def fitted(
    recipe: Any,
    config: Any,
    train: Split,
    evaluation: Split,
    *,
    batch_size: int,
    epochs: int | None,
    **options: Any,
) -> fit.FitResult:
    """Train a recipe, or that of a name, with the seed 0; `options` are fields of `FitOptions`."""
    keras.utils.set_random_seed(0)
    return fit.fit(
        recipes.get(recipe) if isinstance(recipe, str) else Module(recipe),
        config,
        train=train,
        evaluation=evaluation,
        image_size=evaluation.images.element_spec[0].shape[0],
        num_classes=evaluation.classes,
        batch_size=batch_size,
        epochs=epochs,
        seed=0,
        options=fit.FitOptions(**options),
    )
