"""Counts what has been worked off, for the progress that is shown."""

from __future__ import annotations

import time
from types import TracebackType
from typing import Self

from components.progress import report

EVERY = 200


class Counter:
    """Reports a `step` now and then while it is entered as a context, and at its end."""

    def __init__(self, what: str, total: int | None, unit: str) -> None:
        self._what, self._total, self._unit = what, total, unit
        self._unreported = self._done = 0
        self._started = time.monotonic()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._report()

    def add(self) -> None:
        """Count one."""
        self._unreported += 1
        if self._unreported == EVERY:
            self._report()

    def _report(self) -> None:
        self._done += self._unreported
        rate = self._done / max(time.monotonic() - self._started, 1e-3)
        report(
            "step",
            what=self._what,
            advance=self._unreported,
            total=self._total,
            unit=self._unit,
            **{f"{self._unit}_per_s": round(rate, 1)},
        )
        self._unreported = 0
