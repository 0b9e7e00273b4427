"""Losses of short trainings, to compare one way of computing a step with another."""

from __future__ import annotations

from collections.abc import Generator
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from tests.kit.resumable import split
from trainer_module import devices, fit, input_pipeline, recipes
from trainer_module.fit import FitOptions
from trainer_module.input_pipeline import Split
from trainer_module.recipes.base import EpochMetrics, Frozen, Module, Phase, TrainingData
from trainer_module.steps import Steps


def losses(options: FitOptions | None = None, **settings: Any) -> list[float]:
    """Losses of two epochs of 42 images, the last batch of which holds two."""
    keras.utils.set_random_seed(0)
    recipe = recipes.get("vit")
    tiny = {"patch_size": 4, "dim": 8, "depth": 1, "heads": 2, "key_dim": 4, "mlp_dim": 8}
    config = recipe.Config(
        **tiny, head_dims=[8], dropout=0, head_dropout=0, rotation=0, zoom=0, flip=False, **settings
    )
    trained = fit.fit(
        recipe,
        config,
        train=split(42, 0),
        evaluation=split(21, 1),
        image_size=8,
        num_classes=3,
        batch_size=8,
        epochs=2,
        seed=0,
        options=options,
    )
    return [row[key] for row in trained.epochs for key in ("loss", "val_loss")]


def head_losses(options: FitOptions | None = None) -> list[float]:
    """Losses of three epochs of a head on features of 17 images, the last batch of which is one."""

    class Recipe:
        @staticmethod
        def build_model(config: object, image_size: int, classes: int) -> keras.Model:
            images = keras.Input((image_size, image_size, 3), dtype="uint8")
            x = keras.layers.Flatten(name="flat")(keras.layers.Rescaling(1 / 255)(images))
            return keras.Model(images, keras.layers.Dense(classes, name="logits")(x))

        @staticmethod
        def phases(
            config: object, model: keras.Model, data: TrainingData
        ) -> Generator[Phase, EpochMetrics, None]:
            features = model.get_layer("flat").output
            start = keras.Input(features.shape[1:])
            head = keras.Model(start, model.get_layer("logits")(start))
            frozen = Frozen(keras.Model(model.input, features), head)
            yield Phase(3, keras.optimizers.SGD(0.1), None, frozen=frozen)

    keras.utils.set_random_seed(0)
    trained = fit.fit(
        Module(Recipe()),
        recipes.get("vit").Config(),  # not looked at
        train=split(17, 0),
        evaluation=split(5, 1),
        image_size=8,
        num_classes=3,
        batch_size=8,
        epochs=3,
        seed=0,
        options=options,
    )
    return [row[key] for row in trained.epochs for key in ("loss", "val_loss")]


def masks(strategy: tf.distribute.Strategy) -> list[float]:
    """For each of 192 inputs how many devices kept it, in the second phase's second step."""
    keras.utils.set_random_seed(0)
    with strategy.scope():
        images = keras.Input((8, 8, 3), dtype="uint8")
        x = keras.layers.Flatten()(keras.layers.Rescaling(0.0, 1.0)(images))
        head = keras.layers.Dense(2, kernel_initializer="zeros", use_bias=False)
        model = keras.Model(images, head(keras.layers.Dropout(0.5)(x)))
        optimizer = keras.optimizers.SGD(2.0)
        optimizer.build(model.trainable_variables)
    pixels, labels = np.zeros((2, 8, 8, 3), np.uint8), np.zeros(2, np.int64)
    data = Split(tf.data.Dataset.from_tensor_slices((pixels, labels)), labels, 2)
    replicas = devices.replicas(strategy)
    batches = input_pipeline.training_batches(data, 2, 0, None, epochs=range(1), replicas=replicas)
    for _ in range(2):
        steps = Steps(model, optimizer, strategy)
        for _ in range(2):
            head.kernel.assign(np.zeros((192, 2)))
            distributed = strategy.distribute_datasets_from_function(lambda _: batches)
            steps.train(iter(distributed))
    # A half is the gradient of an even guess, times 2 for what dropout keeps, over 2 images.
    return [float(value) for value in np.round(np.asarray(head.kernel)[:, 0], 5)]
