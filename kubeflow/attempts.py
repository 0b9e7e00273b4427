"""Earlier attempts at a node in the same run: Kubernetes retries pods, and kills them."""

from __future__ import annotations

from ml_metadata.proto import metadata_store_pb2
from tfx.dsl.io import fileio
from tfx.orchestration import metadata
from tfx.orchestration.portable import outputs_utils
from tfx.orchestration.portable.mlmd import context_lib, execution_lib
from tfx.proto.orchestration import pipeline_pb2

from components import progress


def clean_up(
    metadata_handle: metadata.Metadata,
    ir: pipeline_pb2.Pipeline,
    node: pipeline_pb2.PipelineNode,
    *,
    own: bool = False,
) -> int | None:
    """Undo what attempts that did not succeed left behind; the id of one that did, or None.

    With `own`, this attempt is the one that failed, which tells so itself.

    Their executions become FAILED, and what they have put out is removed. Executions of other nodes
    and other runs are left alone, since they may be alive.
    """
    with metadata_handle as handle:
        contexts = context_lib.prepare_contexts(handle, node.contexts)
        executions = execution_lib.get_executions_associated_with_all_contexts(handle, contexts)
        finished = None
        for execution in executions:
            if execution_lib.is_execution_successful(execution):
                finished = execution.id
            else:
                _undo(handle, ir, node, execution, own)
    return finished


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
    # What the executor reports, and its temporary files.
    folders.append(resolver.get_executor_output_uri(execution.id).rpartition("/")[0])
    for folder in folders:
        if fileio.exists(folder):
            fileio.rmtree(folder)
    if execution.last_known_state != metadata_store_pb2.Execution.FAILED:
        execution.last_known_state = metadata_store_pb2.Execution.FAILED
        handle.store.put_executions([execution])
        if not own:
            text = f"{node.node_info.id} was cut off in an earlier attempt"
            text = f"{text} (execution {execution.id}); its partial output is removed"
            progress.report("note", text=text)
