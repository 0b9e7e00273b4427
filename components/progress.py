"""Progress reports of components and the trainer.

Events are log records, which each runner formats: bars on a terminal, plain lines in a log, JSON in
a pod.
"""

from __future__ import annotations

import datetime
import json
import logging
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Self, TypeVar

from components.redaction import redact_all

T = TypeVar("T")

LOGGER = logging.getLogger("perennial.progress")
EVERY = 200  # counts between two reports of a `Counter`
SECONDS_LEFT = "seconds_left"  # extra of a `step`: the estimated rest of all steps
_SOON_S = 0.5  # longest time between two reports, while it counts


def report(event: str, **fields: object) -> None:
    """Emit `event` with JSON-able `fields`, carried on the record as `record.fields`, redacted.

    Events: `step` (what, unit, total or None, extras such as loss, and either the total `done` or,
    from one of several workers, `advance` since its last event), `epoch` (epoch, epochs, metrics)
    and `note` (text). A runner adds events of the run and its nodes.
    """
    LOGGER.info(event, extra={"fields": redact_all(fields)})


def stage(what: str) -> None:
    """Report a step without a count, such as an export; it lasts until the next step."""
    report("step", what=what, done=0, total=None, unit="")


def as_line(event: str, fields: Mapping[str, object], moment: float | None = None) -> str:
    """Write an event as one JSON object on a line. moment: epoch seconds; None: now.

    Besides `ts` in ISO 8601 there is `timestamp` in epoch seconds, which must be a number: Kubeflow
    parses each line of an archived log as {"log": .., "timestamp": ..} with a text as timestamp,
    and shows only `log` of a line that it can parse (backend/src/apiserver/archive/log.go of 2.17).
    """
    moment = time.time() if moment is None else moment
    ts = datetime.datetime.fromtimestamp(moment, datetime.UTC).isoformat(timespec="milliseconds")
    line = {"ts": ts, "event": event, **fields, "timestamp": round(moment, 3)}
    return json.dumps(line, ensure_ascii=False)


class Counter:
    """Counts finished work, and reports it as `step` events: at once, regularly, and at the end.

    Each worker has its own counter, which reports the count since the last report. `advance` is
    called with that count, too.
    """

    def __init__(
        self,
        what: str,
        total: int | None,
        unit: str,
        advance: Callable[[int], object] | None = None,
    ) -> None:
        self._what, self._total, self._unit = what, total, unit
        self._advance = advance
        self._unreported = self._done = 0
        self._started = self._reported = time.monotonic()

    def __enter__(self) -> Self:
        self._report()
        return self

    def __exit__(self, *_: object) -> None:
        self._report()

    def add(self, count: int = 1) -> None:
        """Add to the count."""
        self._unreported += count
        if self._unreported >= EVERY or time.monotonic() - self._reported > _SOON_S:
            self._report()

    def each(self, values: Iterable[T]) -> Iterator[T]:
        """Yield the values, and count each."""
        for value in values:
            self.add()
            yield value

    def _report(self) -> None:
        self._done += self._unreported
        self._reported = time.monotonic()
        rate = self._done / max(self._reported - self._started, 1e-3)
        report(
            "step",
            what=self._what,
            advance=self._unreported,
            total=self._total,
            unit=self._unit,
            **{f"{self._unit}_per_s": round(rate, 1)},
        )
        if self._advance and self._unreported:
            self._advance(self._unreported)
        self._unreported = 0
