"""The batches of a phase: of images, or of features that are computed once."""

from __future__ import annotations

import dataclasses
import functools
import itertools
from collections.abc import Callable, Iterable, Iterator

import tensorflow as tf

from components import progress
from trainer_module import devices, frozen_features, input_pipeline
from trainer_module.input_pipeline import Augment, Split
from trainer_module.recipes.base import Frozen, Phase


class Feed:
    """The batches of a training, for the replicas of this process.

    Args:
        train, evaluation: the splits.
        batch_size: images of a batch, over all replicas.
        seed: of order and augmentation.
        balance: see `input_pipeline.training_batches`.
        strategy: the devices.
    """

    def __init__(
        self,
        train: Split,
        evaluation: Split,
        batch_size: int,
        seed: int,
        balance: str,
        strategy: tf.distribute.Strategy,
    ) -> None:
        self._train = train
        self._evaluation = evaluation
        self._batch_size = batch_size
        self._seed = seed
        self._balance = balance
        self._strategy = strategy
        self._replicas = devices.replicas(strategy)
        self._writes = devices.is_chief(strategy)
        self.features: tf.Tensor | None = None  # of the training images as they are, if frozen

    def batches(
        self, phase: Phase, epochs: range, first_step: int
    ) -> tuple[Iterator[Iterator], Iterable]:
        """Return an iterator for the batches of each of `epochs`, and the batches of an evaluation.

        The first of the epochs begins with the batch `first_step`.
        """
        if phase.frozen:
            return self._of_features(phase.frozen, phase.augment, epochs, first_step)
        images = input_pipeline.training_batches(
            self._train,
            self._batch_size,
            self._seed,
            phase.augment,
            epochs=epochs,
            balance=self._balance,
            first_step=first_step,
            replicas=self._replicas,
        )
        return itertools.repeat(iter(self._fed(images))), self._tests(self._evaluation)

    def _of_features(
        self, frozen: Frozen, augment: Augment | None, epochs: range, first_step: int
    ) -> tuple[Iterator[Iterator], Iterable]:
        forward = tf.function(functools.partial(frozen.base, training=False))
        features = self._features(forward, self._train, augment, frozen.views)
        self.features = features[: self._train.size]
        batches = frozen_features.Batches(
            features,
            self._train,
            self._batch_size,
            self._seed,
            balance=self._balance,
            strategy=self._strategy,
            replicas=self._replicas,
        )
        computed = self._features(forward, self._evaluation, None, 1)
        images = tf.data.Dataset.from_tensor_slices((computed, self._evaluation.labels))
        training = (
            batches.epoch(number, first_step if number == epochs.start else 0) for number in epochs
        )
        return training, self._tests(dataclasses.replace(self._evaluation, images=images))

    def _features(
        self,
        forward: Callable[[tf.Tensor], tf.Tensor],
        split: Split,
        augment: Augment | None,
        views: int,
    ) -> tf.Tensor:
        def report(done: int) -> None:
            if self._writes:
                progress.report("step", what="features", done=done, total=split.size, unit="images")

        return frozen_features.compute(
            forward, split, self._batch_size, self._seed, augment, views=views, on_batch=report
        )

    def _tests(self, split: Split) -> Iterable:
        return self._fed(input_pipeline.evaluation_batches(split, self._batch_size, self._replicas))

    def _fed(self, batches: tf.data.Dataset) -> Iterable:
        if self._replicas.total > 1:
            return self._strategy.distribute_datasets_from_function(lambda _: batches)
        return batches
