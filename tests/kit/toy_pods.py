"""The toy pipeline as pods that share a metadata file."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any, NamedTuple

from tfx.dsl.compiler import compiler

from kubeflow import metadata, plan
from kubeflow.results import metrics_of
from pipeline.workspace import Workspace
from tests import REPO
from tests.kit import toy_pipeline


class Done(NamedTuple):
    """A pod that has ended: exit code, JSON lines and what it was to tell Kubeflow."""

    code: int
    events: list[dict[str, Any]]
    stderr: str
    output: Path

    def of(self, event: str) -> list[dict[str, Any]]:
        return [each for each in self.events if each["event"] == event]

    @property
    def metrics(self) -> dict[str, dict[str, float]]:
        """By artifact."""
        written = json.loads(self.output.read_text())["artifacts"]
        return {name: each["artifacts"][0]["metadata"] for name, each in written.items()}


class Toy:
    """The toy pipeline as pods that share a metadata file."""

    def __init__(self, folder: Path) -> None:
        self.workspace = Workspace(folder / "workspace")
        self.control = folder / "control"
        self.control.mkdir()
        self._output = folder / "output.json"
        self._pods = 0
        self.env = {
            "PERENNIAL_METADATA_KIND": "sqlite",
            "PERENNIAL_METADATA_PATH": str(folder / "metadata.sqlite"),
        }
        self.pipeline = toy_pipeline.create(self.workspace, self.control)

    def pod(self, *nodes: str, run: str = "run-1", folder: str | None = None) -> Done:
        """Run a pod. folder: of the outputs of the run in Kubeflow, where not named as the run."""
        self._output.unlink(missing_ok=True)
        text = plan.encode(compiler.Compiler().compile(self.pipeline))
        places = f"minio://mlpipeline/v2/artifacts/toy/{folder or run}/{nodes[0].lower()}/salt"
        # With logs, which Kubeflow's launcher adds and numbers by the attempt.
        self._pods += 1
        names = [f"executor-logs-{self._pods}", *map(metrics_of, nodes)]
        outputs = {
            "artifacts": {
                name: {"artifacts": [{"name": name, "uri": f"{places}/{name}"}]} for name in names
            },
            "outputFile": str(self._output),
        }
        command = [sys.executable, "-m", "kubeflow.entrypoint", "nodes", "--run", ",".join(nodes)]
        command += ["--plan", text, "--run-id", run]
        command += ["--executor-input", json.dumps({"outputs": outputs})]
        env = {**self.env, "PATH": "/usr/bin:/bin", "PYTHONPATH": str(REPO)}
        done = subprocess.run(command, cwd=REPO, env=env, capture_output=True, text=True)
        events = [json.loads(line) for line in done.stdout.splitlines()]
        return Done(done.returncode, events, done.stderr, self._output)

    def tell(self, node: str, action: str | None) -> None:
        toy_pipeline.tell(self.control, node, action)

    def states(self) -> list[str]:
        return toy_pipeline.states(metadata.connection_config(self.env))

    def outputs(self, node: str) -> list[Path]:
        """Folders that hold output or temporary files of the node's executions."""
        root = self.workspace.artifacts / node
        return [*root.glob("text/*"), *root.glob(".system/executor_execution/*")]
