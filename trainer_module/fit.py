"""Training of a recipe's model: its phases, what is reported on the way, and the best weights."""

from __future__ import annotations

import dataclasses
import math
import time
from collections.abc import Mapping
from typing import Any

import keras
import tensorflow as tf
from pydantic import BaseModel

from components import progress
from trainer_module import input_pipeline
from trainer_module.input_pipeline import Split
from trainer_module.recipes.base import Phase, Recipe, TrainingData, quality

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
    epochs: int | None,
    seed: int,
) -> Trained:
    """Train from scratch; the best epoch is that of the highest accuracy on `evaluation`.

    Each phase begins with the best weights of the one before, and where none of its own epochs is
    better than the best of an earlier phase, that phase's model is the result.

    Raises:
        DivergedError: the loss became NaN or infinite.
    """
    model = recipe.build_model(config, image_size, num_classes)
    pixels = train.images.map(lambda image, _: image)
    data = TrainingData(pixels, train.size, batch_size, epochs)
    rows: list[dict[str, float]] = []
    kept: tuple[keras.Model, _Monitor] | None = None
    phases = recipe.phases(config, model, data)
    phase = next(phases, None)
    while phase:
        model = phase.model or model
        monitor = _Monitor(train.size, batch_size, phase, first=len(rows))
        _fit_phase(model, phase, monitor, train, evaluation, num_classes, seed + len(rows))
        rows += monitor.rows
        model.set_weights(monitor.best_weights)
        if kept is None or quality(monitor.best) > quality(kept[1].best):
            kept = model, monitor
        try:
            phase = phases.send(monitor.best)
        except StopIteration:
            phase = None
    if kept is None:
        raise ValueError(f"recipe {recipe} yields no phase")
    model, monitor = kept
    model.set_weights(monitor.best_weights)
    return Trained(model, rows, monitor.best)


def _fit_phase(
    model: keras.Model,
    phase: Phase,
    monitor: _Monitor,
    train: Split,
    evaluation: Split,
    num_classes: int,
    seed: int,
) -> None:
    batches = input_pipeline.training_batches(train, monitor.batch_size, seed, phase.augment)
    validation = input_pipeline.evaluation_batches(evaluation, monitor.batch_size)
    if phase.soft_labels:
        loss = keras.losses.CategoricalCrossentropy(from_logits=True)
        accuracy = keras.metrics.CategoricalAccuracy(name="accuracy")
        validation = validation.map(
            lambda images, labels: (images, tf.one_hot(labels, num_classes))
        )
    else:
        loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
        accuracy = keras.metrics.SparseCategoricalAccuracy(name="accuracy")
    model.compile(phase.optimizer, loss, metrics=[accuracy])
    model.fit(
        batches,
        validation_data=validation,
        steps_per_epoch=monitor.steps,
        initial_epoch=monitor.first,
        epochs=monitor.epochs,
        shuffle=False,  # the batches are shuffled already
        callbacks=[monitor],
        verbose=0,
    )


class _Monitor(keras.callbacks.Callback):
    """Reports a phase, stops at a loss that is no number, and keeps the best weights."""

    def __init__(self, images: int, batch_size: int, phase: Phase, first: int) -> None:
        super().__init__()
        self.images = images
        self.batch_size = batch_size
        self.first = first
        self.epochs = first + phase.epochs
        self.patience = phase.patience
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
        if not self.best or quality(row) > quality(self.best):
            self.best = row
            self.best_weights = self.model.get_weights()
        elif self.patience and row["epoch"] - self.best["epoch"] >= self.patience:
            self.model.stop_training = True

    def _require_finite(self, loss: float, step: int) -> None:
        if not math.isfinite(loss):
            rate = float(self.model.optimizer.learning_rate)
            raise DivergedError(
                f"the loss is {loss} in epoch {self.epoch + 1}, step {step} of {self.steps}, at "
                f"learning rate {rate:g}: lower train.hyperparameters.learning_rate, or raise "
                f"train.batch_size (now {self.batch_size})"
            )
