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

from components import features

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
        """Write `Split-<name>/FeatureStats.pb` for every split."""
        self._log_startup(input_dict, output_dict, exec_properties)
        examples = artifact_utils.get_single_instance(
            input_dict[standard_component_specs.EXAMPLES_KEY]
        )
        statistics = artifact_utils.get_single_instance(
            output_dict[standard_component_specs.STATISTICS_KEY]
        )
        statistics.split_names = examples.split_names
        statistics.span = examples.span
        with self._make_beam_pipeline() as pipeline:
            for split in artifact_utils.decode_split_names(examples.split_names):
                pattern = os.path.join(artifact_utils.get_split_uri([examples], split), "*")
                target = os.path.join(
                    artifact_utils.get_split_uri([statistics], split),
                    statistics_gen.DEFAULT_FILE_NAME,
                )
                _ = (
                    pipeline
                    | f"Shards[{split}]"
                    >> beam.Create(sorted(tf.io.gfile.glob(pattern)), reshuffle=True)
                    | f"Read[{split}]" >> beam.FlatMap(read_columns, features.STATISTICS)
                    | f"Count[{split}]" >> tfdv.GenerateStatistics(options())
                    | f"Write[{split}]" >> tfdv.WriteStatisticsToBinaryFile(target)
                )


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
