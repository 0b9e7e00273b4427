"""One night of retraining: look, decide, run, label, tell; every step of it in the journal."""

from __future__ import annotations

import dataclasses
import datetime
import json
import time
from collections.abc import Mapping, Sequence
from typing import Any

from components.errors import BadDataError
from components.image_example_gen.inputs import INPUTS_FILE
from pipeline.config import check_paths
from pipeline.errors import DataError, DriftFound, NotBlessed
from pipeline.noise import quiet
from pipeline.retraining import drift_report, history, inventory, journal, labels, notify
from pipeline.retraining.decision import Situation, decide
from pipeline.retraining.drift_report import Drift
from pipeline.retraining.history import History
from pipeline.retraining.inventory import Inventory, News
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
) -> int:
    """Decide whether to retrain, say why, and do it.

    Args:
      config: all settings.
      origins: the layer that set each of them, as `config.load` returns it.
      log_format: "rich", "plain" or "json".
      force: retrain whatever the policy says.
      dry_run: decide only; nothing but measured drift is recorded, and nobody is told.
      now: the time that ages are measured by, UTC; the clock's if None.

    Returns 0 where a model is pushed or was already, and where there was nothing to do. Raises
    UserError otherwise: DriftFound where drift is an alarm and nothing is retrained.
    """
    check_paths(config)
    workspace = Workspace(config.workspace)
    with workspace.lock():
        night = _Night(config, workspace, log_format, now or datetime.datetime.now(datetime.UTC))
        situation = night.look(force)
        decision = decide(situation, config.retrain)
        night.say("decision", str(decision), **decision.as_json())
        if dry_run:
            return 0
        night.record("decision", **decision.as_json(), **_facts(situation))
        if decision.alarm:
            night.record("alarm")
            night.notify("drift", str(decision))
        if decision.retrain:
            return night.run(origins)
    if decision.alarm:
        raise DriftFound("; ".join(decision.reasons))
    return 0


class _Night:
    def __init__(
        self, config: Config, workspace: Workspace, log_format: str, now: datetime.datetime
    ) -> None:
        self._config = config
        self._workspace = workspace
        self._log_format = log_format
        self._now = now
        self._started = time.monotonic()
        self._journal = str(workspace.root / journal.FILE)

    def look(self, forced: bool) -> Situation:
        """What there is to decide on."""
        config, entries = self._config, journal.read(self._journal)
        past = History()
        if self._workspace.metadata.exists():
            past = history.read(self._workspace.connection(), config.name)
        known = _inputs_of(past)
        if known is None:
            past = dataclasses.replace(past, last=None)
        current, news = self._news(known or {})
        return Situation(
            now=self._now,
            news=news,
            last=past.last,
            champion=past.champion,
            unfinished=_cut_off(entries),
            drift=self._drift(past, current, news, entries),
            last_alarm=journal.last_alarm(entries),
            forced=forced,
        )

    def _news(self, known: Inventory) -> tuple[Inventory, News]:
        data = self._config.data
        try:
            current, spans = inventory.take(data.source, data.options, self._workspace.root / MEMO)
        except BadDataError as error:
            raise DataError(str(error)) from error
        filled = {entry.span for entry in current.values()}
        latest = max((entry.span for entry in known.values()), default=-1)
        empty = tuple(number for number in spans if number > latest and number not in filled)
        return current, dataclasses.replace(inventory.compare(known, current), empty_spans=empty)

    def _drift(
        self,
        past: History,
        current: Inventory,
        news: News,
        entries: Sequence[Mapping[str, Any]],
    ) -> Drift | None:
        """How the new images differ; what was measured of the same ones before is not again."""
        names = {*news.new, *news.changed}
        limits, champion = self._config.retrain.drift, past.champion
        if past.last is None or champion is None or len(names) < limits.min_examples:
            return None
        batch = inventory.digest({name: current[name] for name in names})
        for entry in reversed(entries):
            if entry["event"] == "drift" and entry["batch"] == batch:
                return drift_report.from_json(entry["drift"])
        with quiet(self._workspace.log_path("drift")):
            from pipeline.retraining.drift import measure

            found = measure(self._config.data, names, champion.examples, champion.uri, limits)
        if found is not None:
            self.record("drift", batch=batch, drift=dataclasses.asdict(found))
        return found

    def run(self, origins: Mapping[str, str]) -> int:
        """Run the DAG, label what it pushes, and tell what came of it."""
        run_id = new_run_id()
        self.record("started", run=run_id)
        try:
            if held := labels.hold(self._config):
                self.say("note", held)
            found = run_locked(self._config, origins, self._log_format, self._workspace, run_id)
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
        return 0

    def record(self, event: str, **fields: Any) -> None:
        """Add to the journal."""
        elapsed = datetime.timedelta(seconds=time.monotonic() - self._started)
        journal.append(self._journal, event, self._now + elapsed, **fields)

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


def _inputs_of(past: History) -> Inventory | None:
    """What the last judged training was made of, None where that is not known any more."""
    if past.last is None or not past.last.examples:
        return None
    try:
        return inventory.read_inputs(f"{past.last.examples}/{INPUTS_FILE}")
    except OSError:
        return None


def _cut_off(entries: Sequence[Mapping[str, Any]]) -> str:
    entry = journal.unfinished(entries)
    if entry is None:
        return ""
    if entry["event"] == "started" or entry["result"] == "interrupted":
        return f"run {entry['run']} was cut off, and is continued"
    return f"run {entry['run']} failed, and is tried again"


def _facts(situation: Situation) -> dict[str, Any]:
    """What a decision was made on, for the journal."""
    news = situation.news
    return {
        "new": len(news.new),
        "changed": len(news.changed),
        "removed": len(news.removed),
    }


def _result(error: BaseException) -> str:
    if isinstance(error, NotBlessed):
        return "rejected"
    return "interrupted" if isinstance(error, KeyboardInterrupt) else "failed"
