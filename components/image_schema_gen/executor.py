"""The executors that write the schema: inferred from the data, or a curated one as it is."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from google.protobuf import text_format
from tensorflow_metadata.proto.v0 import schema_pb2
from tfx import types
from tfx.components.schema_gen import executor as schema_gen
from tfx.components.statistics_gen import stats_artifact_utils
from tfx.dsl.components.base import base_executor
from tfx.types import artifact_utils, standard_component_specs

from components import storage
from components.image_example_gen.accounting import read_accounting
from components.image_schema_gen.inference import infer
from components.image_schema_gen.schema import add_identifying, read_schema


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
        splits = artifact_utils.decode_split_names(statistics.split_names)
        schema = infer(
            [stats_artifact_utils.load_statistics(statistics, split).proto() for split in splits],
            read_accounting(examples_uri).classes,
        )
        _write(schema, output_dict)


class ImportExecutor(base_executor.BaseExecutor):
    """Executor of ImageSchemaImport."""

    def Do(
        self,
        input_dict: dict[str, list[types.Artifact]],
        output_dict: dict[str, list[types.Artifact]],
        exec_properties: dict[str, Any],
    ) -> None:
        """Write `schema.pbtxt`. Raises BadDataError where the file cannot serve as one."""
        self._log_startup(input_dict, output_dict, exec_properties)
        schema = read_schema(Path(exec_properties[standard_component_specs.SCHEMA_FILE_KEY]))
        add_identifying(schema)
        _write(schema, output_dict)


def _write(schema: schema_pb2.Schema, output_dict: dict[str, list[types.Artifact]]) -> None:
    uri = artifact_utils.get_single_uri(output_dict[standard_component_specs.SCHEMA_KEY])
    text = text_format.MessageToString(schema)
    storage.write_text(storage.join(uri, schema_gen.DEFAULT_FILE_NAME), text, durable=False)
