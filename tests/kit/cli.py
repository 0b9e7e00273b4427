"""`perennial` as tests call it: in this process, or in one of its own."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Mapping
from unittest import mock

from typer.testing import CliRunner, Result

from pipeline import cli
from pipeline.commands import help_texts
from tests import REPO

# Of `[evaluate]`: for tests of models that were hardly trained, and are to be blessed all the same.
UNGATED: Mapping[str, float] = {
    "majority_significance": 1,
    "zero_recall_images": 0,
    "max_log_loss_ratio": 0,
    "max_ece": 1,
}


def perennial(*arguments: object) -> Result:
    """Run a command in this process. Its exit code must be one that its --help lists."""
    words = list(map(str, arguments))
    with mock.patch.dict(os.environ):  # which a process of its own would set up for itself only
        done = CliRunner().invoke(cli.app, words)
    name = next((n for n in (" ".join(words[:2]), *words[:1]) if n in help_texts.CODES), None)
    assert name is None or done.exit_code in help_texts.CODES[name], f"{name}: {done.exit_code}"
    return done


def command(*arguments: object) -> list[str]:
    """Return the arguments of a process in `REPO` that runs a command."""
    return [sys.executable, "-m", "pipeline.cli", *map(str, arguments)]


def process(*arguments: object) -> subprocess.CompletedProcess[str]:
    """Run a command in a process of its own, whatever it does with the standard streams."""
    return subprocess.run(command(*arguments), cwd=REPO, capture_output=True, text=True)


def sets(settings: Mapping[str, object]) -> list[str]:
    """Return settings as options of a command."""
    return [part for key, value in settings.items() for part in ("--set", f"{key}={value}")]


def ungated() -> list[str]:
    """`UNGATED` as options of a command."""
    return sets({f"evaluate.{name}": value for name, value in UNGATED.items()})
