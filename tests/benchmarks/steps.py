"""How fast recipes train: against one constant batch, and against the scripts that they come from.

    python -m tests.benchmarks.steps [RECIPE ...]

For each phase of each recipe, at its published size of images and with a smaller batch,

- input: steps a second of the trainer with its real input, once the cache is warm, over those with
  one batch over and over; epochs of one training are first of the one kind, then of the other;
- script: the time of a step over that of Keras's own `fit` in the plain script of the source, both
  with one batch over and over, in turns. There is none for vit_finetune, whose source is not in
  Keras: there, and for bit, whose source takes the network as it is, it is `fit` of our network.

Prints the ratios of medians, in wall-clock and in CPU time.
"""

from __future__ import annotations

import dataclasses
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from typing import Any
from unittest import mock

import keras
import numpy as np
import tensorflow as tf
from keras import layers, ops

from trainer_module import fit, recipes
from trainer_module.input_pipeline import Split
from trainer_module.recipes.base import TrainingData
from trainer_module.steps import Steps

CLASSES = 5
BATCHES = 10  # of an epoch
ROUNDS = 3

Seconds = tuple[float, float]  # wall clock, CPU


@dataclasses.dataclass(frozen=True)
class Case:
    """A recipe as its source has it; how many phases its training has."""

    settings: dict[str, Any]
    image_size: int
    batch: int
    phases: int = 1
    train_size: int | None = None


CASES = {
    "bit": Case({"patience": 0}, 128, 16, train_size=160),
    "fixres": Case({"second_epochs": 2 + 2 * ROUNDS}, 392, 16, phases=2),
    "mobilenet": Case({"weights": "none"}, 160, 32, phases=2),
    "vit": Case({}, 72, 64),
    "vit_finetune": Case({"variant": "Ti/16"}, 224, 16),
}


def now() -> Seconds:
    """The clocks."""
    return time.perf_counter(), time.process_time()


def since(start: Seconds) -> Seconds:
    """What has gone by."""
    wall, cpu = now()
    return wall - start[0], cpu - start[1]


def ratio(above: list[Seconds], below: list[Seconds]) -> str:
    """Of the medians, in words."""
    wall, cpu = (
        statistics.median(each[clock] for each in above)
        / statistics.median(each[clock] for each in below)
        for clock in (0, 1)
    )
    return f"wall clock {wall:.3f}, CPU {cpu:.3f}"


def noise(size: int, count: int) -> Split:
    """Images of which nothing can be learned, kept as those of a data set are."""
    random = np.random.default_rng(0)
    labels = np.arange(count) % CLASSES
    images = random.integers(0, 256, (count, size, size, 3), np.uint8)
    return Split(tf.data.Dataset.from_tensor_slices((images, labels)).cache(), labels, CLASSES)


def measure_input(name: str, case: Case) -> None:
    """Print the ratios for one recipe, one a phase."""
    epochs = 2 + 2 * ROUNDS  # the first of each kind build graphs and fill caches
    taken: dict[Steps, list[Seconds]] = {}
    constant: dict[Steps, Iterator] = {}
    train_epoch = fit._Training._train_epoch

    def timed(self: Any, steps: Steps, batches: Iterator, optimizer: Any) -> None:
        if steps not in constant:
            first = tf.data.Dataset.from_tensors(next(batches)).repeat()
            constant[steps], taken[steps] = iter(first), []
        done = len(taken[steps])
        real = done == 0 or 2 <= done < 2 + ROUNDS
        start = now()
        train_epoch(self, steps, batches if real else constant[steps], optimizer)
        taken[steps].append(since(start))

    recipe = recipes.get(name)
    with mock.patch.object(fit._Training, "_train_epoch", timed):
        fit.fit(
            recipe,
            recipe.Config(**case.settings),
            train=noise(case.train_size or case.image_size, BATCHES * case.batch),
            evaluation=noise(case.image_size, CLASSES),
            image_size=case.image_size,
            num_classes=CLASSES,
            batch_size=case.batch,
            epochs=case.phases * epochs,
            seed=0,
        )
    for phase, times in enumerate(taken.values(), start=1):
        measured = times[2:]
        # Steps a second are the inverse of the time.
        text = ratio(measured[ROUNDS:], measured[:ROUNDS])
        print(f"{name} phase {phase}, input: {text}", flush=True)


def measure_script(name: str, case: Case) -> None:
    """Print the ratio for the last phase of one recipe that trains most of the network."""
    recipe = recipes.get(name)
    config = recipe.Config(**case.settings)
    size = 128 if name == "fixres" else case.image_size
    pixels, labels = next(iter(noise(size, case.batch).images.batch(case.batch)))
    constant = tf.data.Dataset.from_tensors((pixels, labels)).repeat()

    if name == "fixres":
        case = dataclasses.replace(case, image_size=224)
    model = recipe.build_model(config, case.image_size, CLASSES)
    data = TrainingData(noise(case.image_size, 8).images.map(lambda x, _: x), 8, 8, case.phases * 2)
    phases = recipe.phases(config, model, data)
    phase = next(phases)
    if name == "mobilenet":
        phase = phases.send({"val_accuracy": 0.0, "val_loss": 1.0})
    phase.optimizer.build(model.trainable_variables)
    steps = Steps(model, phase.optimizer, tf.distribute.get_strategy(), clip=phase.clip)
    batch = tf.data.Dataset.from_tensors(
        (pixels, labels, tf.ones(case.batch), tf.constant(float(case.batch)))
    )
    iterator = iter(batch.repeat())

    def ours() -> None:
        for _ in range(BATCHES):
            sums = steps.train(iterator)
        sums.numpy()

    script = SCRIPTS[name](case.image_size)

    def theirs() -> None:
        script.fit(constant, steps_per_epoch=BATCHES, verbose=0)

    taken: dict[Callable[[], None], list[Seconds]] = {ours: [], theirs: []}
    for _ in range(1 + ROUNDS):
        for work, times in taken.items():
            start = now()
            work()
            times.append(since(start))
    print(f"{name}, script: {ratio(taken[ours][1:], taken[theirs][1:])}", flush=True)


def compiled(model: keras.Model, optimizer: keras.optimizers.Optimizer) -> keras.Model:
    """As all of the scripts do it."""
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(optimizer, loss, metrics=["accuracy"])
    return model


def our_network(name: str, optimizer: keras.optimizers.Optimizer, size: int) -> keras.Model:
    """The recipe's own."""
    recipe = recipes.get(name)
    model = recipe.build_model(recipe.Config(**CASES[name].settings), size, CLASSES)
    return compiled(model, optimizer)


def fixres_script(size: int) -> keras.Model:
    """The Keras example: ResNet50V2 on pixels from -1 to 1, at 128 px."""
    del size
    inputs = keras.Input((128, 128, 3))
    x = layers.Rescaling(1 / 127.5, -1)(inputs)
    backbone = keras.applications.ResNet50V2(
        include_top=False, weights=None, input_shape=(128, 128, 3)
    )
    x = layers.GlobalAveragePooling2D()(backbone(x))
    return compiled(keras.Model(inputs, layers.Dense(CLASSES)(x)), keras.optimizers.Adam(1e-3))


def mobilenet_script(size: int) -> keras.Model:
    """The tutorial's second phase."""
    base = keras.applications.MobileNetV2((size, size, 3), include_top=False, weights=None)
    base.trainable = True
    for layer in base.layers[:100]:
        layer.trainable = False
    inputs = keras.Input((size, size, 3))
    x = keras.applications.mobilenet_v2.preprocess_input(inputs)
    x = layers.GlobalAveragePooling2D()(base(x, training=False))
    model = keras.Model(inputs, layers.Dense(CLASSES)(layers.Dropout(0.2)(x)))
    return compiled(model, keras.optimizers.RMSprop(1e-5))


def vit_script(size: int) -> keras.Model:
    """The article's, without its augmentation."""
    patch, dim, heads, blocks = 6, 64, 4, 8
    inputs = keras.Input((size, size, 3))
    x = layers.Normalization(mean=127.0, variance=4000.0)(inputs)
    patches = ops.image.extract_patches(x, patch)
    count = (size // patch) ** 2
    x = layers.Dense(dim)(layers.Reshape((count, patch * patch * 3))(patches))
    x = x + layers.Embedding(count, dim)(ops.expand_dims(ops.arange(count), 0))
    for _ in range(blocks):
        y = layers.LayerNormalization(epsilon=1e-6)(x)
        x = layers.Add()([layers.MultiHeadAttention(heads, dim, dropout=0.1)(y, y), x])
        y = layers.LayerNormalization(epsilon=1e-6)(x)
        for units in (128, dim):
            y = layers.Dropout(0.1)(layers.Dense(units, activation="gelu")(y))
        x = layers.Add()([y, x])
    x = layers.Flatten()(layers.LayerNormalization(epsilon=1e-6)(x))
    x = layers.Dropout(0.5)(x)
    for units in (2048, 1024):
        x = layers.Dropout(0.5)(layers.Dense(units, activation="gelu")(x))
    model = keras.Model(inputs, layers.Dense(CLASSES)(x))
    return compiled(model, keras.optimizers.AdamW(1e-3, weight_decay=1e-4))


SCRIPTS: dict[str, Callable[[int], keras.Model]] = {
    "bit": lambda size: our_network("bit", keras.optimizers.SGD(1e-3, momentum=0.9), size),
    "fixres": fixres_script,
    "mobilenet": mobilenet_script,
    "vit": vit_script,
    "vit_finetune": lambda size: our_network(
        "vit_finetune", keras.optimizers.SGD(1e-3, momentum=0.9, global_clipnorm=1.0), size
    ),
}


def main() -> None:
    """Measure and print."""
    names = sys.argv[1:] or list(CASES)
    for name in names:
        measure_input(name, CASES[name])
        keras.utils.clear_session()
        measure_script(name, CASES[name])
        keras.utils.clear_session()


if __name__ == "__main__":
    main()
