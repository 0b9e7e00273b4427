"""The small ViT and its training; the settings are in `trainer_module.recipes.vit`."""

from __future__ import annotations

from collections.abc import Generator

import keras

from trainer_module import augmentation
from trainer_module.models.vit import small_vit
from trainer_module.recipes.base import EpochMetrics, Phase, TrainingData
from trainer_module.recipes.vit import Config, check
from trainer_module.schedules import warmup_cosine


def build_model(config: Config, image_size: int, num_classes: int) -> keras.Model:
    """Make the model; its normalization is adapted in `phases`."""
    check(config, image_size, image_size)
    return small_vit(config, image_size, num_classes)


def phases(
    config: Config, model: keras.Model, data: TrainingData
) -> Generator[Phase, EpochMetrics, None]:
    """Adapt the normalization to the training images, then fit once; 10 epochs by default."""
    model.get_layer("normalization").adapt(data.images.batch(256))
    epochs = data.epochs or 10
    augment = augmentation.flip_turn_scale(
        flip=config.flip, rotation=config.rotation, zoom=config.zoom
    )
    if augment and config.resize:
        # A turn of more pixels loses less.
        augment = augmentation.resized(augment, config.resize)
    yield Phase(epochs, _optimizer(config, epochs, data.steps_per_epoch), augment)


def _optimizer(config: Config, epochs: int, steps_per_epoch: int) -> keras.optimizers.Optimizer:
    rate: float | keras.optimizers.schedules.LearningRateSchedule = config.learning_rate
    if config.schedule == "cosine":
        warmup = round(min(config.warmup_epochs, epochs) * steps_per_epoch)
        rate = warmup_cosine(config.learning_rate, epochs * steps_per_epoch, warmup)
    return keras.optimizers.AdamW(rate, weight_decay=config.weight_decay)
