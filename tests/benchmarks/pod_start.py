"""What a pod costs before and beside its node's own work: `python -m tests.benchmarks.pod_start`.

CPU seconds of whole processes, the least of several: importing TensorFlow, a pod that finds its
node done by an earlier attempt, and the imports of such a pod if nothing were held back.

On 2 cores that other work kept busy (load 4 to 5): 6.20 s, 6.50 s (1.05 x), 12.74 s (2.05 x).
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from tests import REPO

REPEATS = 3
TENSORFLOW = ["-c", "import tensorflow"]
EVERYTHING = ["-c", "import kubeflow.attempts, pipeline.local_runner"]


def main() -> None:
    """Print one line for each, and its ratio to TensorFlow's."""
    base = _least(TENSORFLOW)
    print(f"import tensorflow       {base:5.2f} s")
    with tempfile.TemporaryDirectory() as folder:
        for name, command in (
            ("pod without its work", _pod(Path(folder))),
            ("imports not held back", EVERYTHING),
        ):
            seconds = _least(command)
            print(f"{name:<22}  {seconds:5.2f} s  {seconds / base:.2f} x")


def _pod(folder: Path) -> list[str]:
    from tfx.dsl.compiler import compiler

    from kubeflow import plan
    from pipeline.workspace import Workspace
    from tests.kit import toy_pipeline

    metrics = "first_metrics"
    dag = toy_pipeline.create(Workspace(folder / "workspace"), folder)
    outputs = {
        "artifacts": {
            metrics: {"artifacts": [{"name": metrics, "uri": f"s3://b/r/t/s/{metrics}"}]}
        },
        "outputFile": str(folder / "output.json"),
    }
    os.environ["PERENNIAL_METADATA_KIND"] = "sqlite"
    os.environ["PERENNIAL_METADATA_PATH"] = str(folder / "metadata.sqlite")
    command = ["-m", "kubeflow.entrypoint", "nodes", "--run", "First", "--run-id", "run"]
    command += ["--plan", plan.encode(compiler.Compiler().compile(dag))]
    return [*command, "--executor-input", json.dumps({"outputs": outputs})]


def _least(arguments: Sequence[str]) -> float:
    return min(_cpu_seconds(arguments) for _ in range(REPEATS))


def _cpu_seconds(arguments: Sequence[str]) -> float:
    process = subprocess.Popen(
        [sys.executable, *arguments],
        cwd=REPO,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise RuntimeError(f"{arguments} exited with {process.returncode}")
    return usage.ru_utime + usage.ru_stime


if __name__ == "__main__":
    main()
