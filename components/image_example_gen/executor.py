"""Reads, verifies and splits the images, and writes each once, as it is, into a TFRecord."""

from __future__ import annotations

import dataclasses
import hashlib
import io
import json
import math
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import apache_beam as beam
import tensorflow as tf
from PIL import Image, UnidentifiedImageError
from tfx import types
from tfx.dsl.components.base import base_beam_executor
from tfx.types import artifact_utils, standard_component_specs

from components import features
from components.errors import BadDataError
from components.image_example_gen import folder
from components.image_example_gen.accounting import Accounting, read_accounting, write_accounting
from components.progress import report

SPLITS_KEY = "splits"

# A chunk becomes one shard per split, of about the size that TensorFlow's data guide recommends.
CHUNK_BYTES = 128 * 2**20
MIN_CHUNKS = 2  # keeps a second worker busy on small sets
PROGRESS_EVERY = 200  # images


@dataclasses.dataclass(frozen=True)
class Chunk:
    """A run of files that one worker writes, each with the label id of its class."""

    index: int
    total: int
    files: tuple[tuple[folder.SourceFile, int], ...]


def split_of(sha256: str, buckets: Mapping[str, int]) -> str:
    """The split that content belongs to, whatever its name and whatever else is in the data set.

    Args:
      sha256: hex digest of the file's bytes.
      buckets: split name to its share, a positive number of hash buckets.
    """
    position = int(sha256, 16) % sum(buckets.values())
    for name, share in buckets.items():
        if position < share:
            return name
        position -= share
    raise ValueError(f"no buckets: {dict(buckets)}")


def to_example(data: bytes, file: folder.SourceFile, label_id: int) -> tf.train.Example:
    """A tf.Example with the scalars named in `components.features`.

    The image is decoded completely, so that a truncated file is found here and not in training.
    Raises BadDataError naming the file.
    """
    try:
        with Image.open(io.BytesIO(data)) as image:
            image.load()
            image_format = (image.format or "").lower()
            width, height = image.size
            channels = len(image.getbands())
            if image.mode == "P":
                channels = 4 if "transparency" in image.info else 3
    except (UnidentifiedImageError, OSError, SyntaxError, ValueError) as error:
        raise BadDataError(
            f"{file.name}: not a readable image ({error}); replace or remove the file"
        ) from error
    if f".{image_format}" not in folder.EXTENSIONS:
        raise BadDataError(
            f"{file.name}: the content is {image_format}, which is not supported; convert the "
            "file to JPEG or PNG"
        )
    values: dict[str, bytes | str | int] = {
        features.IMAGE: data,
        features.LABEL_TEXT: file.label,
        features.LABEL: label_id,
        features.HEIGHT: height,
        features.WIDTH: width,
        features.CHANNELS: channels,
        features.FORMAT: image_format,
        features.BYTES: len(data),
        features.SHA256: hashlib.sha256(data).hexdigest(),
        features.FILENAME: file.name,
    }
    return tf.train.Example(
        features=tf.train.Features(feature={k: _feature(v) for k, v in values.items()})
    )


def _feature(value: bytes | str | int) -> tf.train.Feature:
    if isinstance(value, int):
        return tf.train.Feature(int64_list=tf.train.Int64List(value=[value]))
    data = value.encode() if isinstance(value, str) else value
    return tf.train.Feature(bytes_list=tf.train.BytesList(value=[data]))


class _WriteChunk(beam.DoFn):
    """Writes a chunk's examples straight to their shards: image bytes cross no Beam stage."""

    def __init__(self, root: str, output: str, buckets: dict[str, int], images: int) -> None:
        self._root = Path(root)
        self._output = output
        self._buckets = buckets
        self._images = images

    def process(self, chunk: Chunk) -> Iterator[tuple[str, str]]:
        """Yields (split, class name) for each example written."""
        writers: dict[str, tf.io.TFRecordWriter] = {}
        unreported = 0
        try:
            for file, label_id in chunk.files:
                example = to_example(folder.read(self._root, file), file, label_id)
                digest = example.features.feature[features.SHA256].bytes_list.value[0].decode()
                split = split_of(digest, self._buckets)
                if split not in writers:
                    writers[split] = tf.io.TFRecordWriter(self._shard(split, chunk))
                writers[split].write(example.SerializeToString(deterministic=True))
                unreported += 1
                if unreported == PROGRESS_EVERY:
                    self._report(unreported)
                    unreported = 0
                yield split, file.label
        finally:
            for writer in writers.values():
                writer.close()
        self._report(unreported)

    def _report(self, images: int) -> None:
        report("step", what="ingest", advance=images, total=self._images, unit="images")

    def _shard(self, split: str, chunk: Chunk) -> str:
        name = f"data_tfrecord-{chunk.index:05d}-of-{chunk.total:05d}"
        return os.path.join(self._output, f"Split-{split}", name)


class Executor(base_beam_executor.BaseBeamExecutor):
    """Executor of ImageExampleGen."""

    def Do(
        self,
        input_dict: dict[str, list[types.Artifact]],
        output_dict: dict[str, list[types.Artifact]],
        exec_properties: dict[str, Any],
    ) -> None:
        """Write `Split-<name>/data_tfrecord-*` and `accounting.json`.

        Raises BadDataError where the data cannot be trained on.
        """
        self._log_startup(input_dict, output_dict, exec_properties)
        root = exec_properties[standard_component_specs.INPUT_BASE_KEY]
        buckets: dict[str, int] = json.loads(exec_properties[SPLITS_KEY])
        examples = artifact_utils.get_single_instance(
            output_dict[standard_component_specs.EXAMPLES_KEY]
        )
        examples.split_names = artifact_utils.encode_split_names(list(buckets))
        for split in buckets:
            tf.io.gfile.makedirs(artifact_utils.get_split_uri([examples], split))

        files = folder.list_images(Path(root))
        with self._make_beam_pipeline() as pipeline:
            _ = (
                pipeline
                | "Chunks" >> beam.Create(chunks(Path(root), files), reshuffle=True)
                | "Write" >> beam.ParDo(_WriteChunk(root, examples.uri, buckets, len(files)))
                | "Count" >> beam.combiners.Count.PerElement()
                | "Collect" >> beam.combiners.ToList()
                | "Account" >> beam.Map(_account, examples.uri, folder.class_names(files))
            )
        read_accounting(examples.uri).check_splits(list(buckets), root)


def chunks(root: Path, files: list[folder.SourceFile]) -> list[Chunk]:
    """Cut the sorted files into runs of about CHUNK_BYTES, at least MIN_CHUNKS of them."""
    ids = {name: index for index, name in enumerate(folder.class_names(files))}
    total_bytes = sum((root / file.name).stat().st_size for file in files)
    count = min(len(files), max(MIN_CHUNKS, math.ceil(total_bytes / CHUNK_BYTES)))
    labelled = [(file, ids[file.label]) for file in files]
    return [
        Chunk(index=index, total=count, files=tuple(labelled[index::count]))
        for index in range(count)
    ]


def _account(
    counts: list[tuple[tuple[str, str], int]], examples_uri: str, classes: list[str]
) -> None:
    splits: dict[str, dict[str, int]] = {}
    for (split, label), number in sorted(counts):
        splits.setdefault(split, {})[label] = number
    write_accounting(Accounting(classes=classes, splits=splits), examples_uri)
