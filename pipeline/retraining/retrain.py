"""One night of retraining: look, decide, run, label, tell; every step of it in the journal."""

from __future__ import annotations

import datetime
import json
import time
from collections.abc import Mapping
from typing import Any

from pipeline.config import check_paths
from pipeline.errors import DriftFound, NotBlessed, UserError
from pipeline.noise import quiet
from pipeline.retraining import journal, labels, notify
from pipeline.retraining.decision import decide
from pipeline.retraining.look import Place, look, record
from pipeline.run import new_run_id, run_locked
from pipeline.settings import Config
from pipeline.workspace import Workspace

MEMO = "retraining-inventory.json"


def retrain(
    config: Config,
    origins: Mapping[str, str],
    log_format: str,
    *,
    force: bool = False,
    dry_run: bool = False,
    now: datetime.datetime | None = None,
) -> None:
    """Decide whether to retrain, say why, and do it.

    Args:
      config: all settings.
      origins: the layer that set each of them, as `config.load` returns it.
      log_format: "rich", "plain" or "json".
      force: retrain whatever the policy says.
      dry_run: decide only; nothing but measured drift is recorded, and nobody is told.
      now: the time that ages are measured by, UTC; the clock's if None.

    Returns where a model is pushed or was already, and where there was nothing to do. Raises
    UserError otherwise: DriftFound where drift is an alarm and nothing is retrained.
    """
    check_paths(config)
    workspace = Workspace(config.workspace)
    now = now or datetime.datetime.now(datetime.UTC)
    with workspace.lock():
        night = _Night(config, workspace, log_format, now)
        try:
            situation = look(config, night.place, now, force)
        except UserError as error:
            night.notify("failed", str(error))
            raise
        decision = decide(situation, config.retrain)
        night.say("decision", str(decision), **decision.as_json())
        if dry_run:
            return
        record(night.place, decision, situation)
        if decision.alarm:
            night.notify("drift", str(decision))
        if decision.retrain:
            night.run(origins)
        elif decision.alarm:
            raise DriftFound("; ".join(decision.reasons))


class _Night:
    def __init__(
        self, config: Config, workspace: Workspace, log_format: str, now: datetime.datetime
    ) -> None:
        self._config = config
        self._workspace = workspace
        self._log_format = log_format
        self._now = now
        self._started = time.monotonic()
        self.place = Place(
            workspace.connection() if workspace.metadata.exists() else None,
            str(workspace.root / journal.FILE),
            workspace.root / MEMO,
            quiet(workspace.log_path("drift")),
        )

    def run(self, origins: Mapping[str, str]) -> None:
        """Run the DAG, label what it pushes, and tell what came of it."""
        run_id = new_run_id()
        self.record("started", run=run_id)
        try:
            if held := labels.hold(self._config):
                self.say("note", held)
            found = run_locked(
                self._config, origins, self._log_format, self._workspace, run_id, "retrain"
            )
            version = int(str(found["pushed"]).rstrip("/").rpartition("/")[2])
            labelled = labels.label(self._config, version)
        except BaseException as error:
            result = _result(error)
            self.record("ended", run=run_id, result=result, detail=str(error))
            self.notify(result, f"run {run_id}: {error}")
            raise
        self.record("ended", run=run_id, result="blessed", pushed=found["pushed"], detail=labelled)
        self.say("note", labelled)
        self.notify("blessed", f"run {run_id}: {labelled}")

    def record(self, event: str, **fields: Any) -> None:
        """Add to the journal."""
        elapsed = datetime.timedelta(seconds=time.monotonic() - self._started)
        journal.append(self.place.log, event, self._now + elapsed, **fields)

    def notify(self, event: str, text: str) -> None:
        """Tell the webhook, and here where that fails."""
        if failure := notify.send(self._config.notify, event, self._config.name, text):
            self.say("note", failure)

    def say(self, event: str, text: str, **fields: Any) -> None:
        """Print a line, or a JSON object that has it as `text`."""
        if self._log_format == "json":
            ts = datetime.datetime.now(datetime.UTC).isoformat(timespec="milliseconds")
            text = json.dumps({"ts": ts, "event": event, "text": text, **fields})
        print(text, flush=True)


def _result(error: BaseException) -> str:
    if isinstance(error, NotBlessed):
        return "rejected"
    return "interrupted" if isinstance(error, KeyboardInterrupt) else "failed"
