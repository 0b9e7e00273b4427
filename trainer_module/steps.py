"""One step of training or evaluation, on one device or many.

Not Keras's own: its gradient accumulation weighs a short last batch like a full one, counts steps
in parts of batches, which schedules then run through too fast, cannot be distributed, and it clips
each replica's gradient before they are added up.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from typing import TypeAlias

import keras
import tensorflow as tf

# Of a batch over all replicas: the summed loss, the right answers and the images, float64 [3].
Sums: TypeAlias = tf.Tensor


class Steps:
    """The steps of one phase; batches come from iterators over `input_pipeline`'s datasets.

    Args:
        model: inputs to logits [B, classes]; its last layer need not be float32.
        optimizer: already built for the model's trainable variables.
        accumulation: parts into which each replica's share of a batch is cut, to save memory. The
            gradient is that of the whole batch, but batch normalization sees each part alone.
        clip: largest global norm of the gradient; None: no limit.
        jit_compile: compile forward and backward pass with XLA.
    """

    def __init__(
        self,
        model: keras.Model,
        optimizer: keras.optimizers.Optimizer,
        strategy: tf.distribute.Strategy,
        *,
        accumulation: int = 1,
        clip: float | None = None,
        jit_compile: bool = False,
    ) -> None:
        self._model = model
        self._optimizer = optimizer
        self._strategy = strategy
        self._accumulation = accumulation
        self._clip = clip
        self._statistics = [
            variable
            for variable in model.non_trainable_variables
            if variable.path.rpartition("/")[2] in ("moving_mean", "moving_variance")
        ]
        if strategy.num_replicas_in_sync > 1:
            self._part_random_streams()
        self._gradients = tf.function(self._differentiate, jit_compile=jit_compile or None)
        self._train = tf.function(functools.partial(self._run, self._train_replica))
        self._evaluate = tf.function(functools.partial(self._run, self._evaluate_replica))

    def train(self, batches: Iterator, count: int = 1) -> Sums:
        """Train on the next `count` batches; returns their sums.

        To call this takes as long as some steps of a small model do.
        """
        return self._train(batches, tf.constant(count))

    def evaluate(self, batches: Iterator, count: int = 1) -> Sums:
        """Compute the sums of the next `count` batches."""
        return self._evaluate(batches, tf.constant(count))

    def _part_random_streams(self) -> None:
        """Give each replica dropout of its own: Keras begins with equal seeds."""
        states = [
            variable
            for variable in self._model.non_trainable_variables
            if variable.path.endswith("/seed_generator_state")
        ]
        # The first replica's: a second phase, or a continuation, must come to the same seeds.
        seeds = [keras.ops.convert_to_numpy(state) for state in states]

        def assign() -> None:
            number = tf.distribute.get_replica_context().replica_id_in_sync_group
            for state, seed in zip(states, seeds, strict=True):
                state.assign(seed + tf.cast(tf.stack([number, 0]), seed.dtype))

        tf.function(self._strategy.run)(assign)

    def _run(self, step: Callable[..., Sums], batches: Iterator, count: tf.Tensor) -> Sums:
        sums = tf.zeros([3], tf.float64)
        for _ in tf.range(count):
            # Steps side by side would take the memory of several.
            tf.autograph.experimental.set_loop_options(parallel_iterations=1)
            # An iterator's signature leaves the batch size open, so that a last, smaller batch does
            # not have the step built anew.
            added = self._strategy.run(step, args=next(batches))
            sums += self._strategy.reduce(tf.distribute.ReduceOp.SUM, added, axis=None)
        return sums

    def _train_replica(
        self, images: tf.Tensor, labels: tf.Tensor, weights: tf.Tensor, total: tf.Tensor
    ) -> Sums:
        variables = self._model.trainable_variables
        scale = self._optimizer.scale_loss(tf.constant(1.0))
        count = tf.shape(images)[0]
        # Rounded up, so that no part is empty.
        part = -(-count // self._accumulation)

        def add(
            begin: tf.Tensor, gradients: list[tf.Tensor], sums: Sums
        ) -> tuple[tf.Tensor, list[tf.Tensor], Sums]:
            rows = slice(begin, begin + part)
            more, added = self._gradients(images[rows], labels[rows], weights[rows], scale / total)
            return begin + part, [a + b for a, b in zip(gradients, more, strict=True)], sums + added

        if self._accumulation == 1:
            gradients, sums = self._gradients(images, labels, weights, scale / total)
        else:
            zeros = [tf.zeros(variable.shape, variable.dtype) for variable in variables]
            _, gradients, sums = tf.while_loop(
                lambda begin, *_: begin < count,
                add,
                (tf.constant(0), zeros, tf.zeros([3], tf.float64)),
                parallel_iterations=1,  # parts side by side would take the memory of the whole
            )
        if self._clip:
            gradients = self._clipped(gradients, self._clip * scale)
        self._optimizer.apply(gradients, variables)
        if self._strategy.num_replicas_in_sync > 1:
            self._average_statistics()
        return sums

    def _average_statistics(self) -> None:
        """Batch normalization leaves each replica with statistics of its own share."""
        context = tf.distribute.get_replica_context()
        for variable in self._statistics:
            value = tf.identity(variable.value)
            variable.assign(context.all_reduce(tf.distribute.ReduceOp.MEAN, value))

    def _clipped(self, gradients: list[tf.Tensor], limit: tf.Tensor) -> list[tf.Tensor]:
        replicas = self._strategy.num_replicas_in_sync
        if replicas > 1:
            context = tf.distribute.get_replica_context()
            gradients = context.all_reduce(tf.distribute.ReduceOp.SUM, gradients)
        clipped, _ = tf.clip_by_global_norm(gradients, limit)
        # The optimizer adds them up once more.
        return [gradient / replicas for gradient in clipped]

    def _differentiate(
        self, images: tf.Tensor, labels: tf.Tensor, weights: tf.Tensor, scale: tf.Tensor
    ) -> tuple[list[tf.Tensor], Sums]:
        variables = self._model.trainable_variables
        with tf.GradientTape() as tape:
            losses, sums = self._losses(images, labels, weights, training=True)
            loss = tf.reduce_sum(losses)
            if self._model.losses:
                loss += tf.add_n(self._model.losses) * tf.cast(sums[2], tf.float32)
            loss *= scale
        # A variable that the loss does not depend on has no gradient otherwise.
        zero = tf.UnconnectedGradients.ZERO
        return tape.gradient(loss, variables, unconnected_gradients=zero), sums

    def _evaluate_replica(
        self, images: tf.Tensor, labels: tf.Tensor, weights: tf.Tensor, _: tf.Tensor
    ) -> Sums:
        return self._losses(images, labels, weights, training=False)[1]

    def _losses(
        self, images: tf.Tensor, labels: tf.Tensor, weights: tf.Tensor, *, training: bool
    ) -> tuple[tf.Tensor, Sums]:
        logits = tf.cast(self._model(images, training=training), tf.float32)
        if labels.dtype.is_integer:
            losses = tf.nn.sparse_softmax_cross_entropy_with_logits(labels, logits)
        else:
            losses = tf.nn.softmax_cross_entropy_with_logits(labels, logits)
            labels = tf.argmax(labels, axis=-1)
        losses *= weights
        counted = tf.cast(weights > 0, tf.float32)
        correct = tf.cast(tf.equal(tf.argmax(logits, axis=-1), labels), tf.float32) * counted
        sums = tf.stack([tf.reduce_sum(each) for each in (losses, correct, counted)])
        return losses, tf.cast(sums, tf.float64)
