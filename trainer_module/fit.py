"""Training of a recipe's model: its phases, what is reported on the way, and the best weights."""

from __future__ import annotations

import contextlib
import dataclasses
import itertools
import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence

import keras
import numpy as np
import tensorflow as tf
from pydantic import BaseModel

from components import progress
from trainer_module import devices, input_pipeline
from trainer_module.checkpoint import Checkpoints, Saved
from trainer_module.input_pipeline import Split
from trainer_module.recipes.base import Frozen, Phase, Recipe
from trainer_module.steps import Steps

REPORT_SECONDS = 0.5  # reading the loss waits for the device, so not after every step
# What a kill costs at most; large models are saved less often, for 5 % of the time in all.
CHECKPOINT_SECONDS = 30.0
CHECKPOINT_SHARE = 0.05

Row = dict[str, float]


class DivergedError(Exception):
    """The loss is no longer a finite number."""


class OutOfMemoryError(Exception):
    """A batch does not fit into the device's memory."""


@dataclasses.dataclass(frozen=True)
class Options:
    """Settings of the training that are no recipe's own; names as in the configuration."""

    batch_size: int
    epochs: int
    seed: int
    balance: str = "none"
    gradient_accumulation: int = 1
    jit_compile: bool = False


@dataclasses.dataclass(frozen=True)
class Trained:
    """A model with the weights of its best epoch.

    Attributes:
        model: pixels to logits.
        epochs: one mapping an epoch: epoch (from 1), loss and accuracy on the training images as
            augmented, val_loss and val_accuracy, learning_rate, images_per_s (training only).
        best: the one of `epochs` that `model` has the weights of.
        phase_starts: the number of the first epoch of each phase.
        steps: training steps over all phases.
    """

    model: keras.Model
    epochs: list[Row]
    best: Row
    phase_starts: list[int]
    steps: int


def fit(
    recipe: Recipe,
    config: BaseModel,
    options: Options,
    *,
    train: Split,
    evaluation: Split,
    image_size: int,
    strategy: tf.distribute.Strategy | None = None,
    checkpoints: Checkpoints | None = None,
    prepare: Callable[[keras.Model], None] = lambda _: None,
    on_epoch: Callable[[Row], None] = lambda _: None,
) -> Trained:
    """Train; the best epoch is that of the highest accuracy on `evaluation`.

    Args:
        strategy: the devices; None: TensorFlow's default one.
        checkpoints: where to continue from, and to leave what another call can continue from.
        prepare: is given the new model before anything else is done with it.
        on_epoch: is given the mapping of each epoch, also of those before a continuation.

    Raises:
        DivergedError: the loss became NaN or infinite.
        OutOfMemoryError: a batch does not fit.
    """
    strategy = strategy or tf.distribute.get_strategy()
    with strategy.scope():
        model = recipe.build_model(config, image_size, train.classes)
    prepare(model)
    training = _Training(model, options, train, evaluation, strategy, checkpoints, on_epoch)
    steps = training.steps_per_epoch
    pixels = train.images.map(lambda image, _: image)
    phases = recipe.phases(config, model, pixels, options.epochs, steps)
    with training.explained():
        for number in itertools.count():
            with strategy.scope():
                phase = next(phases, None)
            if phase is None:
                break
            training.fit_phase(number, phase)
    return training.trained()


class _Training:
    """The state of a training, and what changes it."""

    def __init__(
        self,
        model: keras.Model,
        options: Options,
        train: Split,
        evaluation: Split,
        strategy: tf.distribute.Strategy,
        checkpoints: Checkpoints | None,
        on_epoch: Callable[[Row], None],
    ) -> None:
        self._model = model
        self._options = options
        self._train = train
        self._evaluation = evaluation
        self._strategy = strategy
        self._replicas = devices.replicas(strategy)
        self._writes = devices.is_chief(strategy)
        self._checkpoints = checkpoints
        self._on_epoch = on_epoch
        self._size = input_pipeline.epoch_size(train, options.balance)
        self.steps_per_epoch = math.ceil(self._size / options.batch_size)

        self._rows: list[Row] = []
        self._starts: list[int] = []  # how many rows there were when each phase began
        self._step = 0  # within the epoch
        self._steps = 0  # in all
        self._sums = tf.zeros([3], tf.float64)  # of the epoch so far
        self._best: Row = {}
        self._best_weights: Sequence[np.ndarray] = model.get_weights()

        self._reported = 0.0
        self._speed = 0.0
        self._saved_at = time.monotonic()
        self._save_cost = 0.0
        self._saved = checkpoints.latest() if checkpoints else None
        if self._saved:
            self._restore(self._saved)

    def trained(self) -> Trained:
        """The outcome."""
        self._model.set_weights(self._best_weights)
        starts = [start + 1 for start in self._starts]
        return Trained(self._model, self._rows, self._best, starts, self._steps)

    def fit_phase(self, number: int, phase: Phase) -> None:
        """Do what is left of the phase, the `number`th one from 0."""
        if number < len(self._starts) - 1:
            return  # it was over when the checkpoint was written
        with self._strategy.scope():
            optimizer = devices.scaled(phase.optimizer)
            net = phase.frozen.head if phase.frozen else self._model
            optimizer.build(net.trainable_variables)
        if number == len(self._starts):
            self._starts.append(len(self._rows))
        elif self._saved:
            _assign(self._model.variables, self._saved.arrays["model"])
            _assign(optimizer.variables, self._saved.arrays["optimizer"])
            self._saved = None
        if self._is_over(phase):
            return
        views, evaluation = [self._train], self._evaluation
        if phase.frozen:
            views, evaluation = self._features(phase.frozen, phase)
        steps = Steps(
            net,
            optimizer,
            self._strategy,
            accumulation=self._options.gradient_accumulation,
            clip=phase.clip,
            jit_compile=self._options.jit_compile,
        )
        augment = None if phase.frozen else phase.augment
        while not self._is_over(phase):
            epoch = len(self._rows)
            batches = input_pipeline.training_batches(
                views[epoch % len(views)],
                self._options.batch_size,
                self._options.seed,
                epoch,
                augment,
                balance=self._options.balance,
                first_step=self._step,
                replicas=self._replicas,
            )
            self._train_epoch(steps, batches, optimizer)
            self._end_epoch(steps, evaluation, optimizer)

    @contextlib.contextmanager
    def explained(self) -> Iterator[None]:
        """Turn TensorFlow's errors into ones that say what to change."""
        try:
            yield
        except tf.errors.ResourceExhaustedError as error:
            raise OutOfMemoryError(
                f"a batch does not fit into memory: lower train.batch_size (now "
                f"{self._options.batch_size}), or raise train.gradient_accumulation (now "
                f"{self._options.gradient_accumulation}), which takes the same batch in parts"
            ) from error

    def _train_epoch(
        self, steps: Steps, batches: tf.data.Dataset, optimizer: keras.optimizers.Optimizer
    ) -> None:
        started, first = time.monotonic(), self._step
        iterator = self._iterator(batches)
        while self._step < self.steps_per_epoch:
            self._sums += steps.train(iterator)
            self._step += 1
            self._steps += 1
            now = time.monotonic()
            last = self._step == self.steps_per_epoch
            images = min(self._step * self._options.batch_size, self._size)
            if last or now - self._reported >= REPORT_SECONDS:
                self._reported = now
                loss = self._report(started, first, images)
                self._require_finite(loss, optimizer)
            self._save_if_due(optimizer)

    def _report(self, started: float, first: int, images: int) -> float:
        """Report the steps of this epoch so far; returns the loss."""
        loss, accuracy, _ = _means(self._sums)
        seconds = time.monotonic() - started
        done = len(self._rows) * self.steps_per_epoch + self._step
        total = self._options.epochs * self.steps_per_epoch
        self._speed = (images - first * self._options.batch_size) / seconds
        left = (total - done) * seconds / (self._step - first)
        if self._writes:
            progress.report(
                "step",
                what="train",
                done=done,
                total=total,
                unit="steps",
                loss=loss,
                accuracy=accuracy,
                images_per_s=self._speed,
                seconds_left=round(left),
            )
        return loss

    def _end_epoch(
        self, steps: Steps, evaluation: Split, optimizer: keras.optimizers.Optimizer
    ) -> None:
        loss, accuracy, _ = _means(self._sums)
        val_loss, val_accuracy, _ = _means(self._evaluate(steps, evaluation))
        self._require_finite(val_loss, optimizer)
        row = {
            "epoch": len(self._rows) + 1,
            "loss": loss,
            "accuracy": accuracy,
            "val_loss": val_loss,
            "val_accuracy": val_accuracy,
            "learning_rate": _rate(optimizer),
            "images_per_s": self._speed,
        }
        self._rows.append(row)
        if self._writes:
            progress.report("epoch", **{**row, "epochs": self._options.epochs})
        self._on_epoch(row)
        if not self._best or _quality(row) > _quality(self._best):
            self._best, self._best_weights = row, self._model.get_weights()
        self._step, self._sums = 0, tf.zeros([3], tf.float64)

    def _evaluate(self, steps: Steps, split: Split) -> tf.Tensor:
        sums = tf.zeros([3], tf.float64)
        batches = input_pipeline.evaluation_batches(
            split, self._options.batch_size, self._replicas
        )
        iterator = self._iterator(batches)
        for _ in range(math.ceil(split.size / self._options.batch_size)):
            sums += steps.evaluate(iterator)
        return sums

    def _iterator(self, batches: tf.data.Dataset) -> Iterator:
        if self._replicas.total > 1:
            return iter(self._strategy.distribute_datasets_from_function(lambda _: batches))
        return iter(batches)

    def _features(self, frozen: Frozen, phase: Phase) -> tuple[list[Split], Split]:
        """The training images' features, one split a view, and the evaluation images'."""
        forward = tf.function(lambda images: frozen.base(images, training=False))

        def computed(split: Split, view: int) -> Split:
            parts: list[np.ndarray] = []
            batches = input_pipeline.feature_batches(
                split, self._options.batch_size, self._options.seed, view, phase.augment
            )
            done = 0
            for images, _ in batches:
                parts.append(forward(images).numpy())
                done += len(parts[-1])
                if self._writes:
                    progress.report(
                        "step", what="features", done=done, total=split.size, unit="images"
                    )
            features = tf.data.Dataset.from_tensor_slices((np.concatenate(parts), split.labels))
            return Split(features, split.labels, split.classes)

        # View 0 is of the images as they are.
        views = [computed(self._train, view) for view in range(frozen.views)]
        return views, computed(self._evaluation, 0)

    def _is_over(self, phase: Phase) -> bool:
        rows = self._rows[self._starts[-1] :]
        if len(rows) >= phase.epochs:
            return True
        if phase.patience is None or not rows:
            return False
        best = max(range(len(rows)), key=lambda index: _quality(rows[index]))
        return len(rows) - 1 - best >= phase.patience

    def _save_if_due(self, optimizer: keras.optimizers.Optimizer) -> None:
        if not (self._checkpoints and self._writes):
            return
        wait = max(CHECKPOINT_SECONDS, self._save_cost / CHECKPOINT_SHARE)
        started = time.monotonic()
        if started - self._saved_at < wait:
            return
        # A diverged training must not be continued.
        self._require_finite(_means(self._sums)[0], optimizer)
        meta = {
            "rows": self._rows,
            "starts": self._starts,
            "step": self._step,
            "steps": self._steps,
            "best": self._best,
            "images_per_s": self._speed,
        }
        arrays = {
            "model": self._model.variables,
            "optimizer": optimizer.variables,
            "best": self._best_weights,
            "sums": [self._sums],
        }
        self._checkpoints.save(self._steps, meta, arrays)
        self._saved_at = time.monotonic()
        self._save_cost = self._saved_at - started

    def _restore(self, saved: Saved) -> None:
        """Take over all but the model's and the optimizer's variables."""
        self._rows, self._starts = saved.meta["rows"], saved.meta["starts"]
        self._step, self._steps = saved.meta["step"], saved.meta["steps"]
        self._best, self._best_weights = saved.meta["best"], saved.arrays["best"]
        self._sums = tf.constant(saved.arrays["sums"][0])
        self._speed = saved.meta["images_per_s"]
        if self._writes:
            progress.report("note", text=f"training continues after step {self._steps}")
        for row in self._rows:
            self._on_epoch(row)

    def _require_finite(self, loss: float, optimizer: keras.optimizers.Optimizer) -> None:
        if not math.isfinite(loss):
            raise DivergedError(
                f"the loss is {loss} in epoch {len(self._rows) + 1}, step {self._step} of "
                f"{self.steps_per_epoch}, at learning rate {_rate(optimizer):g}: "
                "lower train.hyperparameters.learning_rate, or raise train.batch_size (now "
                f"{self._options.batch_size})"
            )


def _assign(variables: Sequence[keras.Variable], arrays: Sequence[np.ndarray]) -> None:
    for variable, array in zip(variables, arrays, strict=True):
        variable.assign(array)


def _means(sums: tf.Tensor) -> tuple[float, float, float]:
    """Loss and accuracy per image, and images."""
    loss, correct, images = (float(value) for value in sums)
    return loss / images, correct / images, images


def _quality(row: Mapping[str, float]) -> tuple[float, float]:
    """Orders epochs: by accuracy on the evaluation split, and where equal by loss."""
    return row["val_accuracy"], -row["val_loss"]


def _rate(optimizer: keras.optimizers.Optimizer) -> float:
    # A mirrored variable is no number.
    return float(keras.ops.convert_to_numpy(optimizer.learning_rate))
