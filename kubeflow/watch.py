"""Supervise runs: terminate those whose pods stay pending, and report failures."""

from __future__ import annotations

import datetime
import time
from collections.abc import Callable

from kubeflow.client import Kubeflow, Run
from kubeflow.commands.connection import Connection
from kubeflow.follow import explain
from kubeflow.workflow import Workflow
from pipeline.errors import KubeflowRefused, KubeflowUnreachable
from pipeline.retraining import notify
from pipeline.settings.retraining import NotifyConfig

# Runs that ended this long before the start are reported too: after a restart, a repeated message
# is better than a missing one.
_BEFORE = datetime.timedelta(minutes=10)
# Kubeflow records the end of a run with a delay.
_LATE = datetime.timedelta(minutes=5)


class Watch:
    """A supervisor of the runs of this project's pipelines. say: prints a line."""

    def __init__(self, kubeflow: Kubeflow, say: Callable[[str], None]) -> None:
        self._kubeflow = kubeflow
        self._say = say
        self._since = _now() - _BEFORE
        self._told: set[str] = set()
        self._foreign: set[str] = set()

    def forever(self, every_s: float) -> None:
        """Check at intervals, also after errors of Kubeflow."""
        while True:
            try:
                self.look()
            except (KubeflowUnreachable, KubeflowRefused) as error:
                self._say(str(error))
            time.sleep(every_s)

    def look(self) -> None:
        """Check once. Raises KubeflowUnreachable and KubeflowRefused."""
        began = _now()
        for run in self._kubeflow.unfinished():
            workflow = self._own(run)
            if workflow is None or run.id in self._told:
                continue
            if overdue := workflow.overdue(time.time()):
                self._end(run, overdue)
        for run in self._kubeflow.ended_since(self._since):
            if run.state in ("SUCCEEDED", "SKIPPED") or run.id in self._told:
                continue
            if (workflow := self._own(run)) is not None:
                self._tell(run, explain(self._kubeflow, run, workflow))
        self._since = max(self._since, began - _LATE)

    def _end(self, run: Run, overdue: str) -> None:
        try:
            self._kubeflow.terminate(run.id)
        except KubeflowRefused as error:
            self._tell(run, f"{overdue}; it could not be ended: {error}")
        else:
            self._tell(run, f"ended, since {overdue}")

    def _own(self, run: Run) -> Workflow | None:
        if run.id in self._foreign:
            return None
        workflow = self._kubeflow.workflow(run.id)
        if workflow is not None and not workflow.ours:
            self._foreign.add(run.id)
            return None
        return workflow

    def _tell(self, run: Run, why: str) -> None:
        self._told.add(run.id)
        text = f"run {run.name!r}: {why}; {run.page}"
        self._say(text)
        if failure := notify.send(NotifyConfig(), "failed", "kubeflow", text):
            self._say(failure)


def run(connection: Connection, every_s: float | None) -> None:
    """Watch the runs, and print reports; None for `every_s` checks once."""
    watch = Watch(Kubeflow(connection), lambda text: print(text, flush=True))
    if every_s is None:
        watch.look()
    else:
        watch.forever(every_s)


def _now() -> datetime.datetime:
    return datetime.datetime.now(datetime.UTC)
