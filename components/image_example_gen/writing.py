"""Decoding of the kept inputs, and writing of tf.Examples."""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import os
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import NamedTuple

import tensorflow as tf

from components import features, progress, reuse, storage
from components.attempts import Attempt
from components.image_example_gen.dataset import SpanUnit
from components.image_example_gen.files import Unusable
from components.image_example_gen.images import Decoded, Picture, decode_images, picture
from components.image_example_gen.inputs import Problem
from components.image_example_gen.sources.base import Item
from components.parallel import batched, quick_in_order
from components.storage import staging


class Target(NamedTuple):
    """The intended outcome of an input: position of its class, split, and SHA-256 of its bytes."""

    label_id: int
    split: str
    sha256: str


class Facts(NamedTuple):
    """Properties of a written example. thumb: `images.THUMB` squared RGB pixels."""

    width: int
    height: int
    normalized: str
    thumb: bytes


@dataclasses.dataclass(frozen=True)
class Work:
    """A unit with the target of each input, None for inputs that are not written.

    `keys` is a digest, by split, of everything that the outcome of its inputs depends on.
    """

    index: int
    keys: Mapping[str, str]
    unit: SpanUnit
    targets: tuple[Target | None, ...]

    def shard(self, split: str) -> str:
        """Return the path in the artifact of the file for a split."""
        return f"Split-{split}/{reuse.SHARD}{self.unit.span:05d}-{self.keys[split]}"

    @property
    def images(self) -> int:
        """The number of inputs to write."""
        return sum(target is not None for target in self.targets)


# The outcome of one input: position in its unit, and properties or problem.
Outcome = tuple[int, Facts | Problem]


def shards(work: Work, outcomes: Sequence[Outcome]) -> dict[str, int]:
    """Count the images in each file that `write` writes for a unit, by path in the artifact."""
    written = Counter(
        target.split
        for position, fate in outcomes
        if isinstance(fate, Facts) and (target := work.targets[position])
    )
    return {work.shard(split): count for split, count in written.items()}


class _Task(NamedTuple):
    position: int
    item: Item
    target: Target


class _Loaded(NamedTuple):
    task: _Task
    data: bytes
    problem: Unusable | None = None


def write(work: Work, max_pixels: int, images: int, attempt: Attempt | None) -> list[Outcome]:
    """Decode a unit's inputs and write them as `Split-<name>/<shard>`.

    Args:
      work: the unit and its targets.
      max_pixels: see `Options`.
      images: number of images in all units, for the progress shown.
      attempt: to write the unit to an Examples artifact; None: decode only.
    """
    writers: dict[str, tf.io.TFRecordWriter] = {}
    outcomes: list[Outcome] = []

    def decode(some: list[_Loaded]) -> list[tuple[_Loaded, Decoded]]:
        decoded = decode_images([each.data for each in some], max_pixels)
        return list(zip(some, decoded, strict=True))

    # Only the decoding is left to threads: Python's lock would pass between them for each file.
    loaded = quick_in_order(_load, _tasks(work, outcomes), lambda task: task.item.size)
    counted = progress.Counter("ingest", images, "images", attempt.advance if attempt else None)
    with contextlib.ExitStack() as stack, counted as counter:
        for (task, data, problem), decoded in batched(decode, loaded, lambda each: len(each.data)):
            found = problem or picture(data, max_pixels, decoded)
            counter.add()
            if isinstance(found, Unusable):
                outcomes.append((task.position, Problem(found.kind, found.detail)))
                continue
            facts = Facts(found.width, found.height, found.normalized, found.thumb)
            outcomes.append((task.position, facts))
            if attempt is None:
                continue
            split = task.target.split
            if split not in writers:
                writer = tf.io.TFRecordWriter(attempt.path(work.shard(split)))
                writers[split] = stack.enter_context(writer)
            example = to_example(found, task.item, task.target, work.unit.span)
            writers[split].write(example.SerializeToString(deterministic=True))
    return outcomes


def _tasks(work: Work, outcomes: list[Outcome]) -> Iterator[_Task]:
    items = work.unit.items()
    for position, target in enumerate(work.targets):
        item = next(items, None)
        if target is None:
            continue
        if item is None or item.problem:
            outcomes.append((position, Problem("changed", "was not there when it was to be read")))
        else:
            yield _Task(position, item, target)


def _load(task: _Task) -> _Loaded:
    try:
        data = task.item.load()
    except Unusable as error:
        return _Loaded(task, b"", error)
    if hashlib.sha256(data).hexdigest() != task.target.sha256:
        return _Loaded(task, b"", Unusable("changed", "while the data set was read"))
    return _Loaded(task, data)


def to_example(picture: Picture, item: Item, target: Target, span: int) -> tf.train.Example:
    """Make a tf.Example with the scalars named in `components.features`."""
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
    example = tf.train.Example()
    made = example.features.feature
    for name, value in values.items():
        # In place, as a message that is made of others copies them, including the image.
        if isinstance(value, int):
            made[name].int64_list.value.append(value)
        elif isinstance(value, float):
            made[name].float_list.value.append(value)
        else:
            data = value.encode() if isinstance(value, str) else value
            made[name].bytes_list.value.append(data)
    return example


def move(
    output: str, files: Iterable[str], moves: Mapping[str, tuple[str, str]]
) -> dict[str, int | None]:
    """Move written examples to another split. Files that they leave or enter get new names.

    Args:
      output: folder of an Examples artifact.
      files: all files with examples, as paths in it.
      moves: SHA-256 of an example to its old and new split, "" to remove it.

    Returns the number of images in each new file, by path in the artifact; None for removed files.
    """
    moving = _Moving(output, moves)
    by_split = {f"Split-{split}": split for split, _ in moves.values()}
    for file in sorted(files):
        folder, _, name = file.rpartition("/")
        if folder in by_split:
            moving.split_off(by_split[folder], name)
    moving.close()
    return moving.changed


class _Moving:
    def __init__(self, output: str, moves: Mapping[str, tuple[str, str]]) -> None:
        self._output = output
        self._moves = moves
        self._writers: dict[str, tf.io.TFRecordWriter] = {}
        self._moved: dict[str, list[str]] = {}
        self.changed: dict[str, int | None] = {}

    def split_off(self, split: str, name: str) -> None:
        """Copy a file without moved examples, which are added to the files of their new splits."""
        path = os.path.join(self._output, f"Split-{split}", name)
        staying, leaving = 0, []
        with tf.io.TFRecordWriter(f"{path}.partial") as writer:
            for record in tf.compat.v1.io.tf_record_iterator(staging.here(path)):
                example = tf.train.Example.FromString(record)
                sha256 = example.features.feature[features.SHA256].bytes_list.value[0].decode()
                if sha256 in self._moves:
                    leaving.append(sha256)
                    self._add(self._moves[sha256][1], f"{split}/{name} {sha256}", record)
                else:
                    writer.write(record)
                    staying += 1
        if not leaving:
            storage.remove(f"{path}.partial")
            return
        rest = f"{name}-{reuse.key(leaving)}"
        storage.move(f"{path}.partial", os.path.join(self._output, f"Split-{split}", rest))
        staging.remove(path)
        self.changed |= {f"Split-{split}/{name}": None, f"Split-{split}/{rest}": staying}

    def close(self) -> None:
        """Close the files of moved examples, and give them their names."""
        for split, writer in self._writers.items():
            writer.close()
            path = self._partial(split)
            name = f"{reuse.SHARD}moved-{reuse.key(self._moved[split])}"
            storage.move(path, os.path.join(self._output, f"Split-{split}", name))
            self.changed[f"Split-{split}/{name}"] = len(self._moved[split])

    def _add(self, split: str, origin: str, record: bytes) -> None:
        if not split:
            return
        if split not in self._writers:
            self._writers[split] = tf.io.TFRecordWriter(self._partial(split))
        self._writers[split].write(record)
        self._moved.setdefault(split, []).append(origin)

    def _partial(self, split: str) -> str:
        return os.path.join(self._output, f"Split-{split}", f"{reuse.SHARD}moved.partial")
