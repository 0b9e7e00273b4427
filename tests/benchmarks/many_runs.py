"""Cost of a run, of the index and of `runs` in a workspace with many runs behind it.

`python -m tests.benchmarks.many_runs [RUNS ...]`: runs the digits pipeline once, then again with
everything cached, and puts as many copies of that cached run into the workspace (its folder, and
its executions in ML Metadata) as RUNS says, before the next one is measured. Copies differ from
real runs only in that they were quick to make.
"""

from __future__ import annotations

import json
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import ml_metadata
from ml_metadata.proto import metadata_store_pb2

from components.image_example_gen.sources import digits
from pipeline.report import history, write
from pipeline.report.facts import RECORD
from pipeline.workspace import Workspace
from tests.cli import sets
from tests.test_e2e import SMALL, TINY, run_command

RUNS = (0, 200, 2000)
REPEATS = 3


def copy_last_run(workspace: Workspace, count: int, offset: int) -> None:
    """Add `count` runs that did what the last one did, named so that they sort before it."""
    store = ml_metadata.MetadataStore(workspace.connection())
    contexts = store.get_contexts_by_type("pipeline_run")
    last = max(contexts, key=lambda context: context.id)
    executions = store.get_executions_by_context(last.id)
    events = {
        execution.id: store.get_events_by_execution_ids([execution.id]) for execution in executions
    }
    shared = {
        execution.id: [
            context
            for context in store.get_contexts_by_execution(execution.id)
            if context.id != last.id
        ]
        for execution in executions
    }
    artifacts = {
        artifact.id: artifact
        for artifact in store.get_artifacts_by_id(
            sorted({event.artifact_id for found in events.values() for event in found})
        )
    }
    folder = workspace.run_dir(last.name)
    record = json.loads((folder / RECORD).read_text(encoding="utf-8"))
    for number in range(offset, offset + count):
        name = f"20000101-{number:06}-copy"
        run = metadata_store_pb2.Context(type_id=last.type_id, name=name)
        for execution in executions:
            copy = metadata_store_pb2.Execution()
            copy.CopyFrom(execution)
            copy.ClearField("id")
            copy.ClearField("name")
            store.put_execution(
                copy,
                [
                    (artifacts[event.artifact_id], _without_ids(event))
                    for event in events[execution.id]
                ],
                [*shared[execution.id], run],
                reuse_context_if_already_exist=True,
            )
        (workspace.runs / name).mkdir()
        shutil.copytree(folder, workspace.runs / name, dirs_exist_ok=True)
        (workspace.runs / name / RECORD).write_text(
            json.dumps(record | {"run_id": name}), encoding="utf-8"
        )


def _without_ids(event: metadata_store_pb2.Event) -> metadata_store_pb2.Event:
    copy = metadata_store_pb2.Event()
    copy.CopyFrom(event)
    copy.ClearField("artifact_id")
    copy.ClearField("execution_id")
    return copy


def main() -> None:
    """Print seconds of a cached run (CPU), of the index and of `runs`, per number of runs."""
    counts = [int(text) for text in sys.argv[1:]] or RUNS
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        digits.write_folder(folder / "digits")
        for label in "014":
            (folder / "data" / label).mkdir(parents=True)
            for file in sorted((folder / "digits" / label).iterdir())[:40]:
                shutil.copy(file, folder / "data" / label)
        workspace = Workspace(folder / "w")
        places = ("--workspace", str(workspace.root), "--data", str(folder / "data"))
        command = run_command(*places, *SMALL, *sets(TINY))
        for _ in range(3):  # the first trains, and each of the next two has another baseline
            _cpu_seconds(command)
        made = 0
        base: tuple[float, ...] = ()
        for count in counts:
            copy_last_run(workspace, count - made, made)
            made = max(made, count)
            cost = (
                statistics.median(_cpu_seconds(command) for _ in range(REPEATS)),
                _seconds(lambda: write.write_index(workspace)),
                _seconds(lambda: history.runs(workspace)),
            )
            base = base or cost
            pairs = zip(cost, base, strict=True)
            ratios = "  ".join(f"{new:.2f} s ({new / old:.2f})" for new, old in pairs)
            print(f"{count:>5} runs behind it: cached run, index, runs: {ratios}", flush=True)


def _cpu_seconds(command: list[str]) -> float:
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run(command, check=True, capture_output=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def _seconds(function: Callable[[], object]) -> float:
    started = time.process_time()
    function()
    return time.process_time() - started


if __name__ == "__main__":
    main()
