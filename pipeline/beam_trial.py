"""A small job that checks that Beam's workers have this version and reach the same files."""

from __future__ import annotations

import re
import shutil
import uuid
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import apache_beam as beam

from components import storage
from components.attempts import Attempt
from components.errors import JobError
from components.jobs import Job, Worker
from pipeline.fingerprint import fingerprint

# The code of nodes on workers, with all that it imports.
_MODULES = (
    *("components.image_example_gen.component", "components.image_statistics_gen.component"),
    *("components.image_transform.component", "components.image_evaluator.component"),
    "trainer_module.transform",
)
_FILE = "written-by-a-worker"
_LIMIT_S = 120.0  # workers import TensorFlow first


class TrialError(Exception):
    """Workers that cannot do the work of the nodes: the message is one line."""


class _Look(Worker[str]):
    """A job that reads a file, writes one, and reports the version of the code."""

    def work(self, task: str, attempt: Attempt) -> dict[str, Any]:
        storage.write_bytes(attempt.path(_FILE), storage.read_bytes(task))
        return {"code": code()}


def code() -> str:
    """Digest of what a worker runs, as this process has it."""
    return fingerprint(*_MODULES)


def run(pipeline_args: Sequence[str], workspace: Path) -> str:
    """Run the job with a folder in `workspace`. Returns what was found. Raises TrialError."""
    workspace.mkdir(parents=True, exist_ok=True)
    folder = workspace / f"beam-{uuid.uuid4().hex[:8]}"
    folder.mkdir()
    question, text = folder / "written-here", uuid.uuid4().hex
    question.write_text(text, encoding="utf-8")
    job = Job("trial", "tasks", limit_s=_LIMIT_S)
    pipeline = beam.Pipeline(argv=list(pipeline_args))
    try:
        [outcome] = job.map(pipeline, _Look(), [str(question)], str(folder), 1)
        answer = (folder / _FILE).read_text(encoding="utf-8")
    except (JobError, OSError, RuntimeError) as error:
        raise TrialError(_explained(str(error), workspace)) from error
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    if answer != text:
        raise TrialError(f"a worker's file in {workspace} does not hold what it wrote")
    if outcome["code"] != code():
        raise TrialError(
            "the workers have another version of this project; start them anew, from the same "
            "image or checkout"
        )
    return "a worker has this version, and reads and writes the workspace"


def _explained(text: str, workspace: Path) -> str:
    if module := re.search(r"No module named '([\w.]+)'", text):
        return (
            f"the workers cannot import {module[1]}; start them with `perennial worker`, from the "
            "image or checkout that this is"
        )
    if str(workspace) in text and re.search(r"NotFound|No such file|is not there", text):
        return (
            f"a worker does not find what is written to {workspace} here; put the workspace on "
            "storage that all workers mount under the same path, and name it with --workspace"
        )
    lines = text.strip().splitlines()
    return lines[-1] if lines else "the job failed without a reason"
