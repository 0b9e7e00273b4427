"""Transform's output as batches of pixels."""

from __future__ import annotations

import dataclasses
import functools
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import tensorflow as tf

from components import features
from components.errors import BadDataError
from components.storage import staging
from trainer_module import transform

# Maps (images uint8 [B, H, W, 3], labels int64 [B], seed int64 [2]) to images of the same type and
# shape, but for their height and width, and labels int64 [B] or shares of classes float32
# [B, classes]. Equal seeds must give equal results.
Augment = Callable[[tf.Tensor, tf.Tensor, tf.Tensor], tuple[tf.Tensor, tf.Tensor]]


class Framed(NamedTuple):
    """Images whose proportions are known: what an augmentation is given that cuts out of them.

    Attributes:
        pixels: uint8 [..., size, size, 3], squeezed.
        frame: int64 [..., 2], height and width before that, in pixels.
    """

    pixels: tf.Tensor
    frame: tf.Tensor


def pixels_of(images: tf.Tensor | Framed) -> tf.Tensor:
    """Return the images without their frames; takes a `tf.TensorSpec` of them too."""
    return images.pixels if isinstance(images, Framed) else images


# Where control groups, version 2 then 1, limit a container's memory.
MEMORY_LIMITS = ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes")


@dataclasses.dataclass(frozen=True)
class Split:
    """One split of the transformed examples.

    Attributes:
        images: elements (uint8 [size, size, 3], int64 label), in the order of the files; or with
            `Framed` in place of the pixels; or their features: (float32 [...], int64 label).
        labels: int64 [N], the same labels.
        classes: how many classes there are.
    """

    images: tf.data.Dataset
    labels: np.ndarray
    classes: int

    @property
    def size(self) -> int:
        """How many images there are."""
        return len(self.labels)

    @property
    def counts(self) -> np.ndarray:
        """Images of each class: int64 [classes]."""
        return np.bincount(self.labels, minlength=self.classes)


@dataclasses.dataclass(frozen=True)
class Replicas:
    """Which share of every batch this process feeds: `local` of `total` replicas from `first`."""

    total: int = 1
    first: int = 0
    local: int = 1


def read(
    patterns: Sequence[str],
    image_size: int,
    classes: Sequence[str],
    split: str,
    key: str = transform.IMAGE_KEY,
    cache_dir: str | None = None,
    *,
    framed: bool = False,
) -> Split:
    """Open and count the TFRecords, gzipped where their name ends in .gz, that match `patterns`.

    Decoded images are kept: in memory where they take at most a quarter of it, else in `cache_dir`,
    if there is one. `key` is the feature that holds the pixels; with `framed` they are `Framed`.

    Raises:
        BadDataError: there is no image, or one of a class that is not in `classes`. `split` is the
            name that the message gives to these files.
    """
    opened = records(patterns)
    labels = _labels(opened, classes, split)
    sides = (transform.HEIGHT_KEY, transform.WIDTH_KEY)

    def parse(record: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        numbers = (transform.LABEL_KEY, *(sides if framed else ()))
        example = tf.io.parse_single_example(
            record,
            {
                key: tf.io.FixedLenFeature([], tf.string),
                **dict.fromkeys(numbers, tf.io.FixedLenFeature([], tf.int64)),
            },
        )
        pixels = transform.decode_pixels(example[key], image_size)
        if framed:
            pixels = Framed(pixels, tf.stack([example[side] for side in sides]))
        return pixels, example[transform.LABEL_KEY]

    images = opened.map(parse, num_parallel_calls=tf.data.AUTOTUNE, deterministic=True)
    if len(labels) <= _capacity(pixels_of(images.element_spec[0])):
        images = images.cache()
    elif cache_dir:
        images = images.cache(os.path.join(cache_dir, split))
        # The file is whole only after one pass that nothing cuts short.
        for _ in images.batch(256):
            pass
    # Keras warns of every dataset whose length it does not know.
    known = images.apply(tf.data.experimental.assert_cardinality(len(labels)))
    return Split(known, labels, len(classes))


def digests(patterns: Sequence[str]) -> list[str]:
    """Read the SHA-256 of the original images, in the order of `read`."""
    spec = {features.SHA256: tf.io.FixedLenFeature([], tf.string)}
    found = records(patterns).batch(1024).map(lambda each: tf.io.parse_example(each, spec))
    batches = [each[features.SHA256] for each in found.as_numpy_iterator()]
    return [digest.decode() for batch in batches for digest in batch]


def records(patterns: Sequence[str]) -> tf.data.TFRecordDataset:
    """Those of the files that match, gzipped where their name ends in .gz, in a fixed order."""
    files = sorted(staging.here_all(patterns))
    compression = "GZIP" if files and files[0].endswith(".gz") else None
    return tf.data.TFRecordDataset(tf.constant(files, tf.string), compression_type=compression)


def memory_limit() -> int:
    """Bytes of memory that this process may use: the machine's, or less in a container."""
    files = [path for path in map(Path, MEMORY_LIMITS) if path.exists()]
    texts = [file.read_text("ascii").strip() for file in files]
    limits = [int(text) for text in texts if text.isdigit()]
    return min([os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"), *limits])


def _capacity(image: tf.TensorSpec) -> int:
    """How many images a quarter of the memory holds."""
    return memory_limit() // 4 // (image.shape.num_elements() * image.dtype.size)


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
    split: Split,
    batch_size: int,
    seed: int,
    augment: Augment | None,
    *,
    epochs: range,
    balance: str = "none",
    first_step: int = 0,
    replicas: Replicas = Replicas(),
) -> tf.data.Dataset:
    """Batches of `epochs`, whose order and changes follow `seed` and the number of the epoch.

    The first of the epochs begins with the batch `first_step`: any batch can be had without those
    before it. With one replica elements are (images, labels, weights float32 [B], images of the
    whole batch float32 []). With more, those of one batch for the local replicas follow each other.
    The last batch of an epoch holds what is left of it. Data beyond a quarter of memory is shuffled
    within a window of that size.

    `balance` is one of "none", which shows every image once; "class_weight", so too, but images of
    rare classes weigh more, so that the weights of all classes are equal and 1 on average; and
    "sampling", which shows as many images of each class, in all about as many as there are.
    """
    weights = class_weights(split)
    window = max(min(split.size, _capacity(pixels_of(split.images.element_spec[0]))), 1)

    def shuffled(epoch: tf.Tensor, seed: tf.Tensor) -> tf.data.Dataset:
        # With a seed of 0, TensorFlow would compare the other with 0 too, which fails for a tensor.
        tf.compat.v1.set_random_seed(1)
        images = split.images
        if balance == "sampling":
            counted = functools.partial(repetitions, split)
            counts = tf.numpy_function(counted, [seed, epoch], tf.int64)
            repeats = tf.data.Dataset.from_tensor_slices(tf.ensure_shape(counts, [split.size]))
            images = tf.data.Dataset.zip(images, repeats).flat_map(
                lambda image, count: tf.data.Dataset.from_tensors(image).repeat(count)
            )
        images = images.shuffle(window, seed=seed, reshuffle_each_iteration=False)
        return images.batch(batch_size).skip(first(epoch))

    def first(epoch: tf.Tensor) -> tf.Tensor:
        return tf.where(epoch == epochs.start, tf.constant(first_step, tf.int64), 0)

    def one_epoch(epoch: tf.Tensor, seeds: tf.Tensor) -> tf.data.Dataset:
        batches = shuffled(epoch, seeds[0])
        changes = tf.data.Dataset.from_tensors(seeds[1]).repeat()
        return tf.data.Dataset.zip(changes, batches.enumerate(first(epoch)))

    def changed(change: tf.Tensor, numbered: tuple[tf.Tensor, ...]) -> tuple[tf.Tensor, ...]:
        step, batch = numbered
        images, labels, kept, total = batch if replicas.total > 1 else whole(*batch)
        if balance == "class_weight":
            kept *= tf.gather(weights, labels)
        if augment:
            images, labels = augment(images, labels, tf.stack([change, step]))
        return pixels_of(images), labels, kept, total

    seeds = [epoch_seeds(seed, epoch) for epoch in epochs]
    # One data set for all epochs: it takes as long to make as a hundred steps of a small model.
    batches = tf.data.Dataset.from_tensor_slices(
        (np.array(epochs, np.int64), np.array(seeds, np.int64).reshape(-1, 2))
    ).flat_map(one_epoch)
    if replicas.total > 1:
        batches = batches.flat_map(
            lambda change, numbered: _shares(numbered[0], numbered[1], replicas).map(
                lambda step, share: (change, (step, share))
            )
        )
    return batches.map(changed, num_parallel_calls=tf.data.AUTOTUNE, deterministic=True).prefetch(
        tf.data.AUTOTUNE
    )


def evaluation_batches(
    split: Split, batch_size: int, replicas: Replicas = Replicas()
) -> tf.data.Dataset:
    """Every image once, unchanged and in order; elements as those of `training_batches`."""
    batches = split.images.batch(batch_size)
    if replicas.total == 1:
        return batches.map(whole).prefetch(tf.data.AUTOTUNE)
    return (
        batches.enumerate()
        .flat_map(lambda step, batch: _shares(step, batch, replicas).map(lambda _, share: share))
        .prefetch(tf.data.AUTOTUNE)
    )


def view_batches(
    split: Split, batch_size: int, seed: int, view: int, augment: Augment | None
) -> tf.data.Dataset:
    """Every image once, in order: as it is in view 0, else as augmented for the view."""
    batches = split.images.batch(batch_size)
    if not (view and augment):
        batches = batches.map(lambda images, labels: (pixels_of(images), labels))
    else:
        change = augment
        changes = tf.constant(np.random.SeedSequence([seed, view]).generate_state(1, np.uint32))
        batches = batches.enumerate().map(
            lambda step, batch: change(
                batch[0], batch[1], tf.stack([tf.cast(changes[0], tf.int64), step])
            ),
            num_parallel_calls=tf.data.AUTOTUNE,
            deterministic=True,
        )
    return batches.prefetch(tf.data.AUTOTUNE)


def epoch_size(split: Split, balance: str) -> int:
    """How many images `training_batches` shows in an epoch."""
    return split.classes * _per_class(split) if balance == "sampling" else split.size


def epoch_seeds(seed: int, epoch: int) -> np.ndarray:
    """Of a training's seed, those of an epoch's order and of its changes: int64 [2]."""
    return np.random.SeedSequence([seed, epoch]).generate_state(2).astype(np.int64)


def class_weights(split: Split) -> np.ndarray:
    """Compute the weight of an image by class for the balance "class_weight": float32 [classes]."""
    return (split.size / (split.classes * np.maximum(split.counts, 1))).astype(np.float32)


def whole(images: tf.Tensor, labels: tf.Tensor) -> tuple[tf.Tensor, ...]:
    """Make a batch the element of a single replica."""
    count = tf.shape(labels)[:1]
    return images, labels, tf.ones(count), tf.cast(count[0], tf.float32)


def share(element: tuple[tf.Tensor, ...], replica: tf.Tensor, total: int) -> tuple[tf.Tensor, ...]:
    """Of the element of a whole batch, that of one of `total` replicas."""
    images, labels, weights, count = element
    chosen = tf.range(tf.shape(labels)[0])[replica::total]
    # Batch normalization fails on no image: where there are too few, one comes with weight 0.
    idle = tf.size(chosen) == 0
    chosen = tf.cond(idle, lambda: tf.zeros([1], tf.int32), lambda: chosen)
    kept = tf.gather(weights, chosen) * tf.cast(~idle, tf.float32)
    images = tf.nest.map_structure(lambda each: tf.gather(each, chosen), images)
    return images, tf.gather(labels, chosen), kept, count


def _shares(
    step: tf.Tensor, batch: tuple[tf.Tensor, tf.Tensor], replicas: Replicas
) -> tf.data.Dataset:
    """Of a batch (images, labels), those of the local replicas, each with a number of its own."""
    element = whole(*batch)
    mine = tf.range(replicas.first, replicas.first + replicas.local, dtype=tf.int64)
    return tf.data.Dataset.from_tensor_slices(mine).map(
        lambda replica: (step * replicas.total + replica, share(element, replica, replicas.total))
    )


def repetitions(split: Split, seed: int, epoch: int) -> np.ndarray:
    """How often balanced sampling shows each image: as often as any other of its class, or once
    more, and all classes equally often; int64 [N].
    """
    wanted = _per_class(split)
    random = np.random.default_rng([int(seed), int(epoch)])
    repeats = np.zeros(split.size, np.int64)
    for label in range(split.classes):
        places = random.permutation(np.flatnonzero(split.labels == label))
        if places.size:
            repeats[places] = wanted // places.size
            repeats[places[: wanted % places.size]] += 1
    return repeats


def _per_class(split: Split) -> int:
    return round(split.size / split.classes) or 1


def _labels(records: tf.data.Dataset, classes: Sequence[str], split: str) -> np.ndarray:
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
    return labels


def _empty(split: str) -> BadDataError:
    return BadDataError(
        f"the {split} split has no images; add images, or give the split a larger share of the data"
    )
