"""Data for MobileNet with random weights."""

from __future__ import annotations

import keras
import numpy as np
import tensorflow as tf

from tests.kit.training import split
from trainer_module.input_pipeline import Split
from trainer_module.training.transfer import BASE

SIZE = 32


def noise(count: int, seed: int) -> Split:
    """Noise that is brighter in class 1."""
    random = np.random.default_rng(seed)
    labels = np.arange(count) % 2
    images = random.integers(0, 120, (count, SIZE, SIZE, 3), np.uint8)
    images[labels == 1] += 100
    return split(images, labels)


def awaken(model: keras.Model) -> None:
    """Give batch normalization the statistics of some images: random features are all 0 else."""
    base = model.get_layer(BASE)
    norms = [layer for layer in base.layers if isinstance(layer, keras.layers.BatchNormalization)]
    before = [(norm.momentum, norm.trainable) for norm in norms]
    for norm in norms:
        norm.momentum, norm.trainable = 0.0, True
    images = next(iter(noise(16, 3).images.batch(16)))[0]
    # Not `base(..., training=True)`, which keeps the statistics.
    keras.Model(base.inputs, base.outputs)(tf.cast(images, tf.float32) / 127.5 - 1, training=True)
    for norm, settings in zip(norms, before, strict=True):
        norm.momentum, norm.trainable = settings
