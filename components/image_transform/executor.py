"""Binds the schema's class list to preprocessing_fn and writes its output uncompressed."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from typing import Any

import apache_beam as beam
from tensorflow_metadata.proto.v0 import schema_pb2
from tfx.components.transform import executor as transform
from tfx.components.transform import labels
from tfx.components.util import value_utils

from components.image_schema_gen.schema import class_names


class Executor(transform.Executor):  # type: ignore[misc]
    """Executor of ImageTransform."""

    def _GetPreprocessingFn(
        self, inputs: Mapping[str, Any], unused_outputs: Mapping[str, Any]
    ) -> Callable[..., Any]:
        bound = super()._GetPreprocessingFn(inputs, unused_outputs)
        schema = self._GetSchema(value_utils.GetSoleValue(inputs, labels.SCHEMA_PATH_LABEL))
        config = {**bound.keywords["custom_config"], "classes": class_names(schema)}
        return functools.partial(bound.func, custom_config=config)

    @staticmethod
    @beam.ptransform_fn
    def _EncodeAndWrite(
        pcoll: beam.PCollection,
        schema: schema_pb2.Schema,
        file_format: str,
        output_path: str,
    ) -> beam.pvalue.PDone:
        # TFX writes gzip here, which image bytes do not reward and every epoch would pay for.
        if file_format != labels.FORMAT_TFRECORD:
            raise ValueError(f"only {labels.FORMAT_TFRECORD} output is supported: {file_format}")
        return (
            pcoll
            | beam.ParDo(transform.TransformProcessor._RecordBatchToExamplesFn(schema))
            | beam.Values()
            | beam.io.WriteToTFRecord(output_path, file_name_suffix=".tfrecord")
        )
