"""Run a TFX pipeline in this process, node by node, and report progress.

TFX's own LocalDagRunner does the same work silently, takes a node whose inputs cannot be resolved
for a success, and leaves the node that Ctrl-C hit running forever in the metadata.
"""

from __future__ import annotations

import contextlib
import copy
import dataclasses
import errno
import functools
import gc
import logging
import re
import shutil
import tempfile
import textwrap
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from google.protobuf.message import Message
from ml_metadata.proto import metadata_store_pb2
from tfx.dsl.compiler import compiler, constants
from tfx.orchestration import metadata
from tfx.orchestration.local import runner_utils
from tfx.orchestration.portable import launcher, runtime_parameter_utils
from tfx.orchestration.portable.beam_executor_operator import BeamExecutorOperator
from tfx.orchestration.portable.mlmd import execution_lib
from tfx.orchestration.portable.python_executor_operator import PythonExecutorOperator
from tfx.proto.orchestration import pipeline_pb2
from tfx.proto.orchestration.executable_spec_pb2 import (
    BeamExecutableSpec,
    PythonClassExecutableSpec,
)
from tfx.types import Artifact

from components import progress, storage
from components.errors import BadDataError, NotServableError
from components.launch import launching
from components.storage import tfx_files
from pipeline import staged, tfx_queries, usage
from pipeline.errors import (
    ConfigError,
    DataError,
    KubernetesUnreachable,
    NodeFailed,
    NotBlessed,
    PromotionFailed,
    UserError,
    data_error,
)
from pipeline.interrupts import Interrupts
from pipeline.staged import StagedOperator
from pipeline.workspace import Workspace

if TYPE_CHECKING:
    from tfx.orchestration.pipeline import Pipeline

_LOG = logging.getLogger("perennial.runner")
_LONGEST_MESSAGE = 300
_OWN = ("components.", "trainer_module.")
# Beginnings of TensorFlow's messages, before the reason.
_GRAPH_PREAMBLE = ("Graph execution error", "Detected at node", "<stack traces unavailable>")
_FULL_BYTES = 64 * 1024  # a disk that has no more left is taken for full

State = Literal["complete", "cached", "resolved", "skipped"]


@dataclasses.dataclass(frozen=True)
class NodeResult:
    """Outcome of one node.

    state: complete (it ran), cached (its outputs are those of an earlier execution), resolved (it
    only looks artifacts up, in every run) or skipped (a condition in the pipeline left
    it out). execution_id: its execution in ML Metadata, None when skipped. outputs: the artifacts
    by output name, cached or not. Usage as in `usage.Usage`.
    """

    node: str
    state: State
    wall_s: float
    cpu_s: float
    peak_mb: float
    execution_id: int | None
    outputs: Mapping[str, Sequence[Artifact]]


@dataclasses.dataclass(frozen=True)
class RunResult:
    """A run in which no node failed; `nodes` are in the order in which they ran."""

    run_id: str
    nodes: tuple[NodeResult, ...]


def run(
    pipeline: Pipeline, workspace: Workspace, run_id: str, node_timeout: float | None = None
) -> RunResult:
    """Run every node of `pipeline` under `run_id`, which must be new to the workspace.

    The caller holds the workspace's lock. Progress is reported as events (components/progress.py):
    run_start, node_start, node_end and run_end. A node that has not ended after `node_timeout`
    seconds is interrupted; one that does not react to that takes the process with it.

    Raises:
        DataError: a node blamed its data (BadDataError); the message is the node's own.
        NotBlessed: no model server serves the candidate as it should (NotServableError).
        PromotionFailed: the pushed version is not served as push.promote demands.
        NodeFailed: a node failed otherwise, or took too long.
        KeyboardInterrupt: SIGINT or SIGTERM came. The interrupted node's execution is FAILED and
            its partial outputs are gone.
        ValueError: the pipeline does not live in the workspace.
    """
    # Half a million objects of imported libraries that never go: looking through them again and
    # again costs CPU in every node, and two seconds when the process ends.
    gc.freeze()
    for line in workspace.recover():
        progress.report("note", text=line)
    return _Run(pipeline, workspace, run_id, node_timeout).execute()


class NodeRunner:
    """Runs single nodes of a run, and leaves nothing half-done behind.

    Args of its construction:
        ir: the whole DAG, with the run's id in it.
        handle: of ML Metadata; it is entered anew for each part of the work.
        undo: called after a failure, to mark what was cut off and to remove its partial output.
        log: file with the output of libraries, for messages.
        node_timeout: seconds after which a node is stopped.
        metadata_file: what ML Metadata is in, where it is a file.
    """

    def __init__(
        self,
        ir: pipeline_pb2.Pipeline,
        handle: metadata.Metadata,
        undo: Callable[[], object],
        log: str,
        node_timeout: float | None = None,
        metadata_file: Path | None = None,
    ) -> None:
        tfx_queries.install()
        self._ir = ir
        self._metadata_file = metadata_file
        self._deployment = runner_utils.extract_local_deployment_config(ir)
        self._handle = handle
        self._undo = undo
        self._log = log
        self._interrupts = Interrupts(node_timeout)

    @contextlib.contextmanager
    def interruptible(self) -> Iterator[None]:
        """Within, SIGINT and SIGTERM interrupt the node that runs."""
        with self._interrupts:
            yield

    def run(self, node: pipeline_pb2.PipelineNode, finished: int | None = None) -> NodeResult:
        """Run `node`, unless an earlier attempt has: its execution is `finished`.

        Raises what `run` of this module raises of nodes.
        """
        node_id = node.node_info.id
        used = usage.Usage()
        try:
            progress.report("node_start", node=node_id)
            with usage.measure() as used, self._interrupts.within_time(node_id):
                execution_id = finished or self._launch(node, used)
            self._interrupts.check()
            state, outputs = self._outcome(node_id, execution_id)
        except BaseException as error:
            _LOG.exception("%s failed", node_id)
            failure = self._explain(node_id, error)  # before what filled a disk is removed
            self._undo_quietly()
            why = str(failure)
            _report_end(node_id, "failed" if why else "interrupted", used, why or "interrupted")
            raise failure from error
        _report_end(node_id, state, used)
        return NodeResult(
            node=node_id,
            state=state,
            execution_id=execution_id,
            outputs=outputs,
            **dataclasses.asdict(used),
        )

    def _launch(self, node: pipeline_pb2.PipelineNode, used: usage.Usage) -> int | None:
        node_id = node.node_info.id
        spec = runner_utils.extract_executor_spec(self._deployment, node_id)
        tfx_launcher = launcher.Launcher(
            pipeline_node=node,
            mlmd_connection=self._handle,
            pipeline_info=self._ir.pipeline_info,
            pipeline_runtime_spec=self._ir.runtime_spec,
            executor_spec=_without_beam_args(spec),
            custom_driver_spec=runner_utils.extract_custom_driver_spec(self._deployment, node_id),
            custom_executor_operators=self._operators(spec),
        )
        with launching(getattr(spec, "beam_pipeline_args", ())) as launch:
            try:
                info = tfx_launcher.launch()
            finally:
                used.cpu_s += launch.workers_cpu_s
        return (info.execution_id if info else None) or None

    def _operators(self, spec: Message | None) -> dict[Any, Callable[..., Any]]:
        """Return the operators that run executors, by the kind of their specification."""
        beam = _operator(spec)
        root = self._ir.runtime_spec.pipeline_root.field_value.string_value
        if not storage.is_uri(root) or not staged.is_staged(spec):
            return {BeamExecutableSpec: beam}
        tfx_files.register()
        return {
            BeamExecutableSpec: functools.partial(StagedOperator, operator=beam),
            PythonClassExecutableSpec: functools.partial(
                StagedOperator, operator=PythonExecutorOperator
            ),
        }

    def _outcome(
        self, node_id: str, execution_id: int | None
    ) -> tuple[State, Mapping[str, Sequence[Artifact]]]:
        if execution_id is None:
            return "skipped", {}
        with self._handle as handle:
            [execution] = handle.store.get_executions_by_id([execution_id])
            # The launcher returns without an exception when inputs cannot be resolved.
            if not execution_lib.is_execution_successful(execution):
                raise _NotExecutedError(_published_reason(execution))
            outputs = execution_lib.get_output_artifacts(handle, execution_id)
        if runner_utils.extract_executor_spec(self._deployment, node_id) is None:
            return "resolved", outputs
        cached = execution.last_known_state == metadata_store_pb2.Execution.CACHED
        return "cached" if cached else "complete", outputs

    def _undo_quietly(self) -> None:
        """Leave no running execution and no partial output; where that fails the next run does."""
        try:
            self._undo()
        except Exception:
            _LOG.exception("recovery is left to the next run")

    def _explain(self, node_id: str, error: BaseException) -> UserError | KeyboardInterrupt:
        if self._interrupts.timed_out:
            return NodeFailed(
                f"{node_id} was stopped: it took longer than node_timeout = "
                f"{self._interrupts.node_timeout:g} s; {self._log} shows where it was"
            )
        if self._interrupts.seen:
            return KeyboardInterrupt()
        chain = list(_chain(error))
        for each in chain:
            if blame := _blame_on_data(each):
                return blame
            if isinstance(each, NotServableError):
                return NotBlessed(f"{node_id}: {each}; see {self._log}")
            if isinstance(each, PromotionFailed):
                return PromotionFailed(f"{node_id}: {each}; see {self._log}")
            if isinstance(each, ConfigError | KubernetesUnreachable):
                return NodeFailed(f"{node_id}: {each}; see {self._log}")
        fullest = self._fullest_disk()
        # SQLite and others do not always say what kept them from writing.
        full = fullest if shutil.disk_usage(fullest).free < _FULL_BYTES else None
        for each in chain:
            if _is_disk_full(each):
                full = getattr(each, "filename", None) or full or fullest
        if full:
            return NodeFailed(
                f"{node_id} failed: no space left on the disk that holds {full}; "
                f"free some and run again; see {self._log}"
            )
        for each in chain:
            if isinstance(each, MemoryError):
                return NodeFailed(
                    f"{node_id} failed: out of memory; free some, or make train.batch_size or "
                    f"transform.image_size smaller, and run again; see {self._log}"
                )
        file = self._metadata_file
        if file and not file.exists():
            return NodeFailed(f"{node_id} failed: {file} is gone; put it back and run again")
        return NodeFailed(f"{node_id} failed: {_describe(error)}; see {self._log}")

    def _fullest_disk(self) -> str:
        root = self._ir.runtime_spec.pipeline_root.field_value.string_value
        places = [place for place in (root, tempfile.gettempdir()) if Path(place).is_dir()]
        return min(places, key=lambda place: shutil.disk_usage(place).free)


class _Run:
    def __init__(
        self, pipeline: Pipeline, workspace: Workspace, run_id: str, node_timeout: float | None
    ) -> None:
        if pipeline.pipeline_info.pipeline_root != str(workspace.artifacts):
            raise ValueError(
                f"the pipeline root is {pipeline.pipeline_info.pipeline_root}, but the workspace "
                f"recovers what is in {workspace.artifacts}"
            )
        self._ir = compiler.Compiler().compile(pipeline)
        runtime_parameter_utils.substitute_runtime_parameter(
            self._ir, {constants.PIPELINE_RUN_ID_PARAMETER_NAME: run_id}
        )
        self._run_id = run_id
        self._runner = NodeRunner(
            self._ir,
            metadata.Metadata(workspace.connection()),
            workspace.recover,
            str(workspace.log_path(run_id)),
            node_timeout,
            workspace.metadata,
        )

    def execute(self) -> RunResult:
        # The compiler sorts nodes topologically.
        waiting = [node.pipeline_node for node in self._ir.nodes]
        progress.report(
            "run_start", run_id=self._run_id, nodes=[node.node_info.id for node in waiting]
        )
        results: list[NodeResult] = []
        started = time.perf_counter()
        state = "failed"
        try:
            with self._runner.interruptible():
                while waiting:
                    results.append(self._runner.run(waiting.pop(0)))
            state = "complete"
        except KeyboardInterrupt:
            state = "interrupted"
            raise
        finally:
            for node in waiting:
                _report_end(node.node_info.id, "skipped", usage.Usage())
            wall_s = round(time.perf_counter() - started, 3)
            progress.report("run_end", run_id=self._run_id, state=state, wall_s=wall_s)
        return RunResult(self._run_id, tuple(results))


def _without_beam_args(spec: Message | None) -> Message | None:
    """Return a specification without arguments of Beam, which would be part of cache keys."""
    if not isinstance(spec, BeamExecutableSpec):
        return spec
    rest = copy.deepcopy(spec)
    rest.ClearField("beam_pipeline_args")
    rest.ClearField("beam_pipeline_args_placeholders")
    return rest


def _operator(spec: Message | None) -> Callable[..., BeamExecutorOperator]:
    """Make the operator of an executor, with the arguments of Beam."""

    def make(executor_spec: Message, platform_config: Message | None) -> BeamExecutorOperator:
        del executor_spec
        return BeamExecutorOperator(spec, platform_config)

    return make


class _NotExecutedError(Exception):
    """A node that the launcher gave up on before its executor."""


def _report_end(node: str, state: str, used: usage.Usage, error: str | None = None) -> None:
    figures = {name: round(value, 3) for name, value in dataclasses.asdict(used).items()}
    progress.report("node_end", node=node, state=state, **figures, error=error)


def _published_reason(execution: metadata_store_pb2.Execution) -> str:
    result = execution_lib.get_execution_result(execution, ignore_parse_errors=True)
    lines = result.result_message.strip().splitlines() if result else []
    if not lines:
        return f"execution {execution.id} did not succeed"
    # A whole traceback, of which the last line is `module.Type: message`.
    return re.sub(r"^[\w.]+\.(?=\w+: )", "", lines[-1])


def _chain(error: BaseException) -> Iterator[BaseException]:
    """`error` and what it was raised from or while handling, latest first."""
    link: BaseException | None = error
    while link is not None:
        yield link
        link = link.__cause__ or link.__context__


def _blame_on_data(error: BaseException) -> DataError | None:
    text = _without_beam(str(error))
    if isinstance(error, BadDataError):
        return data_error(error, text)
    # Beam workers and TensorFlow pass an exception on as text only.
    quoted = re.search(rf"\b{BadDataError.__name__}: (.+)", text)
    return DataError(quoted[1]) if quoted else None


def _without_beam(text: str) -> str:
    return re.sub(r" \[while running '[^']*'\]", "", text)


def _is_disk_full(error: BaseException) -> bool:
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
        return True
    # As TensorFlow's file system and SQLite put it.
    return any(text in str(error) for text in ("No space left on device", "disk is full"))


def _describe(error: BaseException) -> str:
    lines = [
        line
        for line in _without_beam(str(error)).strip().splitlines()
        if line.strip() and not line.startswith(_GRAPH_PREAMBLE)
    ]
    if lines and type(error).__module__.startswith(_OWN):
        return lines[0]  # whole: what to do comes last
    message = textwrap.shorten(lines[0], _LONGEST_MESSAGE, placeholder=" ...") if lines else ""
    if isinstance(error, _NotExecutedError):
        return message
    return f"{type(error).__name__}: {message}" if message else type(error).__name__
