"""Training of a recipe's model: its phases, what is reported on the way, and the best weights."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import itertools
import math
import time
from collections.abc import Callable, Iterable, Iterator, Sequence

import keras
import numpy as np
import tensorflow as tf
from pydantic import BaseModel

from components import progress
from trainer_module import devices, footprint, input_pipeline
from trainer_module.checkpoint import Checkpoints, Saved
from trainer_module.feed import Feed
from trainer_module.input_pipeline import Split
from trainer_module.models import inference
from trainer_module.recipes.base import EpochMetrics, Phase, Recipe, TrainingData, epoch_rank
from trainer_module.steps import Steps

REPORT_SECONDS = 0.5  # reading the loss waits for the device, so not after every step
CALL_SECONDS = 0.1  # about how much is computed without a look at the clock
# Time that a kill costs at most; large models are saved less often, for 5 % of the time in all.
CHECKPOINT_SECONDS = 30.0
CHECKPOINT_SHARE = 0.05


class DivergedError(Exception):
    """The loss is no longer a finite number."""


class OutOfMemoryError(Exception):
    """A batch does not fit into the device's memory."""


class BatchNormError(Exception):
    """Batch normalization would be trained on one image at a time."""


@dataclasses.dataclass(frozen=True)
class FitOptions:
    """How a training is carried out; only `balance` and `keep` change what is learned.

    Attributes:
        balance: see `input_pipeline.training_batches`.
        keep: which epoch of a phase the weights are taken of: "best" or "last".
        gradient_accumulation, jit_compile: see `Steps`; None: as many parts as `memory` needs.
        memory: bytes that a device has.
        strategy: the devices; None: TensorFlow's default one.
        checkpoints: where to continue from, and to leave what another call can continue from.
        prepare: is given the new model before anything else is done with it.
        on_phase: is given each phase before it is fitted, with its number from 0.
        on_epoch: is given the mapping of each epoch, also of those before a continuation.
    """

    balance: str = "none"
    keep: str = "best"
    gradient_accumulation: int | None = None
    memory: float = math.inf
    jit_compile: bool = False
    strategy: tf.distribute.Strategy | None = None
    checkpoints: Checkpoints | None = None
    prepare: Callable[[keras.Model], None] = lambda _: None
    on_phase: Callable[[int, Phase], None] = lambda *_: None
    on_epoch: Callable[[EpochMetrics], None] = lambda _: None


@dataclasses.dataclass(frozen=True)
class FitResult:
    """A model with the weights of its best epoch, or of the last where that is to be kept.

    Attributes:
        model: pixels to logits.
        rebuild: makes that model anew, with other weights.
        epochs: one mapping an epoch: epoch (from 1), loss and accuracy on the training images as
            augmented, val_loss and val_accuracy, learning_rate, images_per_s (training only).
        best: the one of `epochs` that `model` has the weights of, also where that is the last.
        phase_starts: the number of the first epoch of each phase.
        steps: training steps over all phases.
        features: float32 [N, ...] of the training images, from a network that had not seen their
            labels, where this call came to a phase with a frozen one.
    """

    model: keras.Model
    rebuild: Callable[[], keras.Model]
    epochs: list[dict[str, float]]
    best: EpochMetrics
    phase_starts: list[int]
    steps: int
    features: tf.Tensor | None = None


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
    options: FitOptions | None = None,
) -> FitResult:
    """Train; the best epoch is that of the highest accuracy on `evaluation`.

    Each phase begins with the best weights of the one before, and where none of its own epochs is
    better than the best of an earlier phase, that phase's model is the result. Where `options.keep`
    is "last", it is the last weights, and the last phase's model.

    Raises:
        BatchNormError: a step would show batch normalization one image only.
        DivergedError: the loss became NaN or infinite.
        OutOfMemoryError: a batch does not fit.
    """
    options = options or FitOptions()
    strategy = options.strategy or tf.distribute.get_strategy()
    rebuild: Callable[[], keras.Model] = functools.partial(
        recipe.build_model, config, image_size, num_classes
    )
    with strategy.scope():
        model = rebuild()
    options.prepare(model)
    size = recipe.training_size(config, image_size)
    training = _Training(options, strategy, train, evaluation, batch_size, seed, size)
    pixels = train.images.map(lambda image, _: input_pipeline.pixels_of(image))
    data = TrainingData(pixels, training.epoch_size, batch_size, epochs, options.keep, image_size)
    phases = recipe.phases(config, model, data)
    best: EpochMetrics | None = None
    with training.explained():
        for number in itertools.count():
            try:
                with strategy.scope():
                    phase = phases.send(best)  # type: ignore[arg-type]  # None starts it
            except StopIteration:
                break
            options.on_phase(number, phase)
            model, rebuild = phase.model or model, phase.rebuild or rebuild
            best = training.fit_phase(number, phase, model, rebuild)
    return training.trained()


class _Training:
    """The state of a training, and what changes it."""

    def __init__(
        self,
        options: FitOptions,
        strategy: tf.distribute.Strategy,
        train: Split,
        evaluation: Split,
        batch_size: int,
        seed: int,
        size: int,
    ) -> None:
        self._options = options
        self._size = size  # of the images of a step, where a model takes any
        self._strategy = strategy
        self._evaluation = evaluation
        self._batch_size = batch_size
        self._replicas = devices.replicas(strategy)
        self._writes = devices.is_chief(strategy)
        self._feed = Feed(train, evaluation, batch_size, seed, options.balance, strategy)
        self.epoch_size = input_pipeline.epoch_size(train, options.balance)
        self._steps_per_epoch = math.ceil(self.epoch_size / batch_size)

        self._rows: list[dict[str, float]] = []
        self._starts: list[int] = []  # how many rows there were when each phase began
        self._step = 0  # within the epoch
        self._steps = 0  # in all
        self._steps_per_call = 1
        self._parts = options.gradient_accumulation or 1  # of a replica's share of a batch
        self._sums = tf.zeros([3], tf.float64)  # of the epoch so far
        self._models: list[keras.Model] = []  # of each phase
        self._rebuilds: list[Callable[[], keras.Model]] = []
        self._best_weights: Sequence[np.ndarray] = []  # of this phase
        self._kept = 0  # the phase with the best epoch of all
        self._kept_weights: Sequence[np.ndarray] = []

        self._reported = 0.0
        self._speed = 0.0
        self._saved_at = time.monotonic()
        self._save_cost = 0.0
        self._saved = options.checkpoints.latest() if options.checkpoints else None
        if self._saved:
            self._restore(self._saved)

    def trained(self) -> FitResult:
        """Return the result, with the weights of the kept phase."""
        model = self._models[self._kept]
        model.set_weights(self._kept_weights)
        starts = [start + 1 for start in self._starts]
        return FitResult(
            model,
            self._rebuilds[self._kept],
            self._rows,
            self._result(self._kept),
            starts,
            self._steps,
            self._feed.features,
        )

    def fit_phase(
        self, number: int, phase: Phase, model: keras.Model, rebuild: Callable[[], keras.Model]
    ) -> EpochMetrics:
        """Do what is left of the phase, the `number`th one from 0. Returns its best epoch."""
        self._models.append(model)
        self._rebuilds.append(rebuild)
        if number < len(self._starts) - 1:
            return self._result(number)  # it was over when the checkpoint was written
        self._epochs = phase.epochs
        with self._strategy.scope():
            optimizer = devices.scaled(phase.optimizer)
            net = phase.frozen.head if phase.frozen else model
            self._cut(net)
            optimizer.build(net.trainable_variables)
        if number == len(self._starts):
            self._starts.append(len(self._rows))
            self._best_weights = []
        elif self._saved:
            _assign(model.variables, self._saved.arrays["model"])
            _assign(optimizer.variables, self._saved.arrays["optimizer"])
            self._saved = None
        if not self._is_over(phase):
            self._fit(phase, net, optimizer)
        model.set_weights(self._best_weights)
        best = self._result(number)
        last = self._options.keep == "last"
        if number == 0 or last or epoch_rank(best) > epoch_rank(self._result(self._kept)):
            self._kept, self._kept_weights = number, self._best_weights
        return best

    def _fit(self, phase: Phase, net: keras.Model, optimizer: keras.optimizers.Optimizer) -> None:
        steps = Steps(
            net,
            optimizer,
            self._strategy,
            accumulation=self._parts,
            clip=phase.clip,
            jit_compile=self._options.jit_compile,
        )
        self._steps_per_call = 1
        epochs = range(len(self._rows), self._starts[-1] + phase.epochs)
        training, testing = self._feed.batches(phase, epochs, self._step)
        while not self._is_over(phase):
            self._train_epoch(steps, training, optimizer)
            self._end_epoch(steps, testing, optimizer)

    @contextlib.contextmanager
    def explained(self) -> Iterator[None]:
        """Turn TensorFlow's errors into ones that say what to change."""
        try:
            yield
        except tf.errors.ResourceExhaustedError as error:
            raise OutOfMemoryError(
                f"a batch does not fit into memory: lower train.batch_size (now "
                f"{self._batch_size}), or raise train.gradient_accumulation (now "
                f"{self._parts}), which takes the same batch in parts"
            ) from error

    def _train_epoch(
        self, steps: Steps, training: Iterator[Iterator], optimizer: keras.optimizers.Optimizer
    ) -> None:
        started, first = time.monotonic(), self._step
        batches = next(training)
        while self._step < self._steps_per_epoch:
            count = min(self._steps_per_call, self._steps_per_epoch - self._step)
            self._sums += steps.train(batches, count)
            self._step += count
            self._steps += count
            now = time.monotonic()
            last = self._step == self._steps_per_epoch
            images = min(self._step * self._batch_size, self.epoch_size)
            if last or now - self._reported >= REPORT_SECONDS:
                self._reported = now
                loss = self._report(started, first, images)
                self._require_finite(loss, optimizer)
            self._save_if_due(optimizer)

    def _report(self, started: float, first: int, images: int) -> float:
        """Report the steps of this epoch so far; returns the loss."""
        loss, accuracy, _ = _means(self._sums)
        seconds = time.monotonic() - started
        done = len(self._rows) * self._steps_per_epoch + self._step
        total = (self._starts[-1] + self._epochs) * self._steps_per_epoch
        self._speed = (images - first * self._batch_size) / seconds
        step_seconds = seconds / (self._step - first)
        if self._replicas.local == self._replicas.total:
            # Several processes must make the same calls: they meet by a step's number within one.
            self._steps_per_call = max(1, int(CALL_SECONDS / step_seconds))
        left = (total - done) * step_seconds
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
                **({progress.SECONDS_LEFT: round(left)} if round(left) else {}),
            )
        return loss

    def _end_epoch(
        self, steps: Steps, testing: Iterable, optimizer: keras.optimizers.Optimizer
    ) -> None:
        loss, accuracy, _ = _means(self._sums)
        val_loss, val_accuracy, _ = _means(self._evaluate(steps, testing))
        self._require_finite(val_loss, optimizer)
        row: dict[str, float] = {
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
            progress.report("epoch", **{**row, "epochs": self._starts[-1] + self._epochs})
        self._options.on_epoch(row)
        if self._result(len(self._starts) - 1) is row:
            self._best_weights = self._models[-1].get_weights()
        self._step, self._sums = 0, tf.zeros([3], tf.float64)

    def _evaluate(self, steps: Steps, testing: Iterable) -> tf.Tensor:
        sums = tf.zeros([3], tf.float64)
        batches = iter(testing)
        left = math.ceil(self._evaluation.size / self._batch_size)
        while left:
            count = min(self._steps_per_call, left)
            sums += steps.evaluate(batches, count)
            left -= count
        return sums

    def _is_over(self, phase: Phase) -> bool:
        start = self._starts[-1]
        done = len(self._rows) - start
        if done >= phase.epochs or not (done and phase.patience):
            return done >= phase.epochs
        best = int(self._best(len(self._starts) - 1)["epoch"]) - start
        since = max(best * self._steps_per_epoch, phase.warmup)
        return done * self._steps_per_epoch - since >= phase.patience

    def _best(self, phase: int) -> EpochMetrics:
        """Find the best epoch of a phase; of equal ones the first."""
        return max(self._epochs_of(phase), key=epoch_rank)

    def _result(self, phase: int) -> EpochMetrics:
        """Find the epoch whose weights the phase keeps."""
        return self._epochs_of(phase)[-1] if self._options.keep == "last" else self._best(phase)

    def _epochs_of(self, phase: int) -> Sequence[EpochMetrics]:
        end = self._starts[phase + 1] if phase + 1 < len(self._starts) else None
        return self._rows[self._starts[phase] : end]

    def _save_if_due(self, optimizer: keras.optimizers.Optimizer) -> None:
        checkpoints = self._options.checkpoints
        if not (checkpoints and self._writes):
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
            "kept": self._kept,
            "images_per_s": self._speed,
        }
        arrays = {
            "model": self._models[-1].variables,
            "optimizer": optimizer.variables,
            "best": self._best_weights,
            "kept": self._kept_weights,
            "sums": [self._sums],
        }
        checkpoints.save(self._steps, meta, arrays)
        self._saved_at = time.monotonic()
        self._save_cost = self._saved_at - started

    def _restore(self, saved: Saved) -> None:
        """Take over all but the model's and the optimizer's variables."""
        self._rows, self._starts = saved.meta["rows"], saved.meta["starts"]
        self._step, self._steps = saved.meta["step"], saved.meta["steps"]
        self._best_weights = saved.arrays.get("best", [])
        self._kept, self._kept_weights = saved.meta["kept"], saved.arrays.get("kept", [])
        self._sums = tf.constant(saved.arrays["sums"][0])
        self._speed = saved.meta["images_per_s"]
        self._note(f"training continues after step {self._steps}")
        for row in self._rows:
            self._options.on_epoch(row)

    def _note(self, text: str) -> None:
        if self._writes:
            progress.report("note", text=text)

    def _cut(self, net: keras.Model) -> None:
        """Choose the parts of a batch. Refuse those of one image to batch normalization."""
        share = math.ceil(min(self._batch_size, self.epoch_size) / self._replicas.total)
        each = 4 if keras.config.dtype_policy().name == "float32" else 2
        self._parts = self._options.gradient_accumulation or footprint.parts(
            net, share, self._options.memory, each, self._size
        )
        if self._parts > 1 and not self._options.gradient_accumulation:
            self._note(f"memory: a batch of {share} images is computed in {self._parts} parts")
        if math.ceil(share / self._parts) == 1 and next(inference.batch_statistics(net), None):
            raise BatchNormError(inference.one_image(net.name, self._batch_size, self._parts))

    def _require_finite(self, loss: float, optimizer: keras.optimizers.Optimizer) -> None:
        if not math.isfinite(loss):
            raise DivergedError(
                f"the loss is {loss} in epoch {len(self._rows) + 1}, step {self._step} of "
                f"{self._steps_per_epoch}, at learning rate {_rate(optimizer):g}: "
                "lower train.hyperparameters.learning_rate, or raise train.batch_size (now "
                f"{self._batch_size})"
            )


def _assign(variables: Sequence[keras.Variable], arrays: Sequence[np.ndarray]) -> None:
    for variable, array in zip(variables, arrays, strict=True):
        variable.assign(array)


def _means(sums: tf.Tensor) -> tuple[float, float, float]:
    """Loss and accuracy per image, and images."""
    loss, correct, images = (float(value) for value in sums)
    return loss / images, correct / images, images


def _rate(optimizer: keras.optimizers.Optimizer) -> float:
    # A mirrored variable is not a number.
    return float(keras.ops.convert_to_numpy(optimizer.learning_rate))
