"""What a step takes of memory, measured, against what is told of it before a run.

    python -m tests.benchmarks.memory

For each of `CASES`, in a process of its own: a recipe's model with random weights, and two steps
of SGD with momentum, on a CPU. Measured is the largest size of the process less that before the
model was built. Prints bytes for an image of both, from steps of two sizes, of which one holds
twice the images, and their ratio; then that of the larger step with all that goes with it.
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
    ("vit", {"resize": 72, "depth": 4}, 32, 32),
    ("vit", {"resize": 144, "depth": 4}, 32, 8),
    ("mobilenet", {"alpha": 0.35, "weights": "none", "head_epochs": 1}, 160, 32),
    ("mobilenet", {"alpha": 0.35, "weights": "none", "head_epochs": 1}, 256, 32),
)


def peak() -> int:
    """Bytes that this process had at most."""
    return 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def step(name: str, settings: dict[str, Any], size: int, images: int) -> dict[str, int]:
    """Take two steps in this process; bytes more than before, and those estimated of an image."""
    import tensorflow as tf

    keras.ops.sum(keras.ops.ones((8, 8))).numpy()  # what TensorFlow itself takes
    before = peak()
    recipe = recipes.get(name)
    config = recipe.Config(**settings)
    model = recipe.build_model(config, size, 5)
    if select := getattr(recipe, "most_trained", None):
        select(config, model, 2)
    taken = recipes.training_size(recipe, config, size)
    estimate = footprint.measure(model, 4, taken)
    optimizer = keras.optimizers.SGD(1e-3, momentum=0.9)
    optimizer.build(model.trainable_variables)
    steps = Steps(model, optimizer, tf.distribute.get_strategy(), accumulation=1, clip=None)
    pixels = np.zeros((images, taken, taken, 3), np.uint8)
    batch = (pixels, np.zeros(images, np.int64), np.ones(images, np.float32), np.float32(images))
    steps.train(iter(tf.data.Dataset.from_tensors(batch).repeat()), 2)
    return {"measured": peak() - before, "image": estimate.image, "fixed": estimate.fixed}


def main() -> None:
    """Measure and print."""
    if len(sys.argv) > 1:
        print(json.dumps(step(*json.loads(sys.argv[1]))))
        return
    for name, settings, size, images in CASES:
        found = []
        for count in (images, 2 * images):
            case = json.dumps((name, settings, size, count))
            command = [sys.executable, "-m", "tests.benchmarks.memory", case]
            done = subprocess.run(command, stdout=subprocess.PIPE, check=True, text=True)
            found.append(json.loads(done.stdout.splitlines()[-1]))
        measured = (found[1]["measured"] - found[0]["measured"]) / images
        whole = found[1]["measured"] / (found[1]["fixed"] + 2 * images * found[1]["image"])
        print(
            f"{name} {settings} {size} px: {measured / 1e6:.1f} MB an image, estimated "
            f"{found[0]['image'] / 1e6:.1f}: {measured / found[0]['image']:.2f} times; "
            f"{2 * images} images with all else {found[1]['measured'] / 1e9:.2f} GB, "
            f"{whole:.2f} times",
            flush=True,
        )


if __name__ == "__main__":
    main()
