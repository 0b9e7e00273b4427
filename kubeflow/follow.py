"""Follow a run to its end, and report the progress of its pods."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Mapping, Sequence
from typing import Any

from components import progress
from kubeflow.client import Kubeflow, Run
from kubeflow.workflow import PENDING, SUCCEEDED, Pod, Workflow, waits_for
from pipeline.errors import KubeflowUnreachable, NodeFailed

LOOK_EVERY_S = 10.0
# Usual reasons before a pod starts, reported only if they last.
_ON_ITS_WAY = ("", "PodInitializing", "ContainerCreating")
_ON_ITS_WAY_S = 120.0
# Kubeflow may be away for this long, for example during an update.
_PATIENCE_S = 600.0
_FORWARDED = ("node_start", "node_end", "epoch", "note")
_STAMPS = ("ts", "timestamp", "event")
_UNKNOWN = "its page may show why"
_SEE_LOG = "; see the lines above"


@dataclasses.dataclass(frozen=True)
class Ending:
    """The end of a run. outcome: results of the model from its pods; see kubeflow/results.py."""

    run: Run
    wall_s: float
    outcome: Mapping[str, Any]


@dataclasses.dataclass
class _Seen:
    """The reported state of a pod. events: of its log. waits: reported kinds of reasons."""

    events: list[dict[str, Any]] = dataclasses.field(default_factory=list)
    waits: set[str] = dataclasses.field(default_factory=set)
    started: bool = False
    over: bool = False


def follow(
    kubeflow: Kubeflow,
    run_id: str,
    nodes: Sequence[str],
) -> Ending:
    """Report the progress of a run as events (components/progress.py), until it has ended.

    If a pod is pending longer than `kubeflow.start_timeout`, the run is terminated.

    Args:
      kubeflow: the installation.
      run_id: Kubeflow's id of the run.
      nodes: ids of the DAG's nodes in order.

    Raises NodeFailed with the reason if the run failed or was ended, and KubeflowUnreachable
    after ten minutes without an answer.
    """
    progress.report("run_start", run_id=run_id, nodes=list(nodes))
    started = time.time()
    follower = _Follower(kubeflow, run_id)
    while True:
        run = follower.look()
        if run.over:
            break
        time.sleep(LOOK_EVERY_S)
    wall_s = time.time() - min(started, run.created)
    state = "complete" if run.state == "SUCCEEDED" else run.state.lower()
    progress.report("run_end", run_id=run_id, state=state, wall_s=round(wall_s, 3))
    if run.state != "SUCCEEDED":
        raise NodeFailed(f"run {run.name!r} {state}: {follower.reason}; {run.page}")
    return Ending(run, wall_s, follower.outcome)


def explain(kubeflow: Kubeflow, run: Run, workflow: Workflow | None) -> str:
    """Return the reason that a finished run did not succeed, as a clause for a message."""
    if workflow is None:
        return _UNKNOWN
    failed = [pod for pod in workflow.pods if pod.over and pod.phase != SUCCEEDED]
    # Pods that Argo stopped are not the reason.
    if own := [pod for pod in failed if not _stopped(pod)]:
        pod = max(own, key=lambda pod: pod.ended)
        events = [] if pod.driver else kubeflow.log(run.id, workflow.namespace, pod.name)
        return f"{pod.task}: {_why(pod, events)}"
    if not failed and workflow.deadline != 0:
        return workflow.message or _UNKNOWN
    during = f" during {failed[-1].task}" if failed else ""
    if workflow.deadline == 0:  # set by Kubeflow when a run is terminated
        return f"it was terminated{during}"
    limit = "" if workflow.deadline is None else f" of {workflow.deadline} s"
    return f"it reached kubeflow.run_timeout{limit}{during}"


class _Follower:
    def __init__(self, kubeflow: Kubeflow, run_id: str) -> None:
        self._kubeflow = kubeflow
        self._run_id = run_id
        self._seen: dict[str, _Seen] = {}
        self._answered = time.monotonic()
        self.outcome: dict[str, Any] = {}
        self.reason = ""

    def look(self) -> Run:
        """Report news, and terminate a run that is pending too long."""
        while True:
            try:
                run = self._kubeflow.look(self._run_id)
                workflow = self._kubeflow.workflow(self._run_id)
                if workflow is not None:
                    self._report(workflow)
                if run.over:
                    self.reason = self.reason or explain(self._kubeflow, run, workflow)
                elif workflow is not None and not self.reason:
                    self._end_overdue(workflow)
            except KubeflowUnreachable as error:
                if time.monotonic() - self._answered > _PATIENCE_S:
                    raise
                progress.report("note", text=f"{error}; looking again")
                time.sleep(LOOK_EVERY_S)
            else:
                self._answered = time.monotonic()
                return run

    def _end_overdue(self, workflow: Workflow) -> None:
        if overdue := workflow.overdue(time.time()):
            self.reason = f"ended, since {overdue}"
            progress.report("note", text=f"{overdue}; ending the run")
            self._kubeflow.terminate(self._run_id)

    def _report(self, workflow: Workflow) -> None:
        for pod in workflow.pods:
            seen = self._seen.get(pod.name)
            if seen is None:
                seen = self._seen[pod.name] = _Seen()
                if pod.attempt:
                    progress.report("note", text=_retried(workflow, pod))
            if pod.phase == PENDING:
                self._report_wait(pod, seen)
            elif not seen.over and not pod.driver:
                self._report_log(workflow, pod, seen)
            seen.over = pod.over

    def _report_wait(self, pod: Pod, seen: _Seen) -> None:
        waited = time.time() - pod.started
        if pod.message in _ON_ITS_WAY and waited < _ON_ITS_WAY_S:
            return
        # The details of a reason change all the time, such as the number of machines.
        kind = pod.message.partition(":")[0]
        if kind not in seen.waits:
            seen.waits.add(kind)
            progress.report("note", text=f"{pod.task} waits: {waits_for(pod)}")

    def _report_log(self, workflow: Workflow, pod: Pod, seen: _Seen) -> None:
        events = self._kubeflow.log(self._run_id, workflow.namespace, pod.name)
        if events and events[: len(seen.events)] != seen.events:
            # Argo recreates a deleted pod under its name (TRANSIENT_ERROR_PATTERN).
            why = f": {pod.message}" if pod.message else ""
            progress.report("note", text=f"{pod.task} is tried again, in a new pod{why}")
            seen.events = []
        for event in events[len(seen.events) :]:
            self._forward(event)
        seen.events = events or seen.events
        if seen.events:
            return
        # Without a log, report the state in Argo, which is that of all nodes of the pod.
        if pod.over:
            why = "" if pod.phase == SUCCEEDED or not pod.message else f": {pod.message}"
            seconds = round(max(pod.ended - pod.started, 0.0))
            state = "complete" if pod.phase == SUCCEEDED else "failed"
            text = f"{pod.task} {state} after {seconds} s{why}"
            progress.report("note", text=text)
        elif not seen.started:
            progress.report("note", text=f"{pod.task} started")
            seen.started = True

    def _forward(self, event: Mapping[str, Any]) -> None:
        fields = {key: value for key, value in event.items() if key not in _STAMPS}
        if event["event"] == "outcome":
            self.outcome |= fields
        elif event["event"] in _FORWARDED:
            progress.report(event["event"], **fields)


def _retried(workflow: Workflow, pod: Pod) -> str:
    before = [
        other
        for other in workflow.pods
        if (other.task, other.driver, other.attempt) == (pod.task, pod.driver, pod.attempt - 1)
    ]
    why = f": {before[0].message}" if before and before[0].message else ""
    return f"{pod.task} is tried again, pod {pod.attempt + 1}{why}"


def _why(pod: Pod, events: Sequence[Mapping[str, Any]]) -> str:
    told = [event["message"] for event in events if event["event"] == "error"]
    return (told[-1] if told else pod.message or pod.phase).removesuffix(_SEE_LOG)


def _stopped(pod: Pod) -> bool:
    return pod.message.startswith(("Step exceeded its deadline", "workflow shutdown"))
