"""What one run of a pipeline is to do: TFX's intermediate representation, as a parameter's text."""

from __future__ import annotations

import base64
import zlib

from tfx.dsl.compiler import constants
from tfx.orchestration.portable import runtime_parameter_utils
from tfx.proto.orchestration import pipeline_pb2

from pipeline.errors import ConfigError
from pipeline.settings import Config


def make(config: Config, pipeline_root: str) -> pipeline_pb2.Pipeline:
    """The DAG of a run that writes below `pipeline_root`, a path or URI. Raises ConfigError."""
    # Every component is imported with it, and the nodes of a run need only their own.
    from tfx.dsl.compiler import compiler

    from pipeline.dag import Locations, create_pipeline

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


def encode(ir: pipeline_pb2.Pipeline) -> str:
    """The text of a plan: a few kilobytes of letters and digits."""
    return base64.b64encode(zlib.compress(ir.SerializeToString(deterministic=True), 9)).decode()


def decode(text: str, run_id: str) -> pipeline_pb2.Pipeline:
    """The plan that `encode` made, for the run of that name."""
    ir = pipeline_pb2.Pipeline.FromString(zlib.decompress(base64.b64decode(text)))
    runtime_parameter_utils.substitute_runtime_parameter(
        ir, {constants.PIPELINE_RUN_ID_PARAMETER_NAME: run_id}
    )
    return ir


def find(ir: pipeline_pb2.Pipeline, node_id: str) -> pipeline_pb2.PipelineNode:
    """The node with that id, which must be there."""
    return next(
        node.pipeline_node for node in ir.nodes if node.pipeline_node.node_info.id == node_id
    )
