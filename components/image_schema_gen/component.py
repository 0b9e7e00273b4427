"""The interface of ImageSchemaGen."""

from __future__ import annotations

from tfx import types
from tfx.dsl.components.base import base_component, executor_spec
from tfx.types import standard_artifacts, standard_component_specs
from tfx.types.component_spec import ChannelParameter, ComponentSpec, ExecutionParameter

from components.image_schema_gen import executor


class ImageSchemaGenSpec(ComponentSpec):
    """Inputs and output of ImageSchemaGen."""

    PARAMETERS = {"code": ExecutionParameter(type=str)}
    INPUTS = {
        standard_component_specs.STATISTICS_KEY: ChannelParameter(
            type=standard_artifacts.ExampleStatistics
        ),
        standard_component_specs.EXAMPLES_KEY: ChannelParameter(type=standard_artifacts.Examples),
    }
    OUTPUTS = {
        standard_component_specs.SCHEMA_KEY: ChannelParameter(type=standard_artifacts.Schema),
    }


class ImageSchemaGen(base_component.BaseComponent):
    """Writer of a schema whose label domain is the data set's sorted class list.

    TFX's SchemaGen sees statistics only, and those leave out the image bytes that Transform has
    to find in the schema; it also keeps no more than 100 label values, ordered by frequency.
    """

    SPEC_CLASS = ImageSchemaGenSpec
    EXECUTOR_SPEC = executor_spec.ExecutorClassSpec(executor.Executor)

    def __init__(
        self, statistics: types.BaseChannel, examples: types.BaseChannel, code: str
    ) -> None:
        """Construct the component from StatisticsGen's and ImageExampleGen's outputs."""
        super().__init__(
            spec=ImageSchemaGenSpec(
                statistics=statistics,
                examples=examples,
                code=code,
                schema=types.Channel(type=standard_artifacts.Schema),
            )
        )


class ImageSchemaImportSpec(ComponentSpec):
    """Parameters and output of ImageSchemaImport."""

    PARAMETERS = {
        standard_component_specs.SCHEMA_FILE_KEY: ExecutionParameter(type=str),
        "digest": ExecutionParameter(type=str),
        "code": ExecutionParameter(type=str),
    }
    INPUTS: dict[str, ChannelParameter] = {}
    OUTPUTS = {
        standard_component_specs.SCHEMA_KEY: ChannelParameter(type=standard_artifacts.Schema),
    }


class ImageSchemaImport(base_component.BaseComponent):
    """Importer of a curated schema.

    TFX's ImportSchemaGen is cached by the file's name alone, so that an edited schema would be
    ignored, and takes any schema, be there a class list in it or not.
    """

    SPEC_CLASS = ImageSchemaImportSpec
    EXECUTOR_SPEC = executor_spec.ExecutorClassSpec(executor.ImportExecutor)

    def __init__(self, schema_file: str, digest: str, code: str) -> None:
        """Construct the component.

        Args:
          schema_file: path of a schema.pbtxt with a class list.
          digest: of the file's content, so that a change of it misses the cache.
          code: fingerprint of the executor's source, for the same reason.
        """
        super().__init__(
            spec=ImageSchemaImportSpec(
                schema_file=schema_file,
                digest=digest,
                code=code,
                schema=types.Channel(type=standard_artifacts.Schema),
            )
        )
