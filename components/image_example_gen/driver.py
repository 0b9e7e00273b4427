"""Driver that makes the content of the data a part of ImageExampleGen's cache key."""

from __future__ import annotations

import copy
import json

from apache_beam.options.pipeline_options import PipelineOptions
from tfx.components.example_gen import utils
from tfx.dsl.components.base import base_driver
from tfx.orchestration import data_types_utils, metadata
from tfx.orchestration.portable import base_driver as portable_base_driver
from tfx.orchestration.portable import data_types
from tfx.proto.orchestration import driver_output_pb2
from tfx.types import standard_component_specs

from components import jobs, launch, redaction, storage
from components.image_example_gen.dataset import DataSet, list_data
from components.image_example_gen.executor import OPTIONS_KEY, SPANS_KEY, Executor, Found
from components.image_example_gen.fingerprint import fingerprint, read_all
from components.image_example_gen.ledger import Ledger
from components.image_example_gen.options import Options


# Only the portable driver runs, but TFX requires a subclass of both.
class Driver(base_driver.BaseDriver, portable_base_driver.BaseDriver):
    """Adds the spans and the content fingerprint of the data to the execution's properties.

    TFX's file-based driver fingerprints count, size and modification time. It would miss an image
    that moved to another class, and run again after a `touch`. Here all local data is read, on
    Beam's workers if there are any; the executor goes on with what was read.
    """

    def __init__(self, metadata_handle: metadata.Metadata) -> None:
        base_driver.BaseDriver.__init__(self, metadata_handle)
        portable_base_driver.BaseDriver.__init__(self, metadata_handle)

    def run(self, execution_info: data_types.ExecutionInfo) -> driver_output_pb2.DriverOutput:
        properties = execution_info.exec_properties
        options = Options.from_json(properties[OPTIONS_KEY])
        (examples,) = execution_info.output_dict[standard_component_specs.EXAMPLES_KEY]
        data = list_data(properties[standard_component_specs.INPUT_BASE_KEY], options)
        ledger = None if data.is_remote else self._read(data, examples.uri)
        digest = fingerprint(data, ledger)
        launch.current().found = Found(data, ledger, digest)

        output = driver_output_pb2.DriverOutput()
        spans = json.dumps(redaction.hide_all([list(span) for span in data.spans]))
        added = {utils.FINGERPRINT_PROPERTY_NAME: digest, SPANS_KEY: spans}
        for key, value in {**properties, **added}.items():
            if value is not None:
                data_types_utils.set_metadata_value(output.exec_properties[key], value)
        artifact = copy.deepcopy(examples.mlmd_artifact)
        artifact.custom_properties[utils.FINGERPRINT_PROPERTY_NAME].string_value = digest
        latest = data.spans[-1]
        artifact.custom_properties[utils.SPAN_PROPERTY_NAME].int_value = latest.number
        if latest.version is not None:
            artifact.custom_properties[utils.VERSION_PROPERTY_NAME].int_value = latest.version
        output.output_artifacts[standard_component_specs.EXAMPLES_KEY].artifacts.append(artifact)
        return output

    def _read(self, data: DataSet, output: str) -> Ledger:
        args = list(launch.current().beam_args)
        if jobs.run_here(PipelineOptions(args)):
            return read_all(data)
        try:
            return Executor(Executor.Context(beam_pipeline_args=args)).read(data, output)
        finally:
            # TFX creates the output only if there is no cached one.
            storage.remove_tree(output)
