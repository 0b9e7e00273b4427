"""MobileNetV2's first phase: features computed once, against the network run in every epoch.

python -m tests.benchmarks.mobilenet_features WEIGHTS FOLDER: WEIGHTS is an .h5 file of alpha 0.35,
FOLDER has one folder of images per class, which train repeatedly to come to the tutorial's 2,000
images. Both run in this process on the same images and with the same optimizer; the control is the
tutorial's loop, without its augmentation. Prints the time that the control takes, and the time in
which the recipe reaches the control's best validation accuracy, both with building the model.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from trainer_module import fit, recipes
from trainer_module.input_pipeline import Split
from trainer_module.recipes.mobilenet import BASE, Config
from trainer_module.transform import load_image

SIZE = 160
EPOCHS = 10
BATCH = 32
IMAGES = 2000


class ReachedError(Exception):
    """The accuracy that was waited for."""


def load(folder: Path) -> tuple[Split, Split]:
    """Four images in five to train with, the rest to validate with."""
    names = sorted(path.name for path in folder.iterdir())
    files = sorted(folder.glob("*/*"))
    images = [load_image(tf.constant(path.read_bytes()), SIZE, "bilinear") for path in files]
    labels = np.array([names.index(path.parent.name) for path in files])

    def split(chosen: np.ndarray) -> Split:
        pixels = np.stack([images[index] for index in chosen])
        dataset = tf.data.Dataset.from_tensor_slices((pixels, labels[chosen]))
        return Split(dataset, labels[chosen], len(names))

    held_out = np.arange(len(files)) % 5 == 0
    training = np.resize(np.flatnonzero(~held_out), IMAGES)
    return split(training), split(np.flatnonzero(held_out))


def timed(work: Callable[[], None]) -> tuple[float, float]:
    """CPU and wall seconds."""
    cpu, wall = time.process_time(), time.perf_counter()
    work()
    return time.process_time() - cpu, time.perf_counter() - wall


def control(train: Split, held_out: Split, config: Config, accuracies: list[float]) -> None:
    """The tutorial's loop: the frozen network over every image in every epoch."""
    model = recipes.get("mobilenet").build_model(config, SIZE, train.classes)
    model.get_layer(BASE).trainable = False
    model.compile(
        keras.optimizers.Adam(config.learning_rate),
        keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        metrics=["accuracy"],
    )
    history = model.fit(
        train.images.shuffle(train.size, seed=0).batch(BATCH).prefetch(2),
        validation_data=held_out.images.batch(BATCH).prefetch(2),
        epochs=EPOCHS,
        verbose=0,
    )
    accuracies += history.history["val_accuracy"]


def ours(train: Split, held_out: Split, config: Config, target: float) -> None:
    """The recipe's first phase, until it is as accurate as `target`."""
    best = 0.0

    def on_epoch(row: Any) -> None:
        nonlocal best
        best = max(best, row["val_accuracy"])
        if row["val_accuracy"] >= target:
            raise ReachedError

    try:
        fit.fit(
            recipes.get("mobilenet"),
            config,
            train=train,
            evaluation=held_out,
            image_size=SIZE,
            num_classes=train.classes,
            batch_size=BATCH,
            epochs=EPOCHS,
            seed=0,
            how=fit.How(on_epoch=on_epoch),
        )
    except ReachedError:
        return
    print(f"the control's accuracy was not reached in as many epochs, but {best:.4f}")


def main() -> None:
    """Measure and print."""
    weights, folder = sys.argv[1:]
    train, held_out = load(Path(folder))
    config = Config(
        alpha=0.35, weights=weights, learning_rate=1e-3, head_epochs=EPOCHS, flip=False, rotation=0
    )
    accuracies: list[float] = []
    keras.utils.set_random_seed(0)
    slow = timed(lambda: control(train, held_out, config, accuracies))
    keras.utils.set_random_seed(0)
    fast = timed(lambda: ours(train, held_out, config, max(accuracies)))
    print(
        f"control: validation accuracy {max(accuracies):.4f} within {EPOCHS} epochs, "
        f"{accuracies[-1]:.4f} after the last"
    )
    for name, index in (("CPU", 0), ("wall", 1)):
        print(f"{name}: control {slow[index]:.1f} s, ours {fast[index]:.1f} s", end=", ")
        print(f"ratio {fast[index] / slow[index]:.3f}")


if __name__ == "__main__":
    main()
