"""TensorBoard's event files and sample images of a training."""

from __future__ import annotations

import io
import os

import numpy as np
import tensorflow as tf

from trainer_module.input_pipeline import Augment, Split, pixels_of
from trainer_module.recipes.base import EpochMetrics

LOGS = "logs"  # `tensorboard --logdir` shows it, after `pip install tensorboard`
SAMPLES_FILE = "samples.npz"
SAMPLES = 8  # images, each of another class
VARIANTS = 2  # augmented versions of each
SIDE = 160  # pixels

# tf.summary.scalar is TensorBoard's, which TensorFlow does not bring along.
_SCALAR = tf.compat.v1.SummaryMetadata(
    plugin_data=tf.compat.v1.SummaryMetadata.PluginData(plugin_name="scalars"), data_class=1
)


class EventFiles:
    """Scalars of each epoch for TensorBoard, in `folder`/logs/train and /eval."""

    def __init__(self, folder: str) -> None:
        self._writers = {
            prefix: tf.summary.create_file_writer(os.path.join(folder, LOGS, name))
            for prefix, name in (("", "train"), ("val_", "eval"))
        }

    def write(self, row: EpochMetrics) -> None:
        """Write one epoch's values, visible at once."""
        for prefix, writer in self._writers.items():
            with writer.as_default(step=int(row["epoch"])):
                for key, value in row.items():
                    if key != "epoch" and key.startswith("val_") == bool(prefix):
                        tag = f"epoch_{key.removeprefix(prefix)}"
                        tf.summary.write(tag, tf.constant(value, tf.float32), metadata=_SCALAR)
            writer.flush()


def samples(split: Split, augment: Augment | None, image_size: int, seed: int) -> bytes:
    """One training image of each of the first few classes, as it is and as `augment` changes it.

    Returns the content of an .npz file: images uint8 [N, 1 + VARIANTS, S, S, 3], labels int64 [N];
    [N, 1, S, S, 3] where nothing is augmented. S is image_size, or SIDE if that is less.
    """
    _, first = np.unique(split.labels, return_index=True)
    rows = set(np.sort(first)[:SAMPLES].tolist())
    chosen = [
        example for row, example in enumerate(split.images.take(max(rows) + 1)) if row in rows
    ]
    images = tf.nest.map_structure(lambda *each: tf.stack(each), *(image for image, _ in chosen))
    labels = tf.stack([label for _, label in chosen])
    versions = [pixels_of(images)]
    if augment:
        versions += [
            augment(images, labels, tf.constant([seed, step], tf.int64))[0]
            for step in range(VARIANTS)
        ]
    side = min(image_size, SIDE)
    shown = [
        tf.cast(tf.round(tf.image.resize(version, (side, side), "area")), tf.uint8)
        for version in versions
    ]
    buffer = io.BytesIO()
    np.savez(buffer, images=tf.stack(shown, axis=1).numpy(), labels=labels.numpy())
    return buffer.getvalue()
