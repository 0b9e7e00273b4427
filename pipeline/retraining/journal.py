"""What was decided and what came of it: one JSON object a line, never rewritten.

Every line has `at` (UTC) and `event`. "decision" has the fields of `decision.Decision`; "started"
and "ended" have the `run` that followed from it, and "ended" its `result`: blessed, rejected,
failed or interrupted, with the reason in `detail`. "stopped" has `result`, `detail` and `exit_code`
of what ended without a run: data that is missing, a fault, a signal. "drift" has what was measured
of a batch of new images, and "alarm" tells that it was found too much.
"""

from __future__ import annotations

import datetime
import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from components.atomic_pusher import storage
from components.redaction import redact_all
from pipeline.errors import NotBlessed, UserError

FILE = "retraining.jsonl"


def append(location: str, event: str, at: datetime.datetime, **fields: Any) -> None:
    """Add a line, durably, to the journal at a path or URI."""
    entry = {"at": at.isoformat(timespec="seconds"), "event": event, **redact_all(fields)}
    text = storage.read_text(location)
    # Cut off by a crash: what was being written is no entry, and must not swallow the next.
    begin = "\n" if text and not text.endswith("\n") else ""
    storage.append_line(location, begin + json.dumps(entry))


def read(location: str) -> list[dict[str, Any]]:
    """All entries, oldest first, without what a crash left unfinished."""
    return list(_entries(storage.read_text(location) or ""))


def _entries(text: str) -> Iterator[dict[str, Any]]:
    for line in text.splitlines():
        try:
            entry = json.loads(line)
        except ValueError:
            continue
        if isinstance(entry, dict):
            yield entry


def unfinished(entries: Sequence[Mapping[str, Any]]) -> Mapping[str, Any] | None:
    """The entry of the last run where it did not end, or ended without a verdict."""
    for entry in reversed(entries):
        if entry["event"] == "started":
            return entry
        if entry["event"] == "ended":
            return None if entry["result"] in ("blessed", "rejected") else entry
    return None


def result_of(error: BaseException) -> str:
    """What ended with `error`, in the word that an entry has for it."""
    if isinstance(error, NotBlessed):
        return "rejected"
    return "interrupted" if isinstance(error, KeyboardInterrupt) else "failed"


def detail_of(error: BaseException) -> str:
    """Why `error` ended a retraining, for an entry and for people."""
    if isinstance(error, KeyboardInterrupt):
        return "interrupted by a signal; it is continued next time"
    if isinstance(error, UserError):
        return str(error)
    return f"unexpected {type(error).__name__}: {error}".rstrip(": ")


def last_alarm(entries: Sequence[Mapping[str, Any]]) -> datetime.datetime | None:
    """When drift last raised an alarm."""
    alarms = [entry["at"] for entry in entries if entry["event"] == "alarm"]
    return datetime.datetime.fromisoformat(alarms[-1]) if alarms else None
