"""The memory that a step takes, measured, against its estimate before a run.

    python -m tests.benchmarks.memory

For each of `CASES`, in a process of its own: a recipe's model with random weights, and steps of
SGD with momentum, first of so many images, then of twice as many, on a CPU. Measured is the largest
size of the process less that before the model was built. Prints both for each further image and for
the larger step as a whole. Fails where a step takes more than `footprint.MOST` times its estimate.
"""

from __future__ import annotations

import json
import resource
import subprocess
import sys
from typing import Any

import keras
import numpy as np

from trainer_module import footprint, recipes
from trainer_module.steps import Steps

# Recipe, hyperparameters, image_size, and the images of the smaller step.
CASES: tuple[tuple[str, dict[str, Any], int, int], ...] = (
    ("bit", {"variant": "tiny", "crop_size": 160}, 384, 16),
    ("bit", {"variant": "tiny", "crop_size": 224}, 384, 16),
    ("bit", {"variant": "R50x1", "crop_size": 448}, 480, 2),
    ("vit", {"resize": 72, "depth": 4}, 32, 32),
    ("vit", {"resize": 144, "depth": 4}, 32, 8),
    ("mobilenet", {"alpha": 0.35, "weights": "none", "head_epochs": 1}, 160, 32),
    ("mobilenet", {"alpha": 0.35, "weights": "none", "head_epochs": 1}, 256, 32),
)


def peak() -> int:
    """Bytes that this process had at most."""
    return 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def step(name: str, settings: dict[str, Any], size: int, images: int) -> dict[str, Any]:
    """Take steps of so many images, then of twice as many; bytes at most after each, and told."""
    import tensorflow as tf

    keras.ops.sum(keras.ops.ones((8, 8))).numpy()  # what TensorFlow itself takes
    before = peak()
    recipe = recipes.get(name)
    config = recipe.Config(**settings)
    model = recipe.build_model(config, size, 5)
    recipe.most_trained(config, model, 2)
    taken = recipe.training_size(config, size)
    estimate = footprint.measure(model, 4, taken)
    optimizer = keras.optimizers.SGD(1e-3, momentum=0.9)
    optimizer.build(model.trainable_variables)
    steps = Steps(model, optimizer, tf.distribute.get_strategy())
    measured = []
    for count in (images, 2 * images):
        pixels = np.zeros((count, taken, taken, 3), np.uint8)
        labels, weights = np.zeros(count, np.int64), np.ones(count, np.float32)
        batch = tf.data.Dataset.from_tensors((pixels, labels, weights, np.float32(count)))
        steps.train(iter(batch.repeat()), 2)
        measured.append(peak() - before)
    return {"measured": measured, "image": estimate.image, "told": estimate.of(2 * images)}


def main() -> None:
    """Measure and print."""
    if len(sys.argv) > 1:
        print(json.dumps(step(*json.loads(sys.argv[1]))))
        return
    worst = 0.0
    for name, settings, size, images in CASES:
        case = json.dumps((name, settings, size, images))
        command = [sys.executable, "-m", "tests.benchmarks.memory", case]
        done = subprocess.run(command, stdout=subprocess.PIPE, check=True, text=True)
        found = json.loads(done.stdout.splitlines()[-1])
        fewer, more = found["measured"]
        print(
            f"{name} {settings} {size} px: {(more - fewer) / images / 1e6:.1f} MB an image, told "
            f"{found['image'] / 1e6:.1f}; {2 * images} images {more / 1e9:.2f} GB, told "
            f"{found['told'] / 1e9:.2f}: {more / found['told']:.2f} times",
            flush=True,
        )
        worst = max(worst, more / found["told"])
    if worst > footprint.MOST:
        raise SystemExit(
            f"a step takes {worst:.2f} times its estimate, of {footprint.MOST} allowed"
        )


if __name__ == "__main__":
    main()
