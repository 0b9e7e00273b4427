"""ViT and its fine-tuning; the settings are in `trainer_module.recipes.vit_finetune`."""

from __future__ import annotations

from collections.abc import Generator

import keras

from trainer_module import augmentation, rand_augment
from trainer_module.input_pipeline import Augment
from trainer_module.models.vision_transformer import VARIANTS, load_npz, vision_transformer
from trainer_module.recipes.base import EpochMetrics, Phase, TrainingData
from trainer_module.recipes.vit_finetune import STEPS, Config
from trainer_module.schedules import warmup_cosine


def build_model(config: Config, image_size: int, num_classes: int) -> keras.Model:
    """Make the model, with pretrained weights where they are configured, and a head of zeros."""
    model = vision_transformer(
        VARIANTS[config.variant],
        image_size=image_size,
        num_classes=num_classes,
        dropout=config.dropout,
        stochastic_depth=config.stochastic_depth,
    )
    if config.weights.source:
        load_npz(model, config.weights.fetch())
    return model


def phases(
    config: Config, model: keras.Model, data: TrainingData
) -> Generator[Phase, EpochMetrics, None]:
    """Train the whole network once."""
    epochs = data.epochs or -(-STEPS // data.steps_per_epoch)
    steps = epochs * data.steps_per_epoch
    rate = warmup_cosine(config.learning_rate, steps, min(config.warmup_steps, steps // 5))
    optimizer = keras.optimizers.SGD(rate, momentum=config.momentum)
    augment = _augment(config, model.input_shape[1], model.output_shape[-1])
    yield Phase(epochs, optimizer, augment, clip=config.clip)


def _augment(config: Config, size: int, num_classes: int) -> Augment | None:
    changes: list[augmentation.Change] = []
    if config.crop:
        changes.append(
            lambda images, seed: augmentation.random_resized_crop(
                images, seed, size, min_area=config.min_area, antialias=False
            )
        )
    if config.flip:
        changes.append(augmentation.random_flip)
    if config.rand_operations:
        changes.append(
            lambda images, seed: rand_augment.rand_augment(
                images, seed, operations=config.rand_operations, magnitude=config.rand_magnitude
            )
        )
    return augmentation.in_turn(changes, alpha=config.mixup, num_classes=num_classes)
