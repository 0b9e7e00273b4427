"""One run: from a configuration to a DAG, its execution, its record and its report."""

from __future__ import annotations

import contextlib
import datetime
import json
import logging
import os
import secrets
import shlex
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

from components import progress, storage
from components.image_example_gen import source_name
from components.redaction import redact_all
from components.wording import counted
from pipeline import preflight, tracking
from pipeline.config import check_paths, dump_toml, items
from pipeline.console import Console
from pipeline.errors import DataError, NotBlessed
from pipeline.noise import redirect_output
from pipeline.preflight import PreflightContext
from pipeline.recipe_choice import AUTO
from pipeline.report import code_version, history
from pipeline.report.facts import RECORD, State
from pipeline.settings import Config
from pipeline.workspace import Workspace

if TYPE_CHECKING:
    from components.image_evaluator.figures import Summary
    from pipeline.execution import Outcome


_LOG = logging.getLogger("perennial.run")

_RUN_ID = "%Y%m%d-%H%M%S"  # how the name of a run begins: UTC
_PASSED_CHECKS = 12  # lines of a summary


def run(config: Config, origins: Mapping[str, str], log_format: str) -> None:
    """Run the DAG once in the configured workspace and show the outcome.

    Args:
      config: all settings.
      origins: the layer that set each of them, as `config.load` returns it.
      log_format: "rich", "plain" or "json".

    Returns where a model is pushed or was already. Raises UserError otherwise.
    """
    check_paths(config)
    workspace = Workspace(config.workspace)
    with workspace.lock():
        run_locked(config, origins, log_format, workspace, new_run_id(workspace))


def run_locked(
    config: Config,
    origins: Mapping[str, str],
    log_format: str,
    workspace: Workspace,
    run_id: str,
    command: str = "run",
    stream: TextIO | None = None,
) -> dict[str, Any]:
    """Run the DAG in a workspace that is locked already. Returns the outcome as in run.json.

    command: the one of `perennial` that this is for. stream: for the progress; None: the standard
    output of the process.
    """
    with (
        redirect_output(workspace.log_path(run_id)) as terminal,
        Console.create(log_format, stream or terminal.stdout) as console,
    ):
        # TensorFlow takes seconds to load.
        progress.report("note", text=f"run {run_id}: checking settings, data and machine")
        folder = workspace.run_dir(run_id)
        folder.mkdir(parents=True)
        (folder / "config.toml").write_text(dump_toml(config, origins), encoding="utf-8")
        if (origin := origins["train.recipe"]).startswith(AUTO):
            text = f"recipe {config.train.recipe}, chosen by {origin}"
            progress.report("note", text=text)
        record = beginning(config, origins, run_id)
        _write(folder, record)
        started = time.monotonic()
        try:
            connection = workspace.connection() if workspace.metadata.exists() else None
            place = PreflightContext(config, origins, connection, scheduled=command == "retrain")
            preflight.check(place, record["preflight"])
            # It imports TFX, which takes seconds.
            from pipeline import execution

            outcome = execution.execute(config, workspace, run_id)
        except BaseException as error:
            record |= {"nodes": console.nodes(), "wall_s": round(time.monotonic() - started, 3)}
            try:
                _write(folder, record | _failure(error))
            except OSError as lost:  # on a full disk, whose being full is what the run failed of
                progress.report("note", text=f"{folder / RECORD} could not be written: {lost}")
            # An interrupt ends the process at once.
            if isinstance(error, Exception):
                if page := _report(workspace, run_id):
                    progress.report("note", text=f"report: {page}")
                tracking.log(workspace, run_id)
            raise
        summary = execution.describe(outcome, config)
        _write(folder, record | summary | _outcome(outcome))
        page = _report(workspace, run_id)
        tracking.log(workspace, run_id)
        rows = _rows(outcome, workspace, page)
        rows.append(("Next", _next_step(outcome, config, command)))
        console.summary(rows, summary)
    if outcome.pushed is None:
        raise NotBlessed(
            f"the model was not blessed, so it was not pushed: {'; '.join(outcome.verdict.reasons)}"
        )
    return summary


def new_run_id(workspace: Workspace | None = None) -> str:
    """Make a unique id that sorts by time.

    In a workspace it sorts after all runs that are there, also where the clock was set back.
    """
    now = datetime.datetime.now(datetime.UTC).replace(microsecond=0)
    for path in workspace.runs.glob("*-*-*") if workspace else ():
        with contextlib.suppress(ValueError, OverflowError):
            made = datetime.datetime.strptime(path.name[:15], _RUN_ID).replace(tzinfo=datetime.UTC)
            now = max(now, made + datetime.timedelta(seconds=1))
    return f"{now:{_RUN_ID}}-{secrets.token_hex(2)}"


def beginning(config: Config, origins: Mapping[str, str], run_id: str) -> dict[str, Any]:
    """Make the record of a run that has not begun; see `report.facts.Run`.

    preflight: what `preflight.check` has found, which is not yet done.
    """
    return {
        "run_id": run_id,
        "started": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "state": State.RUNNING,
        "name": config.name,
        "recipe": config.train.recipe,
        "data": {"source": config.data.source},
        "settings": {
            key: {"value": value, "origin": origins[key]} for key, value in items(config, origins)
        },
        "code": code_version.find().model_dump(),
        "preflight": [],
    }


def _write(folder: Path, record: Mapping[str, Any]) -> None:
    storage.write_text(str(folder / RECORD), json.dumps(redact_all(record), indent=2) + "\n")


def _outcome(outcome: Outcome) -> dict[str, Any]:
    """Tell by the record's fields how a run ended in which no node failed."""
    if outcome.pushed is None:
        return {"state": State.REJECTED, "error": "; ".join(outcome.verdict.reasons)}
    return {"state": State.PUSHED}


def _failure(error: BaseException) -> dict[str, Any]:
    """Tell by the record's fields why a run ended before its last node."""
    match error:
        case NotBlessed():
            return {"state": State.REJECTED, "error": str(error)}
        case KeyboardInterrupt():
            return {"state": State.INTERRUPTED}
        case DataError():
            found = list(error.findings)
            return {"state": State.FAILED, "error": str(error), "findings": found}
    return {"state": State.FAILED, "error": str(error) or type(error).__name__}


def _report(workspace: Workspace, run_id: str) -> Path | None:
    """Write the pages. Never raises: a page must not decide how a run ends."""
    try:
        # Within: it imports matplotlib, which a broken installation may fail to do.
        from pipeline.report import write

        return write.report(workspace, history.find(workspace, run_id))
    except Exception as error:
        _LOG.exception("the report could not be written")
        progress.report("note", text=f"the report could not be written: {error}")
        return None


def _rows(outcome: Outcome, workspace: Workspace, page: Path | None) -> list[tuple[str, str]]:
    verdict, run_id = outcome.verdict, outcome.run.run_id
    splits = ", ".join(
        f"{outcome.accounting.examples(split):,} {split}" for split in outcome.accounting.splits
    )
    worst = min(verdict.class_accuracy, key=lambda name: verdict.class_accuracy[name])
    return [
        ("Data", f"{splits}; {counted(len(outcome.accounting.classes), 'class')}"),
        ("Accuracy", _accuracy(verdict)),
        ("Weakest class", f"{worst} ({verdict.class_accuracy[worst]:.1%})"),
        ("Baseline", _baseline(verdict)),
        *_checks(verdict.checks),
        ("Blessed", "yes" if verdict.blessed else "no"),
        ("Pushed", _pushed(outcome)),
        ("Time", f"{outcome.total_wall_s:.1f} s; {_work(outcome)}"),
        ("Log", str(workspace.log_path(run_id))),
        *([("Report", str(page))] if page else []),
    ]


def _checks(checks: Sequence[Mapping[str, Any]]) -> list[tuple[str, str]]:
    """List the checks that failed, and so many of the others that they fit a screen."""
    failed = [f"NO  {check['reason']}" for check in checks if not check["passed"]]
    passed = [f"ok  {check['reason']}" for check in checks if check["passed"]]
    more = len(passed) - _PASSED_CHECKS
    lines = [*failed, *passed[:_PASSED_CHECKS], *([f"ok  and {more} more"] if more > 0 else [])]
    return [("" if index else "Checks", line) for index, line in enumerate(lines)]


def _accuracy(verdict: Summary) -> str:
    low, high = verdict.interval
    text = f"{verdict.accuracy:.2%} ({low:.1%} to {high:.1%}) of {verdict.examples:,} eval images"
    if verdict.test_accuracy is not None:
        text += f"; {verdict.test_accuracy:.2%} of the test images"
    return text


def _baseline(verdict: Summary) -> str:
    if verdict.baseline_accuracy is None:
        return verdict.note
    return f"{verdict.baseline_accuracy:.2%}; {verdict.note}"


def _pushed(outcome: Outcome) -> str:
    if outcome.pushed is None:
        return "nothing"
    return outcome.pushed if "Pusher" in _ran(outcome) else f"{outcome.pushed} (already there)"


def _work(outcome: Outcome) -> str:
    ran = _ran(outcome)
    return f"ran {', '.join(ran)}" if ran else "nothing to do, every node is in the cache"


def _ran(outcome: Outcome) -> list[str]:
    """List the nodes that ran, and were not taken from the cache."""
    return [node.node for node in outcome.run.nodes if node.state == "complete"]


def _next_step(outcome: Outcome, config: Config, command: str) -> str:
    if outcome.pushed is None:
        return "change the data or the settings above, such as train.epochs, and run again"
    folder = os.path.relpath(config.workspace)
    if folder.startswith(os.pardir):
        folder = str(config.workspace)
    workspace = "" if folder == "workspace" else f" --workspace {shlex.quote(folder)}"
    if config.data.source == source_name.DIGITS:
        return f"perennial serve{workspace}, or perennial run --data DIR with your own images"
    look = "models" if command == "retrain" else "serve"
    return f"perennial {look}{workspace}, or add images and run the same command again"
