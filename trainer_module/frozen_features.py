"""The features of a frozen network, computed once and kept in memory."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import tensorflow as tf

from trainer_module import input_pipeline
from trainer_module.input_pipeline import Augment, Replicas, Split


def compute(
    forward: Callable[[tf.Tensor], tf.Tensor],
    split: Split,
    batch_size: int,
    seed: int,
    augment: Augment | None,
    *,
    views: int,
    on_batch: Callable[[int], None],
) -> tf.Tensor:
    """Compute the features of all images in all views, view by view: float32 [views * N, ...].

    View 0 is of the images as they are, the others of augmented ones. `forward` maps images
    [B, H, W, 3] to features [B, ...]; `on_batch` gets the number of finished images of a view.
    """
    parts: list[np.ndarray] = []
    for view in range(views):
        done = 0
        batches = input_pipeline.view_batches(split, batch_size, seed, view, augment)
        for images, labels in batches:
            parts.append(forward(images).numpy())
            done += len(labels)
            on_batch(done)
    with tf.device("CPU:0"):  # where the input is prepared
        return tf.concat(parts, axis=0)


class Batches(Iterator[Any]):
    """The batches of `input_pipeline.training_batches`, of features, one epoch at a time.

    For a small head a data set's iterator would take as long as the step. Here the `tf.function`
    that trains looks a batch up itself, by the places of its images: what `next` gives are tensors
    of the graph that it is called in, or what `strategy` makes of them for its replicas.

    An epoch sees one view, and the next epoch the next.

    Args:
        features: float32 [views * N, ...], of the N images of `split`.
    """

    def __init__(
        self,
        features: tf.Tensor,
        split: Split,
        batch_size: int,
        seed: int,
        *,
        balance: str,
        strategy: tf.distribute.Strategy,
        replicas: Replicas,
    ) -> None:
        self._split = split
        self._batch_size = batch_size
        self._seed = seed
        self._balance = balance
        self._strategy = strategy
        self._replicas = replicas
        self._views = len(features) // split.size
        size = input_pipeline.epoch_size(split, balance)
        with tf.device("CPU:0"):
            self._features = features
            self._labels = tf.constant(np.tile(split.labels, self._views))
            self._places = tf.Variable(tf.zeros([size], tf.int32))
            self._step = tf.Variable(0)

    def epoch(self, number: int, first_step: int = 0) -> Batches:
        """Go on with the batch `first_step` of this epoch; it must not be read beyond its end."""
        seed, _ = input_pipeline.epoch_seeds(self._seed, number)
        places = np.arange(self._split.size, dtype=np.int32)
        if self._balance == "sampling":
            places = places.repeat(input_pipeline.repetitions(self._split, seed, number))
        places = tf.random.experimental.stateless_shuffle(places, [seed, number])
        self._places.assign(places + number % self._views * self._split.size)
        self._step.assign(first_step)
        return self

    def __next__(self) -> Any:
        with tf.device("CPU:0"):
            element = self._element()
        if self._replicas.total == 1:
            return element
        return self._strategy.experimental_distribute_values_from_function(
            lambda context: input_pipeline.share(
                element, context.replica_id_in_sync_group, self._replicas.total
            )
        )

    def _element(self) -> tuple[tf.Tensor, ...]:
        begin = self._step.read_value() * self._batch_size
        self._step.assign_add(1)
        places = self._places[begin : begin + self._batch_size]
        images, labels, kept, total = input_pipeline.whole(
            tf.gather(self._features, places), tf.gather(self._labels, places)
        )
        if self._balance == "class_weight":
            kept *= tf.gather(input_pipeline.class_weights(self._split), labels)
        return images, labels, kept, total
