"""The DAG of a run in TFX's intermediate representation. Importing it imports every component."""

from __future__ import annotations

from tfx.dsl.compiler import compiler
from tfx.proto.orchestration import pipeline_pb2

from pipeline.dag import Locations, create_pipeline
from pipeline.errors import ConfigError
from pipeline.settings import Config


def make(config: Config, pipeline_root: str) -> pipeline_pb2.Pipeline:
    """Compile the DAG of a run that writes below `pipeline_root`, a path or URI.

    Raises ConfigError.
    """
    root = pipeline_root.rstrip("/")
    push_directory = config.push.directory or f"{root}/serving/{config.name}"
    try:
        dag = create_pipeline(config, Locations(root, push_directory))
    except OSError as error:
        raise ConfigError(
            f"data.schema_file: {config.data.schema_file} cannot be read: {error.strerror}; it "
            "must be in the image, and here, under the same path"
        ) from error
    return compiler.Compiler().compile(dag)
