"""The runs and promotions of a workspace."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, TypedDict

from pydantic import ValidationError

from components.model_registry import Registry
from pipeline.errors import ConfigError
from pipeline.report.facts import RECORD, Facts, Promotion, Run, State

if TYPE_CHECKING:
    from pipeline.workspace import Workspace

FACTS = "report.json"
TABLE = "runs.json"
ENDED = (State.PUSHED, State.REJECTED, State.FAILED, State.INTERRUPTED)
LATEST = "latest"


class Row(TypedDict):
    """A run in a table. accuracy: of the candidate, with its 95 % interval, in [0, 1]."""

    run: str
    started: str
    state: str
    pushed: str | None
    version: str | None
    accuracy: float | None
    accuracy_low: float | None
    accuracy_high: float | None
    baseline_accuracy: float | None
    recipe: str
    data: str
    wall_s: float | None
    error: str | None


def runs(workspace: Workspace) -> Iterator[Run]:
    """Read all readable records of runs, newest first."""
    known = _ids(workspace)
    found = (_read(workspace, run_id, known[-1]) for run_id in reversed(known))
    return (run for run in found if run is not None)


def rows(workspace: Workspace) -> list[Row]:
    """Summarize all runs in flat rows, newest first.

    Rows of runs that have ended come from the table of the last report, so that the time does not
    grow with the number of runs.
    """
    known = _ids(workspace)
    ended = _ended(workspace)
    found = []
    for run_id in reversed(known):
        if run_id in ended:
            found.append(ended[run_id])
        elif run := _read(workspace, run_id, known[-1]):
            found.append(summary(run))
    return found


def _ended(workspace: Workspace) -> dict[str, Row]:
    """Read the rows of ended runs, by run id, from the table of the last report."""
    try:
        table = json.loads((workspace.runs / TABLE).read_bytes())
        return {
            row["run"]: row
            for row in table
            if row["state"] in ENDED and set(row) == Row.__annotations__.keys()
        }
    except (OSError, ValueError, TypeError, KeyError, AttributeError):
        return {}


def _read(workspace: Workspace, run_id: str, newest: str) -> Run | None:
    """Read the record of one run; None if it is missing or unreadable."""
    try:
        run = Run.model_validate_json((workspace.run_dir(run_id) / RECORD).read_bytes())
    except (OSError, ValidationError):
        return None
    if run.state is State.RUNNING and not (run_id == newest and workspace.is_busy()):
        return run.model_copy(update={"state": State.CUT_OFF})
    return run


def _ids(workspace: Workspace) -> list[str]:
    """List the ids of all runs, oldest first."""
    return sorted(path.parent.name for path in workspace.runs.glob(f"*/{RECORD}"))


def find(workspace: Workspace, name: str) -> Run:
    """Find the run by its id, the beginning or end of its id, or "latest".

    Raises ConfigError unless exactly one run matches.
    """
    known = _ids(workspace)
    if not known:
        raise ConfigError(f"{workspace.root} has no runs; name another with --workspace")
    if name == LATEST:
        chosen = known[-1:]
    elif name in known:
        chosen = [name]
    else:
        chosen = [each for each in known if each.startswith(name) or each.endswith(name)]
    if len(chosen) != 1:
        which = f"could be any of {', '.join(chosen[-5:])}" if chosen else "is not a run"
        raise ConfigError(
            f"{name} {which} of {workspace.root}; there are {len(known)}, which `perennial runs` "
            f"lists: the latest is {known[-1]}"
        )
    run = _read(workspace, chosen[0], known[-1])
    if run is None:
        raise ConfigError(f"{workspace.run_dir(chosen[0]) / RECORD} cannot be read")
    return run


def find_finished(workspace: Workspace) -> Run:
    """Find the latest run with a verdict, pushed or not. Raises ConfigError without one."""
    find(workspace, LATEST)
    for run in runs(workspace):
        if run.state in (State.PUSHED, State.REJECTED):
            return run
    raise ConfigError(
        f"{workspace.root} has no run that finished; `perennial runs` lists how they ended"
    )


def read_facts(workspace: Workspace, run: Run) -> Facts:
    """Read the facts of a run's report without pictures, or its record if it has no report."""
    try:
        content = json.loads((workspace.run_dir(run.run_id) / FACTS).read_bytes())
        return Facts.model_validate({**content, "run": run})
    except (OSError, ValueError, TypeError, RecursionError):
        return Facts(run=run)


def summary(run: Run) -> Row:
    """Summarize a run in one flat row."""
    found = run.accuracy
    return {
        "run": run.run_id,
        "started": run.started,
        "state": run.state.value,
        "pushed": run.pushed,
        "version": run.version,
        "accuracy": found.value if found else None,
        "accuracy_low": found.low if found else None,
        "accuracy_high": found.high if found else None,
        "baseline_accuracy": run.baseline_accuracy,
        "recipe": run.recipe,
        "data": run.data.source,
        "wall_s": run.wall_s,
        "error": run.error,
    }


def promotions(workspace: Workspace) -> list[Promotion]:
    """List the promotions and rollbacks in the workspace, newest first.

    An interrupted promotion is undone or finished first.
    """

    def promotion(entry: dict[str, Any]) -> Promotion:
        return Promotion(
            at=entry["at"],
            action=entry["action"],
            labels=entry["to"]["labels"],
            result=entry["result"],
        )

    registry = Registry(str(workspace.serving / "any"))
    registry.recover()
    # Pydantic's ValidationError is a ValueError.
    return [promotion(entry) for entry in reversed(registry.changes(promotion))]
