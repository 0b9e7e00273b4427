"""Validates statistics against the schema and fails on anomalies."""

from __future__ import annotations

import os
from typing import Any

from tensorflow_metadata.proto.v0 import anomalies_pb2
from tfx import types
from tfx.components.example_validator import executor as example_validator
from tfx.types import artifact_utils, standard_component_specs

from components.errors import BadDataError
from components.image_schema_gen.schema import counted

MAX_LISTED = 5


class Executor(example_validator.Executor):
    """TFX's executor, except that anomalies fail the node instead of setting a property."""

    def Do(
        self,
        input_dict: dict[str, list[types.Artifact]],
        output_dict: dict[str, list[types.Artifact]],
        exec_properties: dict[str, Any],
    ) -> Any:
        """Write the anomalies of each split. Raises BadDataError where there are any."""
        output = super().Do(input_dict, output_dict, exec_properties)
        anomalies = artifact_utils.get_single_instance(
            output_dict[standard_component_specs.ANOMALIES_KEY]
        )
        found = [
            f"{split}: {line}"
            for split in artifact_utils.decode_split_names(anomalies.split_names)
            for line in describe(read_anomalies(anomalies, split))
        ]
        if found:
            more = f"; and {len(found) - MAX_LISTED} more" if len(found) > MAX_LISTED else ""
            raise BadDataError(
                f"the data does not match the schema: {'; '.join(found[:MAX_LISTED])}{more}. "
                "Fix the data, or the schema if this is how the data should look"
            )
        return output

    def _Validate(self, inputs: dict[str, Any], outputs: dict[str, Any]) -> Any:
        schema = inputs[standard_component_specs.SCHEMA_KEY]
        return super()._Validate(
            {**inputs, standard_component_specs.SCHEMA_KEY: counted(schema)}, outputs
        )


def read_anomalies(artifact: types.Artifact, split: str) -> anomalies_pb2.Anomalies:
    """The anomalies of one split. TFDV 1.21 has no loader for the file that TFX writes."""
    path = os.path.join(
        artifact_utils.get_split_uri([artifact], split), example_validator.DEFAULT_FILE_NAME
    )
    with open(path, "rb") as file:
        return anomalies_pb2.Anomalies.FromString(file.read())


def describe(anomalies: anomalies_pb2.Anomalies) -> list[str]:
    """One line per anomaly, dataset-wide ones first."""
    lines = [
        f"{reason.short_description}: {reason.description}"
        for reason in anomalies.dataset_anomaly_info.reason
    ]
    for name, info in sorted(anomalies.anomaly_info.items()):
        lines.append(f"{name}: {info.description.rstrip('. ')}")
    return lines
