"""The plan of a run: TFX's intermediate representation as the text of a parameter."""

from __future__ import annotations

import base64
import contextlib
import zlib
from collections.abc import Sequence

from tfx.dsl.compiler import constants
from tfx.orchestration.local import runner_utils
from tfx.orchestration.portable import runtime_parameter_utils
from tfx.proto.orchestration import executable_spec_pb2, pipeline_pb2

from kubeflow import imports


def encode(ir: pipeline_pb2.Pipeline) -> str:
    """Encode a plan as a few kilobytes of base64."""
    return base64.b64encode(zlib.compress(ir.SerializeToString(deterministic=True), 9)).decode()


def decode(text: str, run_id: str) -> pipeline_pb2.Pipeline:
    """Decode a plan, and set its run id."""
    ir = pipeline_pb2.Pipeline.FromString(zlib.decompress(base64.b64decode(text)))
    runtime_parameter_utils.substitute_runtime_parameter(
        ir, {constants.PIPELINE_RUN_ID_PARAMETER_NAME: run_id}
    )
    return ir


def find(ir: pipeline_pb2.Pipeline, node_id: str) -> pipeline_pb2.PipelineNode:
    """Return the node with an id, which must exist."""
    return next(
        node.pipeline_node for node in ir.nodes if node.pipeline_node.node_info.id == node_id
    )


def imports_for(
    ir: pipeline_pb2.Pipeline, nodes: Sequence[str]
) -> contextlib.AbstractContextManager[None]:
    """Return a context for the imports of a pod: without Beam unless one of its nodes uses it."""
    deployment = runner_utils.extract_local_deployment_config(ir)
    specs = [runner_utils.extract_executor_spec(deployment, each) for each in nodes]
    if any(isinstance(each, executable_spec_pb2.BeamExecutableSpec) for each in specs):
        return contextlib.nullcontext()
    imports.defer("tfx.components")
    return imports.without("apache_beam")
