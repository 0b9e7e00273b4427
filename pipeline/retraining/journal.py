"""The journal of decisions and outcomes: append-only, one JSON object per line.

Every line has `at` (UTC) and `event`:

- "decision": the fields of `decision.Decision`.
- "started", "ended": the `run` that followed; "ended" also its `result` (blessed, rejected, failed
  or interrupted) with the reason in `detail`.
- "stopped": `result`, `detail` and `exit_code` of a retraining that ended without a run.
- "drift": the measured distances of new images.
- "alarm": these were too large, or traffic of `kind` was a reason.
- "traffic": findings of `perennial monitor`, as lines in `traffic` and `accuracy`, the `baseline`
  compared with, and in `told` the kinds sent to the webhook.
"""

from __future__ import annotations

import datetime
from collections.abc import Mapping, Sequence
from typing import Any

from components import records
from components.redaction import redact_all
from pipeline.errors import NotBlessed, UserError
from pipeline.retraining import drift_report

FILE = "retraining.jsonl"


# Fields of each kind of entry, beside `at`, and their types.
_FIELDS: Mapping[str, Mapping[str, type]] = {
    "started": {"run": str},
    "ended": {"run": str, "result": str},
    "drift": {"batch": str, "drift": dict},
    "traffic": {"traffic": list, "accuracy": list, "told": list},
}


def append(location: str, event: str, at: datetime.datetime, **fields: Any) -> None:
    """Append a line durably to the journal at a path or URI.

    Raises OSError, and then leaves the journal unchanged. A line that a crash cut off is ignored
    and does not damage the next.
    """
    entry = {"at": at.isoformat(timespec="seconds"), "event": event, **redact_all(fields)}
    records.append(location, entry)


def read(location: str) -> list[dict[str, Any]]:
    """Read all entries, oldest first. Damaged lines are skipped with a note."""
    return records.read_and_tell(location, _check)


def _check(entry: Mapping[str, Any]) -> None:
    at = datetime.datetime.fromisoformat(entry["at"])
    if at.tzinfo is None:
        raise ValueError(f"at = {entry['at']!r} has no time zone")
    event = entry["event"]
    if not isinstance(event, str):
        raise TypeError(f"event = {event!r} is not text")
    for name, kind in _FIELDS.get(event, {}).items():
        if not isinstance(entry[name], kind):
            raise TypeError(f"{name} = {entry[name]!r} is not of type {kind.__name__}")
    if event == "drift":
        drift_report.from_json(entry["drift"])


def unfinished(entries: Sequence[Mapping[str, Any]]) -> Mapping[str, Any] | None:
    """Return the last run's entry if it did not end or has no verdict."""
    for entry in reversed(entries):
        if entry["event"] == "started":
            return entry
        if entry["event"] == "ended":
            return None if entry["result"] in ("blessed", "rejected") else entry
    return None


def result_of(error: BaseException) -> str:
    """Return the `result` of an entry about `error`."""
    if isinstance(error, NotBlessed):
        return "rejected"
    return "interrupted" if isinstance(error, KeyboardInterrupt) else "failed"


def detail_of(error: BaseException) -> str:
    """Describe `error` in a line, for an entry and for messages."""
    if isinstance(error, KeyboardInterrupt):
        return "interrupted by a signal; it is continued next time"
    if isinstance(error, UserError):
        return str(error)
    return f"unexpected {type(error).__name__}: {error}".rstrip(": ")


def last_alarm(
    entries: Sequence[Mapping[str, Any]], kind: str = "drift"
) -> datetime.datetime | None:
    """Return the time of the last alarm of `kind`: drift or a kind of traffic finding."""
    alarms = [
        entry["at"]
        for entry in entries
        if entry["event"] == "alarm" and entry.get("kind", "drift") == kind
    ]
    return datetime.datetime.fromisoformat(alarms[-1]) if alarms else None


def last_traffic(
    entries: Sequence[Mapping[str, Any]], baseline: int | None, since: datetime.datetime
) -> Mapping[str, Any]:
    """Return the last traffic entry about this baseline since `since`; {} without one."""
    for entry in reversed(entries):
        if entry["event"] == "traffic":
            is_young = datetime.datetime.fromisoformat(entry["at"]) >= since
            return entry if is_young and entry.get("baseline") in (None, baseline) else {}
    return {}
