"""`perennial run` in a process of its own, and settings for small runs."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any, NamedTuple

from tests import REPO
from tests.kit.cli import command, ungated

# Enough to go through every node, not enough to learn much.
SMALL = (
    *("--epochs", "1", "--set", "evaluate.min_accuracy=0.01", "--set", "train.batch_size=16"),
    *("--set", "data.min_eval=0"),
    *ungated(),
)
TINY = {
    "transform.image_size": 16,
    "train.hyperparameters.patch_size": 4,
    "train.hyperparameters.depth": 1,
    "train.hyperparameters.head_dims": [32],
}


class Run(NamedTuple):
    """A finished `perennial run --log-format json`."""

    code: int
    events: list[dict[str, Any]]
    stderr: str

    def states(self, state: str) -> set[str]:
        """Nodes that ended in `state`."""
        ended = [event for event in self.events if event["event"] == "node_end"]
        return {e["node"] for e in ended if e["state"] == state}

    @property
    def summary(self) -> dict[str, Any]:
        return next(event for event in self.events if event["event"] == "summary")


def run_command(*arguments: str) -> list[str]:
    return command("run", "--log-format", "json", *arguments)


def perennial_run(*arguments: str, tree: Path = REPO) -> Run:
    done = subprocess.run(run_command(*arguments), cwd=tree, capture_output=True, text=True)
    events = [json.loads(line) for line in done.stdout.splitlines()]
    return Run(done.returncode, events, done.stderr)


DATA_NODES = (
    "ImageExampleGen",
    "StatisticsGen",
    "PreviousStatistics",
    "SchemaGen",
    "ExampleValidator",
    "Transform",
)
