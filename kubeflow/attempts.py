"""Earlier attempts at a node in the same run: Kubernetes retries pods, and kills them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from ml_metadata.proto import metadata_store_pb2
from tfx.dsl.io import fileio
from tfx.orchestration import metadata
from tfx.orchestration.portable import outputs_utils
from tfx.orchestration.portable.mlmd import context_lib, execution_lib
from tfx.proto.orchestration import pipeline_pb2

from components import progress
from pipeline.errors import NodeFailed

# A context that only executions of one task of one run are in.
_TASK = "kubeflow_task"


def mark(ir: pipeline_pb2.Pipeline, executor_input: Mapping[str, Any]) -> None:
    """Have every execution of this pod associated with its task in Kubeflow, from its beginning.

    Args:
      ir: the DAG; each node gets a further context.
      executor_input: Kubeflow's message. It is the same for all attempts at a task. Where outputs
        go it names after its own run: `.../RUN/TASK/SALT/NAME`.
    """
    artifacts = executor_input["outputs"]["artifacts"].values()
    uri: str = next(artifact["uri"] for each in artifacts for artifact in each["artifacts"])
    for node in ir.nodes:
        context = node.pipeline_node.contexts.contexts.add()
        context.type.name = _TASK
        context.name.field_value.string_value = uri.rsplit("/", 2)[0]


def clean_up(
    metadata_handle: metadata.Metadata,
    ir: pipeline_pb2.Pipeline,
    node: pipeline_pb2.PipelineNode,
) -> int | None:
    """Undo what attempts that did not succeed left behind; the id of one that did, or None.

    Their executions become FAILED, and what they have put out is removed. Executions of other nodes
    and other runs are left alone, since they may be alive.

    Raises NodeFailed where another task of Kubeflow, and so another run, has executed the node
    under the id of this run.
    """
    with metadata_handle as handle:
        of_run = [each for each in node.contexts.contexts if each.type.name != _TASK]
        contexts = context_lib.prepare_contexts(handle, pipeline_pb2.NodeContexts(contexts=of_run))
        executions = execution_lib.get_executions_associated_with_all_contexts(handle, contexts)
        _check_own(handle, node, executions)
        finished = None
        for execution in executions:
            if execution_lib.is_execution_successful(execution):
                finished = execution.id
            else:
                _undo(handle, ir, node, execution)
    return finished


def _check_own(
    handle: metadata.Metadata,
    node: pipeline_pb2.PipelineNode,
    executions: Iterable[metadata_store_pb2.Execution],
) -> None:
    own = set()
    for spec in node.contexts.contexts:
        if spec.type.name == _TASK:
            name = spec.name.field_value.string_value
            if context := handle.store.get_context_by_type_and_name(_TASK, name):
                own |= {each.id for each in handle.store.get_executions_by_context(context.id)}
    for execution in executions:
        if execution.id not in own:
            raise NodeFailed(
                f"{node.node_info.id} has execution {execution.id} in this run, which another run "
                "of Kubeflow made; runs must not share a run id: compile the pipeline again, with "
                "the image's version of the code"
            )


def _undo(
    handle: metadata.Metadata,
    ir: pipeline_pb2.Pipeline,
    node: pipeline_pb2.PipelineNode,
    execution: metadata_store_pb2.Execution,
) -> None:
    resolver = outputs_utils.OutputsResolver(node, ir.pipeline_info, ir.runtime_spec)
    outputs = resolver.generate_output_artifacts(execution.id).values()
    folders = [artifact.uri for artifacts in outputs for artifact in artifacts]
    # What the executor reports, and its temporary files.
    folders.append(resolver.get_executor_output_uri(execution.id).rpartition("/")[0])
    for folder in folders:
        if fileio.exists(folder):
            fileio.rmtree(folder)
    if execution.last_known_state != metadata_store_pb2.Execution.FAILED:
        execution.last_known_state = metadata_store_pb2.Execution.FAILED
        handle.store.put_executions([execution])
        text = f"{node.node_info.id} was cut off in an earlier attempt (execution {execution.id})"
        progress.report("note", text=f"{text}; its partial output is removed")
