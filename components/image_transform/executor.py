"""The executor that saves preprocessing_fn as a graph and applies it, shard by shard.

TFX's executor carries each image over Beam stages, as Arrow and as Python objects, and writes gzip,
which costs more than the resize and does not make pixels smaller by much.
"""

from __future__ import annotations

import functools
import importlib
import itertools
import json
import math
import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, NamedTuple

import tensorflow as tf
import tensorflow_transform as tft
from tensorflow_transform import impl_helper
from tensorflow_transform.tf_metadata import dataset_metadata, metadata_io
from tfx import types
from tfx.components.schema_gen import executor as schema_gen
from tfx.dsl.components.base import base_beam_executor
from tfx.types import artifact_utils, standard_component_specs

from components import features, reuse, storage
from components.attempts import Attempt
from components.errors import BadDataError
from components.image_schema_gen.schema import class_names, load
from components.jobs import Job, Worker, run_here
from components.parallel import BATCH_BYTES, in_order
from components.progress import Counter
from components.storage import staging
from components.wording import of_op

PREFIX = "transformed_examples"

# Of one call of the graph, which may decode them all at a time.
GROUP = 32
GROUP_PIXELS = 2**22

# What preprocessing_fn is given, each of shape [N, 1].
INPUTS = {
    name: tf.io.FixedLenFeature([1], tf.string)
    for name in (features.IMAGE, features.LABEL_TEXT, features.SHA256)
}

PreprocessingFn = Callable[..., Mapping[str, tf.Tensor]]
Graph = Callable[[tf.Tensor], Mapping[str, tf.Tensor]]


class Executor(base_beam_executor.BaseBeamExecutor):
    """Executor of ImageTransform."""

    def Do(
        self,
        input_dict: dict[str, list[types.Artifact]],
        output_dict: dict[str, list[types.Artifact]],
        exec_properties: dict[str, Any],
    ) -> None:
        """Write the graph, and `Split-<name>/transformed_examples-*` for every split.

        Raises BadDataError naming an image that TensorFlow cannot decode.
        """
        self._log_startup(input_dict, output_dict, exec_properties)
        examples = artifact_utils.get_single_instance(
            input_dict[standard_component_specs.EXAMPLES_KEY]
        )
        schema_uri = artifact_utils.get_single_uri(input_dict[standard_component_specs.SCHEMA_KEY])
        graph_uri = artifact_utils.get_single_uri(
            output_dict[standard_component_specs.TRANSFORM_GRAPH_KEY]
        )
        transformed = artifact_utils.get_single_instance(
            output_dict[standard_component_specs.TRANSFORMED_EXAMPLES_KEY]
        )
        transformed.split_names = examples.split_names
        transformed.span = examples.span

        schema = load(storage.join(schema_uri, schema_gen.DEFAULT_FILE_NAME))
        config = json.loads(exec_properties[standard_component_specs.CUSTOM_CONFIG_KEY])
        function = functools.partial(
            _resolve(exec_properties[standard_component_specs.PREPROCESSING_FN_KEY]),
            custom_config={**config, "classes": class_names(schema)},
        )
        write_graph(function, graph_uri)

        splits = artifact_utils.decode_split_names(examples.split_names)
        for split in splits:
            storage.make_folder(artifact_utils.get_split_uri([transformed], split))
        made_by = reuse.key(
            exec_properties[standard_component_specs.PREPROCESSING_FN_KEY],
            {**config, "classes": class_names(schema)},
        )
        files = reuse.files_of(examples.uri, splits)
        made = {
            name: f"Split-{split}/{PREFIX}-{name.rpartition('/')[2]}-{made_by}"
            for split in splits
            for name in files[split]
        }
        todo = reuse.take_over_known(examples.uri, transformed, made)
        if not todo:
            return
        images = transformed.get_int_custom_property(reuse.DONE)
        shards = [(os.path.join(examples.uri, name), target) for name, target in todo.items()]
        pipeline = self._make_beam_pipeline()
        # In one process, the end of a shard would leave cores without work.
        work = [shards] if run_here(pipeline.options) else [[shard] for shard in shards]
        job = Job("transform", "images")
        for _ in job.map(
            pipeline, _TransformShards(graph_uri, images), work, transformed.uri, images
        ):
            pass


def write_graph(preprocessing_fn: PreprocessingFn, uri: str) -> None:
    """Write what tft.TFTransformOutput loads, from a function of the features in `INPUTS`.

    Raises RuntimeError where the function has analyzers, which need a pass over the data.
    """
    metadata_io.write_metadata(
        dataset_metadata.DatasetMetadata.from_feature_spec(INPUTS),
        os.path.join(uri, tft.TFTransformOutput.RAW_METADATA_DIR),
    )
    specs = {
        name: tf.TensorSpec([None, *spec.shape], spec.dtype, name) for name, spec in INPUTS.items()
    }
    impl_helper.analyze_in_place(preprocessing_fn, False, INPUTS, specs, uri)


def load_graph(graph_uri: str) -> Graph:
    """Load the graph as a function of serialized tf.Examples [N], traced once for all files."""
    layer = tft.TFTransformOutput(graph_uri).transform_features_layer()

    @tf.function(input_signature=[tf.TensorSpec([None], tf.string)], autograph=False)
    def transform(records: tf.Tensor) -> dict[str, tf.Tensor]:
        return layer(tf.io.parse_example(records, INPUTS))

    return transform


def transform_records(graph: Graph, sources: Iterable[str]) -> Iterator[tuple[str, list[bytes]]]:
    """Put each record of TFRecord files through the graph, in their order.

    Yields some records at a time, with their file, and each file once at least. A call of the graph
    costs as much as a quarter of a small photo, so that a few go together; memory follows the
    largest image and not their number. A tf.data pipeline would optimize the graph anew for every
    file, which takes as long as some hundred images.

    Raises BadDataError naming the image that failed.
    """

    def transform(group: _Group) -> list[bytes]:
        if not group.records:
            return []
        try:
            outputs = graph(tf.constant(group.records))
        except tf.errors.InvalidArgumentError as error:
            if len(group.records) > 1:
                return [found for one in group.apart() for found in transform(one)]
            otherwise = f"record {group.start} of {group.source}"
            raise BadDataError(_blame(group.records[0], otherwise, error)) from error
        columns = {name: value.numpy() for name, value in outputs.items()}
        return [
            _serialized({name: column[row] for name, column in columns.items()})
            for row in range(len(group.records))
        ]

    groups = itertools.chain.from_iterable(map(_groups, sources))
    # Each group is a batch of its own, so that the cores end at the same time.
    yield from in_order(
        lambda group: (group.source, transform(group)), groups, lambda _: BATCH_BYTES
    )


class _Group(NamedTuple):
    """Records that go through the graph together; `start` is the first one's number in its file."""

    source: str
    start: int
    records: list[bytes]

    def apart(self) -> Iterator[_Group]:
        for index, record in enumerate(self.records, self.start):
            yield _Group(self.source, index, [record])


def _groups(source: str) -> Iterator[_Group]:
    """Group at most GROUP records, and GROUP_PIXELS or a single larger image.

    Yields one group at least.
    """
    group = _Group(source, 0, [])
    room = GROUP_PIXELS
    # tf.data takes three times as long for a record that is taken out of it.
    records = tf.compat.v1.io.tf_record_iterator(staging.here(source))
    for index, record in enumerate(records):
        values = tf.train.Example.FromString(record).features.feature
        sides = (values[name].int64_list.value for name in (features.HEIGHT, features.WIDTH))
        pixels = math.prod(side[0] if side else GROUP_PIXELS for side in sides)
        if group.records and (len(group.records) == GROUP or pixels > room):
            yield group
            group, room = _Group(source, index, []), GROUP_PIXELS
        group.records.append(record)
        room -= pixels
    yield group


def _resolve(dotted: str) -> PreprocessingFn:
    module, _, name = dotted.rpartition(".")
    return getattr(importlib.import_module(module), name)


def _serialized(row: Mapping[str, Any]) -> bytes:
    example = tf.train.Example()
    for name, value in row.items():
        feature = example.features.feature[name]
        if isinstance(value, bytes):
            feature.bytes_list.value.append(value)
        else:
            feature.int64_list.value.append(value)
    return example.SerializeToString(deterministic=True)


def _blame(record: bytes, otherwise: str, error: tf.errors.InvalidArgumentError) -> str:
    names = tf.train.Example.FromString(record).features.feature[features.FILENAME]
    name = b"".join(names.bytes_list.value).decode() or otherwise
    reason = of_op(error.message)
    return f"{name}: TensorFlow cannot decode it ({reason}); replace or remove the file"


class _TransformShards(Worker[list[tuple[str, str]]]):
    """Reader, transformer and writer of shards: image bytes cross no Beam stage."""

    def __init__(self, graph_uri: str, images: int) -> None:
        self._graph_uri = graph_uri
        self._images = images

    def prepare(self) -> None:
        self._graph = load_graph(self._graph_uri)

    def work(self, task: list[tuple[str, str]], attempt: Attempt) -> None:
        targets = dict(task)
        transformed = transform_records(self._graph, targets)
        with Counter("transform", self._images, "images", attempt.advance) as counter:
            for source, groups in itertools.groupby(transformed, lambda group: group[0]):
                with tf.io.TFRecordWriter(attempt.path(targets[source])) as writer:
                    for _, records in groups:
                        for record in counter.each(records):
                            writer.write(record)
