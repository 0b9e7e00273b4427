"""A training in a process of its own, to be killed or to be one worker of several.

python -m tests.kit.resumable OUTPUT KILL_AT: train into the folder OUTPUT with checkpoints after
every call, and die right after step KILL_AT (0: do not die). The phases: one with frozen features,
one with dropout, batch normalization and a schedule, and one on a model of its own. The environment
variable CALL_SECONDS, if set, takes the place of fit's.
"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Generator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from trainer_module import augmentation, devices, fit
from trainer_module.checkpoint import Checkpoints
from trainer_module.input_pipeline import Split
from trainer_module.recipes import vit
from trainer_module.recipes.base import EpochMetrics, Frozen, Module, Phase, TrainingData

SIZE = 8
CLASSES = 3


def build_model(config: Any, image_size: int, num_classes: int) -> keras.Model:
    images = keras.Input((image_size, image_size, 3), dtype="uint8")
    x = keras.layers.Rescaling(1 / 127.5, -1)(images)
    x = keras.layers.Conv2D(4, 3, strides=2, name="conv")(x)
    x = keras.layers.BatchNormalization(name="norm")(x)
    x = keras.layers.GlobalAveragePooling2D(name="pool")(x)
    x = keras.layers.Dropout(0.3, name="drop")(x)
    return keras.Model(images, keras.layers.Dense(num_classes, name="logits")(x))


def phases(
    config: Any, model: keras.Model, data: TrainingData
) -> Generator[Phase, EpochMetrics, None]:
    def augment(x: tf.Tensor, y: tf.Tensor, seed: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        return augmentation.random_flip(x, seed), y

    features = model.get_layer("pool").output
    start = keras.Input(features.shape[1:])
    head = model.get_layer("logits")(model.get_layer("drop")(start))
    frozen = Frozen(keras.Model(model.input, features), keras.Model(start, head), views=2)
    yield Phase(2, keras.optimizers.Adam(0.01), augment, frozen=frozen)
    rate = keras.optimizers.schedules.CosineDecay(0.1, 3 * data.steps_per_epoch)
    yield Phase(3, keras.optimizers.SGD(rate, momentum=0.9), augment, clip=0.5)
    other = build_model(config, SIZE, CLASSES)
    other.set_weights(model.get_weights())
    yield Phase(1, keras.optimizers.Adam(1e-3), None, model=other)


def split(count: int, seed: int) -> Split:
    random = np.random.default_rng(seed)
    labels = random.integers(0, CLASSES, count)
    images = random.integers(0, 120, (count, SIZE, SIZE, 3), np.uint8)
    images[np.arange(count), :, :, labels] += 60
    return Split(tf.data.Dataset.from_tensor_slices((images, labels)).cache(), labels, CLASSES)


def train(output: Path, kill_at: int = 0) -> fit.FitResult:
    strategy = devices.strategy()
    keras.utils.set_random_seed(1)
    tf.config.experimental.enable_op_determinism()
    fit.CHECKPOINT_SECONDS, fit.CHECKPOINT_SHARE = 0.0, float("inf")
    fit.CALL_SECONDS = float(os.environ.get("CALL_SECONDS", fit.CALL_SECONDS))

    class Killed(Checkpoints):
        def save(self, number: int, *rest: Any) -> None:
            super().save(number, *rest)
            if number == kill_at:
                os.kill(os.getpid(), signal.SIGKILL)

    return fit.fit(
        Module(SimpleNamespace(build_model=build_model, phases=phases)),
        vit.Config(),  # not looked at
        train=split(42, 0),
        evaluation=split(21, 1),
        image_size=SIZE,
        num_classes=CLASSES,
        batch_size=8,
        epochs=6,
        seed=1,
        options=fit.FitOptions(strategy=strategy, checkpoints=Killed(str(output / "checkpoints"))),
    )


def main() -> None:
    output = Path(sys.argv[1])
    trained = train(output, int(sys.argv[2]))
    rows = [
        [row[key] for key in ("loss", "accuracy", "val_loss", "val_accuracy")]
        for row in trained.epochs
    ]
    np.savez(
        output / "trained.npz",
        *trained.model.get_weights(),
        rows=np.array(rows),
        steps=np.array(trained.steps),
        best=np.array(trained.best["epoch"]),
    )


if __name__ == "__main__":
    main()
