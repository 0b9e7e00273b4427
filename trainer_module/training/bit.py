"""BiT's model and its training; the settings are in `trainer_module.recipes.bit`."""

from __future__ import annotations

from collections.abc import Generator

import keras

from components import progress
from trainer_module import augmentation
from trainer_module.input_pipeline import Augment
from trainer_module.models.bit_weights import pretrained_bit
from trainer_module.recipes.base import EpochMetrics, Phase, TrainingData
from trainer_module.recipes.bit import Config, Rule, hyper_rule
from trainer_module.schedules import WarmupStaircase


def build_model(config: Config, image_size: int, num_classes: int) -> keras.Model:
    """Make the model, with pretrained weights where they are configured, and a head of zeros."""
    # Crops of another size than that of evaluation need a model of any.
    size = None if config.crop_size else image_size
    return pretrained_bit(config.variant, config.weights, image_size=size, num_classes=num_classes)


def phases(
    config: Config, model: keras.Model, data: TrainingData
) -> Generator[Phase, EpochMetrics, None]:
    """Train once, for the rule's steps; with `data.epochs`, the rule is stretched to them."""
    total = data.epochs and data.epochs * data.steps_per_epoch
    rule = hyper_rule(config, data.size, data.batch_size, total)
    # At least: the rate stays at its lowest until the last epoch is full.
    epochs = data.epochs or -(-rule.steps[-1] // data.steps_per_epoch)
    size = config.crop_size or model.input_shape[1]
    progress.report("note", text=_told(config, rule, data, epochs, size))
    yield Phase(
        epochs,
        _optimizer(config, rule),
        _augment(config, rule, size, model.output_shape[-1]),
        patience=rule.patience,
        warmup=rule.steps[0],
    )


def _told(config: Config, rule: Rule, data: TrainingData, epochs: int, size: int) -> str:
    warmup, *drops, end = rule.steps
    source = data.images.element_spec.shape[0]
    return (
        f"BiT-HyperRule for {data.size} images, {data.batch_size} a step: {source} px"
        f"{f' cropped to {size}' if config.crop else ''}; learning rate {rule.learning_rate:g} "
        f"after {warmup} steps of warm-up, divided by 10 after {drops}, end after {end} "
        f"({epochs} epochs at most); mixup {rule.mixup:g}; "
        f"{'pretrained' if config.weights.source else 'from scratch, which the rule is not for'}"
    )


def _optimizer(config: Config, rule: Rule) -> keras.optimizers.Optimizer:
    return keras.optimizers.SGD(
        WarmupStaircase(rule.learning_rate, rule.steps), momentum=config.momentum
    )


def _augment(config: Config, rule: Rule, size: int, num_classes: int) -> Augment | None:
    changes: list[augmentation.Change] = []
    if config.crop:
        changes.append(lambda images, seed: augmentation.random_crop(images, seed, size))
    if config.flip:
        changes.append(augmentation.random_flip)
    return augmentation.in_turn(changes, alpha=rule.mixup, num_classes=num_classes)
