"""How fast recipes train: against one constant batch, and against the scripts that they come from.

    python -m tests.benchmarks.steps [CASE ...]

For each phase of each recipe, at its published size of images and with a smaller batch,

- input: steps a second of the trainer with its real input, once the cache is warm, over those with
  one batch over and over; the epochs of one training are two of the one kind, then two of the
  other, and the second of each two counts, for which nothing was prepared in the meantime;
- script: the time of a step over that of a step of Keras's own `fit` in the plain script of the
  source, both with one batch over and over, in turns. There is none for vit_finetune, whose source
  is not in Keras: there, and for bit, whose source takes the network as it is, it is `fit` of our
  network.

Prints the medians of the ratios of neighbours, in wall-clock and in CPU time, and their range.
"""

from __future__ import annotations

import dataclasses
import itertools
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
# Of an epoch's batches: real ones, or one constant batch.
KINDS = ("real", "real", "constant", "constant", "constant", "constant", "real", "real")

Seconds = tuple[float, float]  # wall clock, CPU


@dataclasses.dataclass(frozen=True)
class Case:
    """A recipe as its source has it, and how much of it is measured."""

    recipe: str
    settings: dict[str, Any]
    image_size: int
    batch: int
    batches: int = 5  # of an epoch
    rounds: int = 6
    train_size: int | None = None
    phases: int = 1

    @property
    def epochs(self) -> int:
        """Of each phase; the first four build graphs and fill caches."""
        return 2 * (2 + 2 * self.rounds)


CASES = {
    "bit": Case("bit", {"patience": 0}, 128, 16, train_size=160),
    "fixres": Case("fixres", {"second_epochs": 28}, 392, 16, phases=2),
    # The tutorial's 2,000 images.
    "mobilenet_head": Case("mobilenet", {"weights": "none", "head_epochs": 1000}, 160, 32, 63, 50),
    "mobilenet": Case("mobilenet", {"weights": "none", "head_epochs": 0}, 160, 32),
    "vit": Case("vit", {}, 72, 64),
    "vit_finetune": Case("vit_finetune", {"variant": "Ti/16"}, 224, 16),
}


def now() -> Seconds:
    """Start the clocks."""
    return time.perf_counter(), time.process_time()


def since(start: Seconds) -> Seconds:
    """Return the times since the start."""
    wall, cpu = now()
    return wall - start[0], cpu - start[1]


def ratio(above: list[Seconds], below: list[Seconds]) -> str:
    """Of each to its neighbour: the median, and the smallest and largest, in words."""
    texts = []
    for clock, name in enumerate(("wall clock", "CPU")):
        found = sorted(one[clock] / two[clock] for one, two in zip(above, below, strict=True))
        texts.append(f"{name} {statistics.median(found):.3f} ({found[0]:.2f} to {found[-1]:.2f})")
    return ", ".join(texts)


def noise(size: int, count: int) -> Split:
    """Images of which nothing can be learned, kept as those of a data set are."""
    random = np.random.default_rng(0)
    labels = np.arange(count) % CLASSES
    images = random.integers(0, 256, (count, size, size, 3), np.uint8)
    return Split(tf.data.Dataset.from_tensor_slices((images, labels)).cache(), labels, CLASSES)


def measure_input(name: str, case: Case) -> None:
    """Print the ratios for one case, one a phase."""
    taken: dict[Steps, list[Seconds]] = {}
    constant: dict[Steps, Iterator[Iterator]] = {}
    train_epoch = fit._Training._train_epoch

    def timed(self: Any, steps: Steps, training: Iterator[Iterator], optimizer: Any) -> None:
        if steps not in constant:
            first = tf.data.Dataset.from_tensors(next(next(training))).repeat()
            constant[steps], taken[steps] = itertools.repeat(iter(first)), []
        real = KINDS[len(taken[steps]) % len(KINDS)] == "real"
        start = now()
        train_epoch(self, steps, training if real else constant[steps], optimizer)
        taken[steps].append(since(start))

    recipe = recipes.get(case.recipe)
    with mock.patch.object(fit._Training, "_train_epoch", timed):
        fit.fit(
            recipe,
            recipe.Config(**case.settings),
            train=noise(case.train_size or case.image_size, case.batches * case.batch),
            evaluation=noise(case.image_size, CLASSES),
            image_size=case.image_size,
            num_classes=CLASSES,
            batch_size=case.batch,
            epochs=case.phases * case.epochs,
            seed=0,
        )
    for phase, times in enumerate(taken.values(), start=1):
        by_kind: dict[str, list[Seconds]] = {"real": [], "constant": []}
        for epoch in range(5, len(times), 2):
            by_kind[KINDS[epoch % len(KINDS)]].append(times[epoch])
        # Steps a second are the inverse of the time.
        text = ratio(by_kind["constant"], by_kind["real"])
        print(f"{name} phase {phase}, input: {text}", flush=True)


def measure_script(name: str, case: Case) -> None:
    """Print the ratio for the phase that trains most of the network."""
    recipe = recipes.get(case.recipe)
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
    phase.optimizer.build(model.trainable_variables)
    steps = Steps(model, phase.optimizer, tf.distribute.get_strategy(), clip=phase.clip)
    batch = tf.data.Dataset.from_tensors(
        (pixels, labels, tf.ones(case.batch), tf.constant(float(case.batch)))
    )
    iterator = iter(batch.repeat())

    def ours() -> None:
        for _ in range(case.batches):
            sums = steps.train(iterator)
        sums.numpy()

    script = SCRIPTS[name](case.image_size)
    script.fit(constant, steps_per_epoch=1, verbose=0)
    their_iterator = iter(constant)

    def theirs() -> None:
        # What `fit` calls for each step: what it does before and after its epochs is left out.
        for _ in range(case.batches):
            logs = script.train_function(their_iterator)
        logs["loss"].numpy()

    taken: dict[Callable[[], None], list[Seconds]] = {ours: [], theirs: []}
    for _ in range(1 + case.rounds):
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
    """Make the recipe's own step."""
    recipe = recipes.get(name)
    model = recipe.build_model(recipe.Config(**CASES[name].settings), size, CLASSES)
    return compiled(model, optimizer)


def fixres_script(size: int) -> keras.Model:
    """Make the step of the Keras example: ResNet50V2 on pixels from -1 to 1, at 128 px."""
    del size
    inputs = keras.Input((128, 128, 3))
    x = layers.Rescaling(1 / 127.5, -1)(inputs)
    backbone = keras.applications.ResNet50V2(
        include_top=False, weights=None, input_shape=(128, 128, 3)
    )
    x = layers.GlobalAveragePooling2D()(backbone(x))
    return compiled(keras.Model(inputs, layers.Dense(CLASSES)(x)), keras.optimizers.Adam(1e-3))


def mobilenet_script(size: int) -> keras.Model:
    """Make the step of the tutorial's second phase."""
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
    """Make the article's step, without its augmentation."""
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
        if name in SCRIPTS:
            measure_script(name, CASES[name])
            keras.utils.clear_session()


if __name__ == "__main__":
    main()
