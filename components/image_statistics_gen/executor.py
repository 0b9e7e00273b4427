"""Reads the derived features of each shard as columns, and has TFDV count them."""

from __future__ import annotations

import functools
import os
from collections.abc import Iterator, Sequence
from typing import Any

import apache_beam as beam
import numpy as np
import pyarrow as pa
import tensorflow as tf
import tensorflow_data_validation as tfdv
from tfx import types
from tfx.components.statistics_gen import executor as statistics_gen
from tfx.dsl.components.base import base_beam_executor
from tfx.types import artifact_utils, standard_component_specs

from components import features, reuse

COLUMNS = "columns"  # folder of the derived features by shard, for the runs to come
ROWS = 1000  # of a batch: some 100 kB of derived features
KINDS = {"bytes_list": tf.string, "int64_list": tf.int64, "float_list": tf.float32}


class Executor(base_beam_executor.BaseBeamExecutor):
    """Executor of ImageStatisticsGen."""

    def Do(
        self,
        input_dict: dict[str, list[types.Artifact]],
        output_dict: dict[str, list[types.Artifact]],
        exec_properties: dict[str, Any],
    ) -> None:
        """Write `Split-<name>/FeatureStats.pb` for every split, and the columns of each shard."""
        self._log_startup(input_dict, output_dict, exec_properties)
        examples = artifact_utils.get_single_instance(
            input_dict[standard_component_specs.EXAMPLES_KEY]
        )
        statistics = artifact_utils.get_single_instance(
            output_dict[standard_component_specs.STATISTICS_KEY]
        )
        statistics.split_names = examples.split_names
        statistics.span = examples.span
        splits = artifact_utils.decode_split_names(examples.split_names)
        files = reuse.files_of(examples.uri, splits)
        made_by = reuse.key(exec_properties.get("code", ""))
        made = {name: f"{COLUMNS}/{name}-{made_by}" for split in splits for name in files[split]}
        reuse.take_over_known(examples.uri, statistics, made)
        with self._make_beam_pipeline() as pipeline:
            for split in splits:
                shards = [
                    (os.path.join(examples.uri, name), os.path.join(statistics.uri, made[name]))
                    for name in files[split]
                ]
                target = os.path.join(
                    artifact_utils.get_split_uri([statistics], split),
                    statistics_gen.DEFAULT_FILE_NAME,
                )
                _ = (
                    pipeline
                    | f"Shards[{split}]" >> beam.Create(shards, reshuffle=True)
                    | f"Read[{split}]" >> beam.FlatMap(kept_columns)
                    | f"Count[{split}]" >> tfdv.GenerateStatistics(options())
                    | f"Write[{split}]" >> tfdv.WriteStatisticsToBinaryFile(target)
                )


def kept_columns(shard: tuple[str, str]) -> Iterator[pa.RecordBatch]:
    """The columns of a TFRecord file; from the Arrow file where they are kept, which is made else.

    Statistics are not sums: they are counted anew each time, from some hundred bytes an image.
    """
    source, kept = shard
    if tf.io.gfile.exists(kept):
        with tf.io.gfile.GFile(kept, "rb") as file, pa.ipc.open_stream(file.read()) as batches:
            yield from batches
        return
    found = list(read_columns(source, features.STATISTICS))
    if found:
        tf.io.gfile.makedirs(kept.rpartition("/")[0])
        sink = pa.BufferOutputStream()
        with pa.ipc.new_stream(sink, found[0].schema) as writer:
            for batch in found:
                writer.write_batch(batch)
        with tf.io.gfile.GFile(f"{kept}.partial", "wb") as file:
            file.write(sink.getvalue().to_pybytes())
        tf.io.gfile.rename(f"{kept}.partial", kept, overwrite=True)
    yield from found


def options() -> tfdv.StatsOptions:
    """TFDV's options, but with every class counted: the default keeps a thousand of them."""
    return tfdv.StatsOptions(num_rank_histogram_buckets=1_000_000)


def read_columns(shard: str, names: Sequence[str]) -> Iterator[pa.RecordBatch]:
    """The features called `names` of a TFRecord file, which each of its examples has one value of.

    Batches of at most `ROWS` rows, in the file's order, with a list column for each name, which is
    how TFDV wants them.
    """
    records = tf.data.TFRecordDataset(shard, buffer_size=2**20)
    for first in records.take(1).as_numpy_iterator():
        parse = functools.partial(tf.io.parse_single_example, features=_parsing(first, names))
        columns = records.map(parse).batch(ROWS)
        for batch in columns.as_numpy_iterator():
            yield pa.RecordBatch.from_arrays([_lists(batch[name]) for name in names], names)


def _parsing(record: bytes, names: Sequence[str]) -> dict[str, tf.io.FixedLenFeature]:
    """How to parse `names`, whose types are those of `record`."""
    values = tf.train.Example.FromString(record).features.feature
    return {
        name: tf.io.FixedLenFeature([], KINDS[values[name].WhichOneof("kind")]) for name in names
    }


def _lists(column: np.ndarray) -> pa.ListArray:
    return pa.ListArray.from_arrays(np.arange(len(column) + 1, dtype=np.int32), pa.array(column))
