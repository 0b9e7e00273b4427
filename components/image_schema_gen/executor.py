"""Infers the schema of the derived features and completes it."""

from __future__ import annotations

import os
from typing import Any

import tensorflow_data_validation as tfdv
from tensorflow_metadata.proto.v0 import schema_pb2
from tfx import types
from tfx.components.schema_gen import executor as schema_gen
from tfx.components.statistics_gen import stats_artifact_utils
from tfx.dsl.components.base import base_executor
from tfx.types import artifact_utils, standard_component_specs
from tfx.utils import io_utils

from components.image_example_gen.accounting import read_accounting
from components.image_schema_gen.schema import complete


class Executor(base_executor.BaseExecutor):
    """Executor of ImageSchemaGen."""

    def Do(
        self,
        input_dict: dict[str, list[types.Artifact]],
        output_dict: dict[str, list[types.Artifact]],
        exec_properties: dict[str, Any],
    ) -> None:
        """Write `schema.pbtxt`."""
        self._log_startup(input_dict, output_dict, exec_properties)
        statistics = artifact_utils.get_single_instance(
            input_dict[standard_component_specs.STATISTICS_KEY]
        )
        examples_uri = artifact_utils.get_single_uri(
            input_dict[standard_component_specs.EXAMPLES_KEY]
        )
        schema = schema_pb2.Schema()
        for split in artifact_utils.decode_split_names(statistics.split_names):
            split_statistics = stats_artifact_utils.load_statistics(statistics, split).proto()
            schema = tfdv.update_schema(schema, split_statistics)
        complete(schema, read_accounting(examples_uri).classes)
        schema_uri = artifact_utils.get_single_uri(output_dict[standard_component_specs.SCHEMA_KEY])
        io_utils.write_pbtxt_file(os.path.join(schema_uri, schema_gen.DEFAULT_FILE_NAME), schema)
