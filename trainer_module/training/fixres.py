"""The two stages of FixRes; the settings are in `trainer_module.recipes.fixres`."""

from __future__ import annotations

import dataclasses
from collections.abc import Generator, Iterator
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from keras import layers

from components import progress
from trainer_module import augmentation
from trainer_module.input_pipeline import Augment, Framed
from trainer_module.models.views import SquareView, seen_through
from trainer_module.recipes.base import EpochMetrics, Frozen, Phase, TrainingData, epoch_rank
from trainer_module.recipes.fixres import (
    EPOCHS,
    RESNET,
    Config,
    base_of,
    check,
    epochs_of,
    first_size,
)


def build_model(config: Config, image_size: int, num_classes: int) -> keras.Model:
    """Make the first stage's model."""
    check(config, image_size, image_size)
    size = first_size(config)
    return seen_through(
        _net(config, size, num_classes), size, crop=False, antialias=config.antialias
    )


def check_model(config: Config, model: keras.Model, epochs: int | None) -> None:
    """Raise ValueError where there cannot be a second stage; see `phases`."""
    if config.vanilla:
        return
    epochs_of(config, epochs)
    high = _net(config, config.high, model.output_shape[-1])
    _require_same_shapes(config, _network(model), high)
    _freeze(high, config.batch_norm)


def phases(
    config: Config, model: keras.Model, data: TrainingData
) -> Generator[Phase, EpochMetrics, None]:
    """Yield the base's phases at the low resolution, then one at the higher; report the gain.

    Raises:
        ValueError: fewer than 2 epochs; a base whose weights depend on the size of images, or
            without a normalization.
    """
    if config.vanilla:
        yield from _first_stage(config, model, data)
        return
    epochs = epochs_of(config, data.epochs)
    num_classes = model.output_shape[-1]

    def rebuild() -> keras.Model:
        return seen_through(_net(config, config.high, num_classes), config.high, crop=True)

    # Made first, because it may turn out that there cannot be one.
    second_model = rebuild()
    low, high = _network(model), _network(second_model)
    _require_same_shapes(config, low, high)
    trained = _freeze(high, config.batch_norm)
    first = yield from _first_stage(config, model, dataclasses.replace(data, epochs=epochs[0]))

    for old, new in zip(low.variables, high.variables, strict=True):
        new.assign(old)
    size = data.image_size or data.images.element_spec.shape[0]
    if config.batch_norm == "reestimate":
        images = data.images.batch(data.batch_size).map(
            lambda images: augmentation.resize(images, size, antialias=config.antialias)
        )
        _reestimate(second_model, trained[0], images)
    optimizer = keras.optimizers.Adam(config.second_learning_rate)
    flip = augmentation.flip_turn_scale(flip=config.flip)
    augment = augmentation.resized(flip, size, antialias=config.antialias)
    second = yield Phase(epochs[1], optimizer, augment, model=second_model, rebuild=rebuild)
    gained = data.keep == "last" or epoch_rank(second) > epoch_rank(first)
    kept = config.high if gained else config.low
    gain = 100 * (second["val_accuracy"] - first["val_accuracy"])
    progress.report(
        "note",
        text=f"FixRes: accuracy {first['val_accuracy']:.2%} at {config.low} px, "
        f"{second['val_accuracy']:.2%} at {config.high} px: gain {gain:+.2f} points; the model of "
        f"{kept} px is kept",
    )


def _net(config: Config, size: int, num_classes: int) -> keras.Model:
    if base := base_of(config):
        recipe, settings = base
        return recipe.build_model(settings, size, num_classes)
    return _resnet50v2(size, num_classes)


def _resnet50v2(size: int, num_classes: int) -> keras.Model:
    images = keras.Input((size, size, 3), dtype="uint8", name="image")
    x = layers.Rescaling(1 / 127.5, -1, name="rescaling")(images)
    backbone = keras.applications.ResNet50V2(include_top=False, weights=None, input_tensor=x)
    x = layers.GlobalAveragePooling2D(name="pool")(backbone.output)
    logits = layers.Dense(num_classes, dtype="float32", name="head")(x)
    return keras.Model(images, logits, name=RESNET)


def _first_stage(
    config: Config, model: keras.Model, data: TrainingData
) -> Generator[Phase, EpochMetrics, EpochMetrics]:
    """Yield the base's own phases on random crops. Returns the best epoch of them all."""
    size = first_size(config)
    best: EpochMetrics = {}
    stage = _base_phases(config, model, data)
    phase = next(stage, None)
    while phase:
        augment = _random_crops(config, size, phase.augment)
        frozen = phase.frozen and _frozen(config, phase.frozen, size)
        row = yield dataclasses.replace(phase, augment=augment, frozen=frozen, model=model)
        if not best or epoch_rank(row) > epoch_rank(best):
            best = row
        try:
            phase = stage.send(row)
        except StopIteration:
            phase = None
    return best


def _frozen(config: Config, frozen: Frozen, size: int) -> Frozen:
    """Put the view of images as Transform writes them before the frozen part."""
    base = seen_through(frozen.base, size, crop=False, antialias=config.antialias)
    return dataclasses.replace(frozen, base=base)


def _base_phases(
    config: Config, model: keras.Model, data: TrainingData
) -> Generator[Phase, EpochMetrics, None]:
    if base := base_of(config):
        recipe, settings = base
        shrink = SquareView(first_size(config), crop=False, antialias=config.antialias)
        images = data.images.map(lambda image: shrink(image[None])[0])
        data = dataclasses.replace(data, images=images)
        yield from recipe.phases(settings, _network(model), data)
    else:
        optimizer = keras.optimizers.Adam(config.learning_rate)
        flip = augmentation.flip_turn_scale(flip=config.flip)
        yield Phase(data.epochs or EPOCHS, optimizer, flip)


def _random_crops(config: Config, size: int, then: Augment | None) -> Augment:
    def augment(
        images: tf.Tensor | Framed, labels: tf.Tensor, seed: tf.Tensor
    ) -> tuple[tf.Tensor, tf.Tensor]:
        crop_seed, next_seed = tf.unstack(tf.random.experimental.stateless_split(seed, 2))
        images = augmentation.random_resized_crop(
            images, crop_seed, size, min_area=config.min_area, antialias=config.antialias
        )
        return then(images, labels, next_seed) if then else (images, labels)

    return augment


def _network(model: keras.Model) -> keras.Model:
    """Return the network behind the view."""
    return model.layers[-1]


def _require_same_shapes(config: Config, low: keras.Model, high: keras.Model) -> None:
    other = [
        new.path
        for old, new in zip(low.variables, high.variables, strict=True)
        if old.shape != new.shape
    ]
    if other:
        raise ValueError(
            f"base {config.base} has weights that depend on the size of images, so it cannot "
            f"change it: {', '.join(other)}; choose another base"
        )


def _freeze(net: keras.Model, batch_norm: str) -> tuple[keras.Layer, list[keras.Layer]]:
    """Leave only the last normalization and the head behind it trainable, and return them."""
    kinds = (layers.BatchNormalization, layers.GroupNormalization, layers.LayerNormalization)
    leaves = list(_leaves(net))
    places = [place for place, layer in enumerate(leaves) if isinstance(layer, kinds)]
    if not places:
        raise ValueError(f"{net.name} has no normalization to adapt; choose another base")
    norm, head = leaves[places[-1]], leaves[places[-1] + 1 :]
    for layer in leaves:
        layer.trainable = layer in head
    norm.trainable = batch_norm == "train" or not isinstance(norm, layers.BatchNormalization)
    return norm, head


def _leaves(net: keras.Model) -> Iterator[keras.Layer]:
    """Yield the layers of a model and of the models in it, in the order of the calls."""
    for layer in net.layers:
        if hasattr(layer, "layers"):
            yield from _leaves(layer)
        else:
            yield layer


def _reestimate(model: keras.Model, norm: keras.Layer, batches: tf.data.Dataset) -> None:
    """Set the statistics of `norm` to those of its input over all images; others than BatchNorm
    have none.
    """
    if not isinstance(norm, layers.BatchNormalization):
        return

    @tf.function
    def sums(images: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
        seen: list[tf.Tensor] = []
        call = norm.call

        def listen(inputs: tf.Tensor, **options: Any) -> tf.Tensor:
            seen.append(tf.cast(tf.reshape(inputs, [-1, inputs.shape[-1]]), tf.float64))
            return call(inputs, **options)

        # Keras has no hooks, and the layer may be in a model in the model.
        norm.call = listen
        try:
            model(images, training=False)
        finally:
            norm.call = call
        (values,) = seen
        return tf.shape(values)[0], tf.reduce_sum(values, 0), tf.reduce_sum(values**2, 0)

    parts = [[np.asarray(part) for part in sums(images)] for images in batches]
    count, total, squares = (np.sum(part, axis=0) for part in zip(*parts, strict=True))
    mean = total / count
    norm.moving_mean.assign(mean)
    norm.moving_variance.assign(squares / count - mean**2)
