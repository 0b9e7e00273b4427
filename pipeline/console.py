"""What a person or a machine sees of a run: the events of components/progress.py, rendered.

Three renderings: `rich` redraws a table of nodes and a progress bar on a terminal, `plain` writes
lines of text, `json` one object a line.
"""

from __future__ import annotations

import abc
import contextlib
import dataclasses
import datetime
import json
import logging
import math
import numbers
import os
import time
from collections.abc import Mapping, Sequence
from types import TracebackType
from typing import Any, Self, TextIO

from rich.console import Console as RichTerminal
from rich.console import ConsoleDimensions, Group, RenderableType
from rich.live import Live
from rich.progress import BarColumn, Progress, TextColumn
from rich.spinner import Spinner
from rich.table import Column, Table
from rich.text import Text

from components import progress

# Lines about a step in progress: one for each tenth, though not many in a moment, nor none for long.
_STEP_FRACTION = 0.1
_STEP_AT_MOST_S = 2.0
_STEP_AT_LEAST_S = 30.0

_NARROW = 60  # columns; below, CPU and memory are left out
_ICONS = {
    "waiting": ("·", ".", "dim"),
    "complete": ("✔", "+", "green"),
    "cached": ("✔", "=", "cyan"),
    "failed": ("✖", "x", "bold red"),
    "skipped": ("–", "-", "dim"),
}


@dataclasses.dataclass
class _Step:
    """The step that the running node is at. done and total count `unit`s."""

    what: str
    unit: str
    done: int = 0
    total: int | None = None
    extras: Mapping[str, Any] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass
class _Node:
    """What is known of one node. Times are epoch seconds or durations in seconds."""

    name: str
    state: str = "waiting"
    started: float = 0.0
    wall_s: float = 0.0
    cpu_s: float = 0.0
    peak_mb: float = 0.0
    epoch: str = ""


class Console(logging.Handler, abc.ABC):
    """Shows progress events while it is entered as a context.

    A stream whose reader is gone silences it: the run goes on, and the log file has everything.
    """

    @staticmethod
    def create(log_format: str, stream: TextIO) -> Console:
        """A console for "rich", "plain" or "json" that writes to `stream`."""
        kinds = {"rich": _RichConsole, "plain": _PlainConsole, "json": _JsonConsole}
        return kinds[log_format](stream)

    def __init__(self, stream: TextIO) -> None:
        super().__init__(logging.INFO)
        self._stream = stream
        self._lost = False
        self._nodes: dict[str, _Node] = {}
        self._running: _Node | None = None
        self._step: _Step | None = None

    def __enter__(self) -> Self:
        self._previous_level = progress.LOGGER.level
        progress.LOGGER.setLevel(logging.INFO)
        progress.LOGGER.addHandler(self)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        progress.LOGGER.removeHandler(self)
        progress.LOGGER.setLevel(self._previous_level)

    def summary(self, rows: Sequence[tuple[str, str]], data: Mapping[str, Any]) -> None:
        """Show the outcome of a run: `rows` of label and value to people, `data` to machines."""
        with self._surviving():
            self._show_summary(rows, data)

    def emit(self, record: logging.LogRecord) -> None:
        """Show one event; never raises."""
        try:
            with self._surviving():
                fields = self._track(record.msg, dict(getattr(record, "fields", {})), record.created)
                self._show(record.msg, fields, record.created)
        except Exception:
            self.handleError(record)
