"""Training of a recipe's model: its phases, what is reported on the way, and the best weights."""

from __future__ import annotations

import dataclasses
import math
import time
from collections.abc import Mapping
from typing import Any

import keras
from pydantic import BaseModel

from components import progress
from trainer_module import input_pipeline
from trainer_module.input_pipeline import Split
from trainer_module.recipes.base import Recipe

REPORT_SECONDS = 0.5  # reading the loss waits for the device, so not after every step


class DivergedError(Exception):
    """The loss is no longer a finite number."""


@dataclasses.dataclass(frozen=True)
class Trained:
    """A model with the weights of its best epoch.

    Attributes:
        model: pixels to logits.
        epochs: one mapping an epoch: epoch (from 1), loss and accuracy on the training images as
            augmented, val_loss and val_accuracy, learning_rate, images_per_s (training only).
        best: the one of `epochs` that `model` has the weights of.
    """

    model: keras.Model
    epochs: list[dict[str, float]]
    best: dict[str, float]


def fit(
    recipe: Recipe,
    config: BaseModel,
    *,
    train: Split,
    evaluation: Split,
    image_size: int,
    num_classes: int,
    batch_size: int,
    epochs: int,
    seed: int,
) -> Trained:
    """Train from scratch; the best epoch is that of the highest accuracy on `evaluation`.

    Raises:
        DivergedError: the loss became NaN or infinite.
    """
    model = recipe.build_model(config, image_size, num_classes)
    steps = math.ceil(train.size / batch_size)
    monitor = _Monitor(train.size, batch_size, epochs)
    pixels = train.images.map(lambda image, _: image)
    done = 0
    for phase in recipe.phases(config, model, pixels, epochs, steps):
        # Variables that are made while a step is traced make TensorFlow trace it a second time.
        phase.optimizer.build(model.trainable_variables)
        model.compile(
            phase.optimizer,
            keras.losses.SparseCategoricalCrossentropy(from_logits=True),
            metrics=[keras.metrics.SparseCategoricalAccuracy(name="accuracy")],
        )
        model.fit(
            input_pipeline.training_batches(train, batch_size, seed + done, phase.augment),
            validation_data=input_pipeline.evaluation_batches(evaluation, batch_size),
            steps_per_epoch=steps,
            initial_epoch=done,
            epochs=done + phase.epochs,
            shuffle=False,  # the batches are shuffled already
            callbacks=[monitor],
            verbose=0,
        )
        done += phase.epochs
    model.set_weights(monitor.best_weights)
    return Trained(model, monitor.rows, monitor.best)


class _Monitor(keras.callbacks.Callback):
    """Reports, stops at a loss that is no number, and keeps the best weights over all phases."""

    def __init__(self, images: int, batch_size: int, epochs: int) -> None:
        super().__init__()
        self.images = images
        self.batch_size = batch_size
        self.epochs = epochs
        self.steps = math.ceil(images / batch_size)
        self.rows: list[dict[str, float]] = []
        self.best: dict[str, float] = {}
        self.best_weights: list[Any] = []
        self.reported = 0.0

    def on_epoch_begin(self, epoch: int, logs: Mapping[str, float] | None = None) -> None:
        self.epoch = epoch
        self.started = time.monotonic()

    def on_train_batch_end(self, batch: int, logs: Mapping[str, float] | None = None) -> None:
        now = time.monotonic()
        last = batch + 1 == self.steps
        if last:
            self.speed = self.images / (now - self.started)
        if not last and now - self.reported < REPORT_SECONDS:
            return
        self.reported = now
        loss, accuracy = (float((logs or {})[key]) for key in ("loss", "accuracy"))
        self._require_finite(loss, batch + 1)
        progress.report(
            "step",
            what="train",
            done=self.epoch * self.steps + batch + 1,
            total=self.epochs * self.steps,
            unit="steps",
            loss=loss,
            accuracy=accuracy,
            images_per_s=min((batch + 1) * self.batch_size, self.images) / (now - self.started),
        )

    def on_epoch_end(self, epoch: int, logs: Mapping[str, float] | None = None) -> None:
        row = {key: float(value) for key, value in (logs or {}).items()}
        self._require_finite(row["val_loss"], self.steps)
        row |= {
            "epoch": epoch + 1,
            "learning_rate": float(self.model.optimizer.learning_rate),
            "images_per_s": self.speed,
        }
        self.rows.append(row)
        progress.report("epoch", **{**row, "epochs": self.epochs})
        if not self.best or _quality(row) > _quality(self.best):
            self.best = row
            self.best_weights = self.model.get_weights()

    def _require_finite(self, loss: float, step: int) -> None:
        if not math.isfinite(loss):
            rate = float(self.model.optimizer.learning_rate)
            raise DivergedError(
                f"the loss is {loss} in epoch {self.epoch + 1}, step {step} of {self.steps}, at "
                f"learning rate {rate:g}: lower train.hyperparameters.learning_rate, or raise "
                f"train.batch_size (now {self.batch_size})"
            )


def _quality(row: Mapping[str, float]) -> tuple[float, float]:
    """Orders epochs: by accuracy on the evaluation split, and where equal by loss."""
    return row["val_accuracy"], -row["val_loss"]
