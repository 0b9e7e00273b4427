"""Cost of a run, of the index, of `runs` and of gc in a workspace with many runs behind it.

`python -m tests.benchmarks.many_runs [RUNS ...]`: runs the digits pipeline until all is cached, and
copies the workspace, one for each of RUNS, into which as many copies of its last run are put (its
folder, and its executions in ML Metadata). Copies differ from real runs only in that they were
quick to make. Then the same is measured in all workspaces, several times.
"""

from __future__ import annotations

import json
import os
import resource
import shutil
import sqlite3
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path

from components.image_example_gen.sources import digits
from pipeline.report import write
from pipeline.report.facts import RECORD
from pipeline.workspace import Workspace
from tests.kit.cli import sets
from tests.kit.runs import SMALL, TINY, run_command

RUNS = (0, 2000)
REPEATS = 3


def copy_last_run(workspace: Workspace, count: int) -> None:
    """Add `count` runs that did what the last one did, one a day, with names that sort before it.

    By SQL: ML Metadata takes ten milliseconds for each execution.
    """
    with sqlite3.connect(workspace.metadata) as database:
        last, name = database.execute(
            "SELECT Context.id, Context.name FROM Context JOIN Type ON Type.id = type_id "
            "WHERE Type.name = 'pipeline_run' ORDER BY Context.id DESC LIMIT 1"
        ).fetchone()
        run = f"SELECT execution_id FROM Association WHERE context_id = {last}"
        for number in range(count):
            made = {"create_time_since_epoch": int(time.time() - (count - number) * 86_400) * 1000}
            context = {"name": _name(number), **made}
            new = _copy(database, "Context", f"id = {last}", context)[last]
            executions = _copy(database, "Execution", f"id IN ({run})", {"name": None})
            _copy(
                database,
                "ExecutionProperty",
                f"execution_id IN ({run})",
                {},
                execution_id=executions,
            )
            _copy(
                database,
                "Association",
                f"execution_id IN ({run})",
                {},
                execution_id=executions,
                context_id={last: new},
            )
            events = _copy(
                database, "Event", f"execution_id IN ({run})", {}, execution_id=executions
            )
            at = f"context_id = {last}"
            _copy(database, "Attribution", at, {}, context_id={last: new})
            _copy(database, "ParentContext", at, {}, context_id={last: new})
            paths = f"event_id IN (SELECT id FROM Event WHERE execution_id IN ({run}))"
            _copy(database, "EventPath", paths, {}, event_id=events)
    folder = workspace.run_dir(name)
    record = json.loads((folder / RECORD).read_text(encoding="utf-8"))
    for number in range(count):
        shutil.copytree(folder, workspace.run_dir(_name(number)), copy_function=os.link)
        (workspace.run_dir(_name(number)) / RECORD).unlink()
        (workspace.run_dir(_name(number)) / RECORD).write_text(
            json.dumps(record | {"run_id": _name(number)}), encoding="utf-8"
        )


def _name(number: int) -> str:
    return f"20000101-{number:06}-copy"


def _copy(
    database: sqlite3.Connection,
    table: str,
    where: str,
    values: Mapping[str, object],
    **ids: Mapping[int, int],
) -> dict[int, int]:
    """Copy rows with other `values`, and with the new ids of what they refer to.

    Returns the new id of each, by the old one.
    """
    about = database.execute(f"PRAGMA table_info({table})").fetchall()
    columns = [column[1] for column in about]
    made = {}
    for row in database.execute(f"SELECT * FROM {table} WHERE {where}").fetchall():
        found = dict(zip(columns, row, strict=True))
        old = found.get("id", 0)
        for column, known in ids.items():
            found[column] = known.get(found[column], found[column])
        found |= values
        if "id" in found:
            del found["id"]
        marks = ", ".join("?" * len(found))
        names = ", ".join(f"`{column}`" for column in found)
        cursor = database.execute(
            f"INSERT INTO {table} ({names}) VALUES ({marks})", list(found.values())
        )
        made[old] = cursor.lastrowid or 0
    return made


def main() -> None:
    """Print seconds of CPU of a cached run, the index, `runs` and gc, per number of runs."""
    counts = [int(text) for text in sys.argv[1:]] or RUNS
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        digits.write_folder(folder / "digits")
        for label in "014":
            (folder / "data" / label).mkdir(parents=True)
            for file in sorted((folder / "digits" / label).iterdir())[:40]:
                shutil.copy(file, folder / "data" / label)
        places = [Workspace(folder / f"w{count}") for count in counts]
        first, *others = places

        def command(workspace: Workspace) -> list[str]:
            at = ("--workspace", str(workspace.root), "--data", str(folder / "data"))
            return run_command(*at, *SMALL, *sets(TINY))

        for _ in range(3):  # the first trains, and each of the next two has another baseline
            _cpu_seconds(command(first))
        for each in others:
            shutil.copytree(first.root, each.root)
        for count, each in zip(counts, places, strict=True):
            copy_last_run(Workspace.open(each.root), count)
        measures: dict[str, Callable[[Workspace], float]] = {
            "cached run": lambda place: _cpu_seconds(command(place)),
            "index": lambda place: _seconds(lambda: write.write_index(place)),
            "runs": lambda place: _cpu_seconds(_command("runs", place)),
            "gc": lambda place: _cpu_seconds(_command("gc", place)),
        }
        for each in places:
            _cpu_seconds(command(each))  # the table of runs gets the copied ones
        # In turns, so that what else the machine does is the same for all.
        costs = {
            label: [[measure(each) for each in places] for _ in range(REPEATS)]
            for label, measure in measures.items()
        }
        for label, turns in costs.items():
            for count, *seconds in zip(counts, *turns, strict=True):
                pairs = zip(seconds, turns, strict=True)
                ratio = statistics.median(each / turn[0] for each, turn in pairs)
                spent = statistics.median(seconds)
                print(f"{label:<11}{count:>6} runs behind it: {spent:7.3f} s, {ratio:.2f}")


def _command(name: str, workspace: Workspace) -> list[str]:
    return [sys.executable, "-m", "pipeline.cli", name, "--workspace", str(workspace.root)]


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
