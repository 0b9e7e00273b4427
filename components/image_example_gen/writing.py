"""Decodes the inputs that are kept, once, and writes them as tf.Examples."""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import os
from collections.abc import Iterator, Mapping
from typing import NamedTuple

import tensorflow as tf

from components import features
from components.image_example_gen.counter import Counter
from components.image_example_gen.dataset import SpanUnit
from components.image_example_gen.files import Unusable
from components.image_example_gen.images import Picture, read_image
from components.image_example_gen.inputs import Problem
from components.image_example_gen.parallel import in_order
from components.image_example_gen.sources.base import Item


class Target(NamedTuple):
    """What an input is to become: position of its class, split, and the digest of its bytes."""

    label_id: int
    split: str
    sha256: str


class Facts(NamedTuple):
    """What is known of a written example. thumb: `images.THUMB` squared RGB pixels."""

    width: int
    height: int
    normalized: str
    thumb: bytes


@dataclasses.dataclass(frozen=True)
class Work:
    """A unit with the target of each of its inputs, None for those that are not to be written."""

    index: int
    total: int
    unit: SpanUnit
    targets: tuple[Target | None, ...]

    @property
    def shard(self) -> str:
        return f"data_tfrecord-{self.index:05d}-of-{self.total:05d}"


# The outcome of one input: its position in its unit, and what it became.
Outcome = tuple[int, Facts | Problem]


class _Task(NamedTuple):
    position: int
    item: Item
    target: Target
    span: int
    max_pixels: int


def write(work: Work, max_pixels: int, images: int, output: str | None) -> list[Outcome]:
    """Decode a unit's inputs and write them to `<output>/Split-<name>/<shard>`.

    Args:
      work: the unit, and what its inputs are to become.
      max_pixels: see `Options`.
      images: how many there are in all units, for the progress shown.
      output: folder of an Examples artifact; None decodes only.
    """
    writers: dict[str, tf.io.TFRecordWriter] = {}
    outcomes: list[Outcome] = []
    tasks = _tasks(work, max_pixels, outcomes)
    with contextlib.ExitStack() as stack, Counter("ingest", images, "images") as counter:
        for position, split, record, fate in in_order(_encode, tasks, lambda task: task.item.size):
            outcomes.append((position, fate))
            counter.add()
            if output is None or not record:
                continue
            if split not in writers:
                path = os.path.join(output, f"Split-{split}", work.shard)
                writers[split] = stack.enter_context(tf.io.TFRecordWriter(path))
            writers[split].write(record)
    return outcomes


def _tasks(work: Work, max_pixels: int, outcomes: list[Outcome]) -> Iterator[_Task]:
    items = work.unit.items()
    for position, target in enumerate(work.targets):
        item = next(items, None)
        if target is None:
            continue
        if item is None or item.problem:
            outcomes.append((position, Problem("changed", "was not there when it was to be read")))
        else:
            yield _Task(position, item, target, work.unit.span, max_pixels)


def _encode(task: _Task) -> tuple[int, str, bytes, Facts | Problem]:
    position, item, target, span, max_pixels = task
    try:
        data = item.load()
        if hashlib.sha256(data).hexdigest() != target.sha256:
            raise Unusable("changed", "while the data set was read")
        picture = read_image(data, max_pixels)
    except Unusable as error:
        return position, target.split, b"", Problem(error.kind, error.detail)
    record = to_example(picture, item, target, span).SerializeToString(deterministic=True)
    facts = Facts(picture.width, picture.height, picture.normalized, picture.thumb)
    return position, target.split, record, facts


def to_example(picture: Picture, item: Item, target: Target, span: int) -> tf.train.Example:
    """A tf.Example with the scalars named in `components.features`."""
    values: Mapping[str, bytes | str | int | float] = {
        features.IMAGE: picture.encoded,
        features.LABEL_TEXT: item.label,
        features.LABEL: target.label_id,
        features.HEIGHT: picture.height,
        features.WIDTH: picture.width,
        features.ASPECT: picture.width / picture.height,
        features.CHANNELS: picture.channels,
        features.MEAN: picture.mean,
        features.CONTRAST: picture.contrast,
        features.FORMAT: picture.format,
        features.BYTES: len(picture.encoded),
        features.NORMALIZED: picture.normalized,
        features.SPAN: span,
        features.SHA256: target.sha256,
        features.FILENAME: item.name,
    }
    return tf.train.Example(
        features=tf.train.Features(feature={k: _feature(v) for k, v in values.items()})
    )


def _feature(value: bytes | str | int | float) -> tf.train.Feature:
    if isinstance(value, int):
        return tf.train.Feature(int64_list=tf.train.Int64List(value=[value]))
    if isinstance(value, float):
        return tf.train.Feature(float_list=tf.train.FloatList(value=[value]))
    data = value.encode() if isinstance(value, str) else value
    return tf.train.Feature(bytes_list=tf.train.BytesList(value=[data]))


def move(output: str, moves: Mapping[str, tuple[str, str]]) -> None:
    """Move written examples to another split.

    Args:
      output: folder of an Examples artifact.
      moves: SHA-256 of an example to the split that it is in and the one that it goes to.
    """
    writers: dict[str, tf.io.TFRecordWriter] = {}
    for source in sorted({source for source, _ in moves.values()}):
        for path in tf.io.gfile.glob(
            os.path.join(output, f"Split-{source}", "data_tfrecord-*-of-*")
        ):
            partial = f"{path}.partial"
            with tf.io.TFRecordWriter(partial) as staying:
                for record in tf.data.TFRecordDataset(path).as_numpy_iterator():
                    example = tf.train.Example.FromString(record)
                    sha256 = example.features.feature[features.SHA256].bytes_list.value[0].decode()
                    if sha256 not in moves:
                        staying.write(record)
                        continue
                    split = moves[sha256][1]
                    if split not in writers:
                        moved = os.path.join(output, f"Split-{split}", "data_tfrecord-moved")
                        writers[split] = tf.io.TFRecordWriter(moved)
                    writers[split].write(record)
            tf.io.gfile.rename(partial, path, overwrite=True)
    for writer in writers.values():
        writer.close()
