"""MobileNetV2's first phase: features computed once, against the network run in every epoch.

python -m tests.benchmarks.mobilenet_features WEIGHTS FOLDER: WEIGHTS is an .h5 file of alpha 0.35,
FOLDER has one folder of images per class. In five parts, each of which is held out once, so that
all images validate; the others train repeatedly to come to the tutorial's 2,000. Both run in this
process on the same images and with the same optimizer; the control is the tutorial's loop, without
its augmentation. Its ten epochs are thirty here, as one takes next to no time once the features are
there. Prints the validation accuracy of both, in each part's best epoch, which the recipe keeps,
and its last one, which the tutorial does, and the time that they take, with building the model.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from pathlib import Path

import keras
import numpy as np
import tensorflow as tf

from trainer_module import fit, recipes
from trainer_module.input_pipeline import Split
from trainer_module.recipes.mobilenet import Config
from trainer_module.training.transfer import BASE
from trainer_module.transform import load_image

SIZE = 160
EPOCHS = 10  # the tutorial's
HEAD_EPOCHS = 30
BATCH = 32
IMAGES = 2000
PARTS = 5

Work = Callable[[Split, Split, Config], list[float]]  # the validation accuracy of each epoch


def load(folder: Path) -> tuple[list[np.ndarray], np.ndarray, int]:
    """Images, their labels and how many classes there are."""
    folders = sorted(path for path in folder.iterdir() if path.is_dir())
    files = [(path, label) for label, each in enumerate(folders) for path in sorted(each.iterdir())]
    images = [load_image(tf.constant(path.read_bytes()), SIZE, "bilinear") for path, _ in files]
    return images, np.array([label for _, label in files]), len(folders)


def control(train: Split, held_out: Split, config: Config) -> list[float]:
    """Run the tutorial's loop: the frozen network over every image in every epoch."""
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
    return list(history.history["val_accuracy"])


def ours(train: Split, held_out: Split, config: Config) -> list[float]:
    """Run the recipe's first phase."""
    trained = fit.fit(
        recipes.get("mobilenet"),
        config,
        train=train,
        evaluation=held_out,
        image_size=SIZE,
        num_classes=train.classes,
        batch_size=BATCH,
        epochs=HEAD_EPOCHS,
        seed=0,
    )
    return [row["val_accuracy"] for row in trained.epochs]


def main() -> None:
    """Measure and print."""
    weights, folder = sys.argv[1:]
    images, labels, classes = load(Path(folder))
    config = Config(
        alpha=0.35,
        weights=weights,
        learning_rate=1e-3,
        head_epochs=HEAD_EPOCHS,
        flip=False,
        rotation=0,
    )

    def split(chosen: np.ndarray) -> Split:
        pixels = np.stack([images[index] for index in chosen])
        dataset = tf.data.Dataset.from_tensor_slices((pixels, labels[chosen]))
        return Split(dataset, labels[chosen], classes)

    # Best and last accuracy, as numbers of images, and CPU and wall seconds.
    sums: dict[Work, np.ndarray] = {control: np.zeros(4), ours: np.zeros(4)}
    for part in range(PARTS):
        is_held_out = np.arange(len(images)) % PARTS == part
        train = split(np.resize(np.flatnonzero(~is_held_out), IMAGES))
        held_out = split(np.flatnonzero(is_held_out))
        for work in sums:
            keras.utils.set_random_seed(part)
            cpu, wall = time.process_time(), time.perf_counter()
            accuracies = work(train, held_out, config)
            taken = [time.process_time() - cpu, time.perf_counter() - wall]
            right = [max(accuracies) * held_out.size, accuracies[-1] * held_out.size]
            sums[work] += [*right, *taken]
            print(f"part {part}, {work.__name__}: best {max(accuracies):.2%}, ", end="")
            print(f"last {accuracies[-1]:.2%}, CPU {taken[0]:.1f} s, wall {taken[1]:.1f} s")
    for work, (best, last, *_) in sums.items():
        print(f"{work.__name__}, of all {len(images)}: best {best / len(images):.2%}, ", end="")
        print(f"last {last / len(images):.2%}")
    ratio = sums[ours] / sums[control]
    print(f"time, ours over the control's: CPU {ratio[2]:.3f}, wall {ratio[3]:.3f}")


if __name__ == "__main__":
    main()
