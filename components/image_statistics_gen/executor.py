"""TFDV's statistics of the derived features, which are read as columns, shard by shard."""

from __future__ import annotations

import itertools
import os
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import tensorflow as tf
import tensorflow_data_validation as tfdv
from tensorflow_data_validation.statistics import stats_impl
from tensorflow_metadata.proto.v0 import statistics_pb2
from tfx import types
from tfx.components.statistics_gen import executor as statistics_gen
from tfx.dsl.components.base import base_beam_executor
from tfx.types import artifact_utils, standard_component_specs

from components import features, reuse, storage
from components.attempts import Attempt
from components.jobs import Job, Worker
from components.progress import Counter
from components.storage import staging

COLUMNS = "columns"  # folder of the derived features by shard, for the runs to come
ROWS = 1000  # of a batch: some 100 kB of derived features
KINDS = {"bytes_list": pa.binary(), "int64_list": pa.int64(), "float_list": pa.float32()}


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
        todo = reuse.take_over_known(examples.uri, statistics, made)
        work = [(os.path.join(examples.uri, name), target) for name, target in todo.items()]
        images = statistics.get_int_custom_property(reuse.DONE)
        job = Job("statistics", "images")
        for _ in job.map(
            self._make_beam_pipeline(), _Columns(images), work, statistics.uri, images
        ):
            pass
        for split in splits:
            kept = [os.path.join(statistics.uri, made[name]) for name in sorted(files[split])]
            folder = artifact_utils.get_split_uri([statistics], split)
            counted = count(itertools.chain.from_iterable(map(load_columns, kept)))
            storage.write_bytes(
                storage.join(folder, statistics_gen.DEFAULT_FILE_NAME),
                counted.SerializeToString(deterministic=True),
                durable=False,
            )


class _Columns(Worker[tuple[str, str]]):
    """Reader of a shard's derived features, which are kept as an Arrow file."""

    def __init__(self, images: int) -> None:
        self._images = images

    def work(self, task: tuple[str, str], attempt: Attempt) -> None:
        source, target = task
        sink = pa.BufferOutputStream()
        with Counter("statistics", self._images, "images", attempt.advance) as counter:
            batches = read_columns(source, features.STATISTICS)
            if first := next(batches, None):
                with pa.ipc.new_stream(sink, first.schema) as writer:
                    for batch in itertools.chain([first], batches):
                        writer.write_batch(batch)
                        counter.add(batch.num_rows)
        kept = sink.getvalue().to_pybytes()
        storage.write_bytes(attempt.path(target), kept, durable=False)


def load_columns(kept: str) -> Iterator[pa.RecordBatch]:
    """Read a shard's Arrow file, of some hundred bytes an image, in batches."""
    content = storage.read_bytes(staging.here(kept))
    if content:
        with pa.ipc.open_stream(content) as batches:
            yield from batches


def count(batches: Iterable[pa.RecordBatch]) -> statistics_pb2.DatasetFeatureStatisticsList:
    """Have TFDV count, in the order that is given: the last digits of its sums depend on it.

    Statistics are not sums that could be kept: they are counted anew each time. As Beam combines in
    an order of its own, and of the runner's, it is left out.
    """
    generators = stats_impl.get_generators(options(), in_memory=True)
    for generator in generators:
        generator.setup()
    counted = [generator.create_accumulator() for generator in generators]
    for batch in batches:
        pairs = zip(generators, counted, strict=True)
        counted = [generator.add_input(found, batch) for generator, found in pairs]
    statistics = stats_impl.extract_statistics_output(counted, generators)
    for dataset in statistics.datasets:
        dataset.features.sort(key=lambda feature: feature.path.step[0])
    return statistics


def options() -> tfdv.StatsOptions:
    """TFDV's options, but with every class counted: the default keeps a thousand of them."""
    return tfdv.StatsOptions(num_rank_histogram_buckets=1_000_000)


def read_columns(shard: str, names: Sequence[str]) -> Iterator[pa.RecordBatch]:
    """Read features of a TFRecord file, of which each example has one value.

    Batches of at most `ROWS` rows, in the file's order, with a list column for each name, which is
    how TFDV takes them.
    """
    # tf.data takes three times as long for a record that is taken out of it.
    records = tf.compat.v1.io.tf_record_iterator(staging.here(shard))
    while rows := [_values(record, names) for record in itertools.islice(records, ROWS)]:
        yield pa.RecordBatch.from_arrays(
            [_lists(column) for column in zip(*rows, strict=True)], names
        )


def _values(record: bytes, names: Sequence[str]) -> list[tuple[str, Any]]:
    """For each name the kind of its feature, and the one value that it has."""
    found = tf.train.Example.FromString(record).features.feature
    kinds = [found[name].WhichOneof("kind") for name in names]
    return [
        (kind, getattr(found[name], kind).value[0]) for name, kind in zip(names, kinds, strict=True)
    ]


def _lists(column: Sequence[tuple[str, Any]]) -> pa.ListArray:
    values = pa.array([value for _, value in column], KINDS[column[0][0]])
    return pa.ListArray.from_arrays(np.arange(len(column) + 1, dtype=np.int32), values)
