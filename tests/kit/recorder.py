"""What is reported of progress while something runs."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterator
from typing import Any

from components import progress


class Recorder(logging.Handler):
    """Keeps every progress event and its fields."""

    def __init__(self) -> None:
        super().__init__()
        self.events: list[tuple[str, dict[str, Any]]] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.events.append((record.msg, vars(record)["fields"]))

    def of(self, event: str, field: str) -> list[Any]:
        return [fields[field] for name, fields in self.events if name == event]


@contextlib.contextmanager
def recording() -> Iterator[Recorder]:
    """Record what is reported within."""
    recorder, level = Recorder(), progress.LOGGER.level
    progress.LOGGER.addHandler(recorder)
    progress.LOGGER.setLevel(logging.INFO)
    try:
        yield recorder
    finally:
        progress.LOGGER.setLevel(level)
        progress.LOGGER.removeHandler(recorder)
