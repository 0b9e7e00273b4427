"""What a frozen network makes of the images, computed once and kept in memory."""

from __future__ import annotations

import math
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
    """Features of all images in all views, view by view: float32 [views * N, ...].

    View 0 is of the images as they are, the others of augmented ones. `forward` maps images
    [B, H, W, 3] to features [B, ...]; `on_batch` is told how many images of a view are done.
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
    """The batches of `input_pipeline.training_batches`, of features; without an end.

    For a small head a data set's iterator would take as long as the step. Here the `tf.function`
    that trains looks a batch up itself, by the places of its images: what `next` gives are tensors
    of the graph that it is called in, or what `strategy` makes of them for its replicas.

    An epoch sees one view, and the next epoch the next.

    Args:
        features: float32 [views * N, ...], of the N images of `split`.
        first_step: the number of the first batch, counted from the beginning of `epochs`.
    """

    def __init__(
        self,
        features: tf.Tensor,
        split: Split,
        batch_size: int,
        seed: int,
        *,
        epochs: range,
        balance: str,
        first_step: int,
        strategy: tf.distribute.Strategy,
        replicas: Replicas,
    ) -> None:
        self._features = features
        self._split = split
        self._batch_size = batch_size
        self._epochs = epochs
        self._balance = balance
        self._first_step = first_step
        self._strategy = strategy
        self._replicas = replicas
        size = input_pipeline.epoch_size(split, balance)
        self._steps_per_epoch = math.ceil(size / batch_size)
        self._seeds = input_pipeline.epoch_seeds(seed, epochs)[:, 0]
        with tf.device("CPU:0"):
            self._step = tf.Variable(first_step, dtype=tf.int64)
            self._places = tf.Variable(tf.zeros([size], tf.int32))
            self._labels = tf.constant(split.labels)

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
        step = self._step.read_value()
        self._step.assign_add(1)
        number, within = step // self._steps_per_epoch, step % self._steps_per_epoch
        epoch = self._epochs.start + number
        is_new = (within == 0) | (step == self._first_step)
        places = tf.cond(
            is_new, lambda: self._places.assign(self._order(number, epoch)), self._places.read_value
        )
        begin = within * self._batch_size
        chosen = places[begin : begin + self._batch_size]
        view = tf.cast(epoch, tf.int32) % (len(self._features) // self._split.size)
        labels = tf.gather(self._labels, chosen)
        images, labels, kept, total = input_pipeline.whole(
            tf.gather(self._features, view * self._split.size + chosen), labels
        )
        if self._balance == "class_weight":
            kept *= tf.gather(input_pipeline.class_weights(self._split), labels)
        return images, labels, kept, total

    def _order(self, number: tf.Tensor, epoch: tf.Tensor) -> tf.Tensor:
        seed = tf.gather(self._seeds, number)
        places = tf.range(self._split.size)
        if self._balance == "sampling":
            repetitions = input_pipeline.repetitions(self._split, seed, epoch)
            places = tf.repeat(places, repetitions)
        return tf.random.experimental.stateless_shuffle(places, tf.stack([seed, epoch]))
