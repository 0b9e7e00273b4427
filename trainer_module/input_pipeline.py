"""Transform's output as batches of pixels."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Callable, Sequence

import numpy as np
import tensorflow as tf

from components.errors import BadDataError
from trainer_module import transform

# Maps (images uint8 [B, H, W, 3], labels int64 [B], seed int64 [2]) to images and labels of the
# same shapes and types. Equal seeds must give equal results.
Augment = Callable[[tf.Tensor, tf.Tensor, tf.Tensor], tuple[tf.Tensor, tf.Tensor]]


@dataclasses.dataclass(frozen=True)
class Split:
    """One split of the transformed examples.

    Attributes:
        images: elements (uint8 [size, size, 3], int64 label), in the order of the files.
        counts: int64 [classes], images of each class.
    """

    images: tf.data.Dataset
    counts: np.ndarray

    @property
    def size(self) -> int:
        """How many images there are."""
        return int(self.counts.sum())


def read(
    patterns: Sequence[str],
    image_size: int,
    classes: Sequence[str],
    split: str,
) -> Split:
    """Open and count the TFRecords, gzipped where their name ends in .gz, that match `patterns`.

    Decoded images stay in memory after the first pass where they take at most a quarter of it.

    Raises:
        BadDataError: there is no image, or one of a class that is not in `classes`. `split` is the
            name that the message gives to these files.
    """
    files = sorted(file for pattern in patterns for file in tf.io.gfile.glob(pattern))
    if not files:
        raise _empty(split)
    compression = "GZIP" if files[0].endswith(".gz") else None
    records = tf.data.TFRecordDataset(files, compression_type=compression)
    counts = _count(records, classes, split)

    def parse(record: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        example = tf.io.parse_single_example(
            record,
            {
                transform.IMAGE_KEY: tf.io.FixedLenFeature([], tf.string),
                transform.LABEL_KEY: tf.io.FixedLenFeature([], tf.int64),
            },
        )
        pixels = transform.decode_pixels(example[transform.IMAGE_KEY], image_size)
        return pixels, example[transform.LABEL_KEY]

    images = records.map(parse, num_parallel_calls=tf.data.AUTOTUNE, deterministic=True)
    if counts.sum() <= _capacity(image_size):
        images = images.cache()
    # Keras warns of every dataset whose length it does not know.
    return Split(images.apply(tf.data.experimental.assert_cardinality(counts.sum())), counts)


def check_trainable(split: Split, classes: Sequence[str]) -> None:
    """Raise BadDataError unless there are two classes or more and `split` has images of each."""
    if len(classes) < 2:
        raise BadDataError(
            f"a classifier needs at least two classes, the data has {len(classes)}: "
            f"{', '.join(classes)}; add a folder of images of another class"
        )
    missing = [name for name, count in zip(classes, split.counts, strict=True) if count == 0]
    if missing:
        raise BadDataError(
            f"the training split has no image of {len(missing)} of {len(classes)} classes: "
            f"{', '.join(missing[:5])}; add images of them, or take them out of the data"
        )


def training_batches(
    split: Split, batch_size: int, seed: int, augment: Augment | None
) -> tf.data.Dataset:
    """Endless batches, every image once an epoch, ordered and augmented by `seed`.

    The last batch of an epoch holds what is left. Data beyond a quarter of memory is shuffled
    within a window of that size.
    """
    image, _ = split.images.element_spec
    buffer = max(min(split.size, _capacity(image.shape[0])), 1)
    batches = split.images.shuffle(buffer, seed=seed).batch(batch_size).repeat()
    if augment:
        batches = batches.enumerate().map(
            lambda step, batch: augment(
                batch[0], batch[1], tf.stack([tf.cast(seed, tf.int64), step])
            ),
            num_parallel_calls=tf.data.AUTOTUNE,
            deterministic=True,
        )
    return batches.prefetch(tf.data.AUTOTUNE)


def evaluation_batches(split: Split, batch_size: int) -> tf.data.Dataset:
    """Every image once, unchanged and in order."""
    return split.images.batch(batch_size).prefetch(tf.data.AUTOTUNE)


def _capacity(image_size: int) -> int:
    """How many decoded images a quarter of the machine's memory holds."""
    memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    return memory // 4 // (image_size**2 * 3)


def _count(records: tf.data.Dataset, classes: Sequence[str], split: str) -> np.ndarray:
    def label(batch: tf.Tensor) -> tf.Tensor:
        return tf.io.parse_example(
            batch, {transform.LABEL_KEY: tf.io.FixedLenFeature([], tf.int64)}
        )[transform.LABEL_KEY]

    batches = list(records.batch(1024).map(label).as_numpy_iterator())
    if not batches:
        raise _empty(split)
    labels = np.concatenate(batches)
    unknown = int((labels < 0).sum() + (labels >= len(classes)).sum())
    if unknown:
        raise BadDataError(
            f"{unknown} images of the {split} split are of a class that the schema does not list; "
            "add it to the schema's classes, or take the images out of the data"
        )
    return np.bincount(labels, minlength=len(classes))


def _empty(split: str) -> BadDataError:
    return BadDataError(
        f"the {split} split has no images; add images, or give the split a larger share of the data"
    )
