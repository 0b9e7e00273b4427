"""Earlier attempts of a pod in the same run: detect finished nodes, and clean up partial ones."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from typing import Any

from ml_metadata.proto import metadata_store_pb2
from tfx.orchestration import metadata
from tfx.orchestration.portable import outputs_utils
from tfx.orchestration.portable.mlmd import context_lib, execution_lib
from tfx.proto.orchestration import pipeline_pb2

from components import progress, storage
from components.lineage import Lineage
from pipeline.errors import NodeFailed

# A context that only executions of one task of one run are in.
_TASK = "kubeflow_task"
_DECIDED = "decided"


def task_of(executor_input: Mapping[str, Any]) -> str:
    """Return an id that all attempts at a task of one run share, and no other task has.

    Args:
      executor_input: Kubeflow's message, whose output URIs are `.../RUN/TASK/SALT/NAME`.
    """
    artifacts = executor_input["outputs"]["artifacts"].values()
    uri: str = next(artifact["uri"] for each in artifacts for artifact in each["artifacts"])
    return uri.rsplit("/", 2)[0]


def mark(ir: pipeline_pb2.Pipeline, task: str) -> None:
    """Add a context of the task to every node, so each execution is associated with its task."""
    for node in ir.nodes:
        context = node.pipeline_node.contexts.contexts.add()
        context.type.name = _TASK
        context.name.field_value.string_value = task


def recall(metadata_handle: metadata.Metadata, task: str) -> dict[str, str] | None:
    """Return the decision of an earlier attempt at `task`; None if there was none."""
    with metadata_handle as handle:
        decided = Lineage(handle.store).recall(_TASK, task, _DECIDED)
    return json.loads(decided) if decided else None


def remember(metadata_handle: metadata.Metadata, task: str, decided: Mapping[str, str]) -> None:
    """Store the decision of this attempt for later ones."""
    with metadata_handle as handle:
        context = context_lib.register_context_if_not_exists(handle, _TASK, task)
        Lineage(handle.store).remember(context, _DECIDED, json.dumps(decided))


def clean_up(
    metadata_handle: metadata.Metadata,
    ir: pipeline_pb2.Pipeline,
    node: pipeline_pb2.PipelineNode,
    *,
    own: bool = False,
) -> int | None:
    """Clean up after failed attempts at a node. Returns the id of a successful execution, or None.

    Failed attempts get the state FAILED, and their outputs are removed. Executions of other nodes
    and other runs may be active, so they are left alone.

    Args:
      metadata_handle: connection to ML Metadata.
      ir: the plan of the run.
      node: one of its nodes.
      own: whether this attempt is the one that failed, which is reported elsewhere.

    Raises NodeFailed if another run of Kubeflow has executed the node with the same run id.
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
                _undo(handle, ir, node, execution, own)
    return finished


def _check_own(
    handle: metadata.Metadata,
    node: pipeline_pb2.PipelineNode,
    executions: Iterable[metadata_store_pb2.Execution],
) -> None:
    own: set[int] = set()
    for spec in node.contexts.contexts:
        if spec.type.name == _TASK:
            name = spec.name.field_value.string_value
            own |= Lineage(handle.store).executions_in(_TASK, name)
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
    own: bool,
) -> None:
    resolver = outputs_utils.OutputsResolver(node, ir.pipeline_info, ir.runtime_spec)
    outputs = resolver.generate_output_artifacts(execution.id).values()
    folders = [artifact.uri for artifacts in outputs for artifact in artifacts]
    # The executor's output file, and its temporary files.
    folders.append(resolver.get_executor_output_uri(execution.id).rpartition("/")[0])
    for folder in folders:
        storage.remove_tree(folder)
    if execution.last_known_state != metadata_store_pb2.Execution.FAILED:
        Lineage(handle.store).fail(execution)
        if not own:
            text = f"{node.node_info.id} was cut off in an earlier attempt"
            text = f"{text} (execution {execution.id}); its partial output is removed"
            progress.report("note", text=text)
