"""A workspace in which the toy pipeline runs."""

from __future__ import annotations

import dataclasses
import os
from pathlib import Path

from pipeline import local_runner
from pipeline.workspace import Workspace
from tests.kit import toy_pipeline

NODES = ["First", "Second", "Third"]


@dataclasses.dataclass
class Toy:
    """A workspace and what controls the nodes that run in it."""

    workspace: Workspace
    control: Path
    runs: int = 0

    def run(self, setting: str = "", node_timeout: float | None = None) -> local_runner.RunResult:
        self.runs += 1
        with self.workspace.lock():
            pipeline = toy_pipeline.create(self.workspace, self.control, setting)
            run_id = f"run-{self.runs}-{os.getpid()}"
            return local_runner.run(pipeline, self.workspace, run_id, node_timeout)

    def tell(self, node: str, action: str | None) -> None:
        toy_pipeline.tell(self.control, node, action)

    def executed(self) -> list[str]:
        """Return the nodes whose executors started since the last call."""
        record = self.control / "executed"
        nodes = record.read_text().split() if record.exists() else []
        record.unlink(missing_ok=True)
        return nodes

    def states(self) -> list[str]:
        return toy_pipeline.states(self.workspace.connection())

    def outputs(self) -> set[str]:
        """Ids of the executions that have an output or a temporary folder."""
        patterns = ("*/text/*", "*/.system/executor_execution/*/.temp")
        found = [path for each in patterns for path in self.workspace.artifacts.glob(each)]
        return {path.parent.name if path.name == ".temp" else path.name for path in found}


def node_states(result: local_runner.RunResult) -> list[str]:
    return [node.state for node in result.nodes]
