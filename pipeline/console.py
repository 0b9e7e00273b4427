"""Renders the events of components/progress.py, for people and for machines.

Three renderings: `rich` redraws a table of nodes and a progress bar on a terminal, `plain` writes
lines of text, `json` one object a line.
"""

from __future__ import annotations

import abc
import contextlib
import dataclasses
import functools
import logging
import os
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Self, TextIO

import rich.console
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.spinner import Spinner
from rich.table import Table
from rich.text import Text

from components import progress
from components.wording import counted
from pipeline import formatting, output

# Lines about a step that is under way: one for each tenth, but not several within a moment, and
# always one after a while.
_STEP_FRACTION = 0.1
_STEP_SOONEST_S = 2.0
_STEP_LATEST_S = 30.0

_WIDE = 64  # columns; below, CPU, memory and figures are left out
_ICONS = {  # in Unicode, in ASCII, and the style
    "waiting": ("·", ".", "dim"),
    "complete": ("✔", "+", "green"),
    "cached": ("✔", "=", "cyan"),
    "resolved": ("✔", "=", "cyan"),
    "failed": ("✖", "x", "bold red"),
    "interrupted": ("✖", "x", "bold red"),
    "skipped": ("-", "-", "dim"),
}


@dataclasses.dataclass
class _Node:
    """State of a node. started: epoch seconds."""

    name: str
    state: str = "waiting"
    started: float = 0.0
    wall_s: float = 0.0
    cpu_s: float = 0.0
    peak_mb: float = 0.0
    epoch: str = ""


@dataclasses.dataclass
class _Step:
    """The step that is under way: `done` of `total` units. shown_*: as of its last line.

    A step without a unit cannot be counted, and has one line, when it begins.
    """

    what: str
    unit: str
    shown_at: float
    shown_done: float = 0
    done: float = 0
    total: float | None = None
    extras: Mapping[str, Any] = dataclasses.field(default_factory=dict)

    def is_due(self, now: float) -> bool:
        """Tell whether it is time for another line; if so, the next one counts from here."""
        waited = now - self.shown_at
        moved = self.total is not None and (
            self.done - self.shown_done >= _STEP_FRACTION * self.total
        )
        due = waited >= _STEP_LATEST_S or (moved and waited >= _STEP_SOONEST_S)
        if not self.unit:
            due = not self.shown_done
        if due:
            self.shown_at, self.shown_done = now, self.done if self.unit else 1
        return due


class Console(logging.Handler, abc.ABC):
    """Shows progress events while it is entered as a context.

    A stream that cannot be written silences it: the run goes on, and the log file has everything.
    """

    @staticmethod
    def create(log_format: str, stream: TextIO) -> Console:
        """Make a console for "rich", "plain" or "json" that writes to `stream`."""
        kinds: dict[str, type[Console]]
        kinds = {"rich": _RichConsole, "plain": _PlainConsole, "json": _JsonConsole}
        return kinds[log_format](stream)

    def __init__(self, stream: TextIO) -> None:
        super().__init__()
        self._stream = stream
        self._lost = False
        self._now = 0.0
        self._nodes: dict[str, _Node] = {}
        self._node: _Node | None = None
        self._step: _Step | None = None

    def __enter__(self) -> Self:
        self._previous_level = progress.LOGGER.level
        progress.LOGGER.setLevel(logging.INFO)
        progress.LOGGER.addHandler(self)
        return self

    def __exit__(self, *_: object) -> None:
        progress.LOGGER.removeHandler(self)
        progress.LOGGER.setLevel(self._previous_level)

    def nodes(self) -> list[dict[str, Any]]:
        """List the nodes so far, each with node, state, wall_s, cpu_s and peak_mb."""
        return [
            {
                "node": node.name,
                "state": node.state,
                "wall_s": node.wall_s,
                "cpu_s": node.cpu_s,
                "peak_mb": node.peak_mb,
            }
            for node in self._nodes.values()
        ]

    def summary(self, rows: Sequence[tuple[str, str]], data: Mapping[str, Any]) -> None:
        """Show the outcome of a run: `rows` of label and value to people, `data` to machines."""
        self._now = time.time()
        with self._surviving():
            self._show("summary", {"rows": rows, "data": data})

    def emit(self, record: logging.LogRecord) -> None:
        """Show one event. Never raises: what is shown must not decide how a run ends."""
        try:
            with self._surviving():
                fields = dict(getattr(record, "fields", {}))
                self._now = record.created
                self._track(record.msg, fields)
                self._show(record.msg, fields)
        except Exception:
            self.handleError(record)

    @abc.abstractmethod
    def _show(self, event: str, fields: Mapping[str, Any]) -> None:
        """Render one event, or the summary, as of `self._now`; may raise OSError."""

    @contextlib.contextmanager
    def _surviving(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            self._lost = True
            output.lost(error)

    def _write(self, line: str) -> None:
        if not self._lost:
            self._stream.write(f"{line}\n")
            self._stream.flush()

    def _track(self, event: str, fields: dict[str, Any]) -> None:
        # Of a run elsewhere, whose nodes run at the same time.
        if event == "epoch" and "node" in fields:
            self._node = self._nodes.get(fields["node"], self._node)
        match event:
            case "run_start":
                self._nodes = {name: _Node(name) for name in fields["nodes"]}
            case "node_start":
                self._node = self._nodes.setdefault(fields["node"], _Node(fields["node"]))
                self._node.state, self._node.started = "running", self._now
                self._step = None
            case "node_end":
                node = self._nodes.setdefault(fields["node"], _Node(fields["node"]))
                node.state, node.wall_s = fields["state"], fields["wall_s"]
                node.cpu_s, node.peak_mb = fields["cpu_s"], fields["peak_mb"]
                self._node = self._step = None
            case "step":
                self._track_step(fields)
            case "epoch" if self._node:
                self._node.epoch = _epoch(fields)

    def _track_step(self, fields: dict[str, Any]) -> None:
        if self._step is None or self._step.what != fields["what"]:
            self._step = _Step(fields["what"], fields["unit"], shown_at=self._now)
        # Workers that do not know of each other report what they add.
        added = fields.pop("advance", 0)
        self._step.done = fields.setdefault("done", self._step.done + added)
        self._step.total = fields["total"]
        known = ("what", "unit", "done", "total")
        self._step.extras = {key: value for key, value in fields.items() if key not in known}


class _JsonConsole(Console):
    def _show(self, event: str, fields: Mapping[str, Any]) -> None:
        if event == "step" and not (self._step and self._step.is_due(self._now)):
            return
        values = fields["data"] if event == "summary" else fields
        self._write(progress.as_line(event, formatting.jsonable(values), self._now))


class _PlainConsole(Console):
    def _show(self, event: str, fields: Mapping[str, Any]) -> None:
        if event == "summary":
            self._show_summary(fields["rows"])
        elif text := self._text(event, fields):
            now = time.strftime("%H:%M:%S", time.localtime(self._now))
            self._write(f"{now} {formatting.printable(text)}")

    def _show_summary(self, rows: Sequence[tuple[str, str]]) -> None:
        self._write("")
        for label, value in formatting.aligned(rows):
            self._write(label + value)

    def _text(self, event: str, fields: Mapping[str, Any]) -> str | None:
        match event:
            case "run_start":
                return f"run {fields['run_id']}: {counted(len(self._nodes), 'node')}"
            case "run_end":
                left = sum(node.state == "skipped" for node in self._nodes.values())
                rest = f"; nodes that did not run: {left}" if left else ""
                return f"run {fields['state']} after {formatting.duration(fields['wall_s'])}{rest}"
            case "node_start":
                return f"{self._numbered(fields['node'])} started"
            case "node_end" if fields["state"] == "skipped":
                return None  # or what failed would be out of sight; the end of the run counts them
            case "node_end":
                return f"{self._numbered(fields['node'])} {_ending(self._nodes[fields['node']])}"
            case "step":
                if self._step and self._step.is_due(self._now):
                    return f"{self._prefix()}{_progress(self._step)}"
                return None
            case "epoch":
                return f"{self._prefix()}{_epoch(fields)}"
            case "note":
                return str(fields["text"])
        return " ".join([event, *(f"{key}={value}" for key, value in fields.items())])

    def _numbered(self, node: str) -> str:
        return f"[{list(self._nodes).index(node) + 1}/{len(self._nodes)}] {node}"

    def _prefix(self) -> str:
        return f"{self._node.name}: " if self._node else ""


class _RichConsole(Console):
    def __init__(self, stream: TextIO) -> None:
        super().__init__(stream)
        self._terminal = _Terminal(file=stream, force_terminal=True, highlight=False)
        self._unicode = "utf" in self._terminal.encoding.lower()
        self._overflow: rich.console.OverflowMethod = "ellipsis" if self._unicode else "crop"
        self._spinner = Spinner("dots" if self._unicode else "line")
        # The process's standard streams are not the terminal: noise.py sends them to a file.
        self._live = Live(
            console=self._terminal,
            get_renderable=lambda: self,
            redirect_stdout=False,
            redirect_stderr=False,
        )

    def __enter__(self) -> Self:
        super().__enter__()
        with self._surviving():
            self._live.start()
        return self

    def __exit__(self, *details: object) -> None:
        super().__exit__(*details)
        # Without a run there is nothing to leave on the screen but "starting".
        self._live.transient = not self._nodes
        with self._surviving():
            self._live.stop()

    def __rich_console__(
        self, console: rich.console.Console, options: rich.console.ConsoleOptions
    ) -> rich.console.RenderResult:
        wide = options.max_width >= _WIDE
        if self._nodes:
            yield self._table(wide)
        else:
            yield Spinner(self._spinner.name, text="starting")
        if step := self._step:
            yield self._bar(step, wide)

    def _show(self, event: str, fields: Mapping[str, Any]) -> None:
        if event == "note":
            self._terminal.print(Text(formatting.printable(str(fields["text"]))))
        elif event == "summary":
            self._show_summary(fields["rows"])

    def _show_summary(self, rows: Sequence[tuple[str, str]]) -> None:
        self._live.stop()
        self._terminal.print()
        for label, value in formatting.aligned(rows):
            room = self._terminal.width - len(label)
            for number, line in enumerate(formatting.wrapped(value, room)):
                start = label if number == 0 else " " * len(label)
                # A path is left to the terminal to wrap, so that it is copied in one piece.
                self._terminal.print(Text.assemble((start, "bold"), line), soft_wrap=True)

    def _table(self, wide: bool) -> Table:
        table = Table(box=None, pad_edge=False, header_style="dim", expand=wide)
        add = functools.partial(table.add_column, no_wrap=True, overflow=self._overflow)
        add("")
        add("node")
        add("time", justify="right")
        if wide:
            add("CPU", justify="right")
            add("memory", justify="right")
            add("", ratio=1)  # the only column that gives way when there is too little room
        for node in list(self._nodes.values()):
            ran = node.state in ("complete", "failed", "interrupted")
            cells = [self._icon(node), Text(node.name), Text(_state(node))]
            if wide:
                cells.append(Text(formatting.duration(node.cpu_s) if ran else ""))
                cells.append(Text(formatting.memory(node.peak_mb) if ran else ""))
                cells.append(Text(node.epoch, style="dim"))
            table.add_row(*cells)
        return table

    def _icon(self, node: _Node) -> Text | Spinner:
        if node.state == "running":
            return self._spinner
        fancy, ascii_only, style = _ICONS[node.state]
        return Text(fancy if self._unicode else ascii_only, style=style)

    def _bar(self, step: _Step, wide: bool) -> Table:
        table = Table.grid(padding=(0, 1, 0, 0))
        table.add_column(no_wrap=True)
        table.add_column()
        table.add_column(no_wrap=True, overflow=self._overflow)
        table.add_row(
            Text(formatting.printable(step.what)),
            ProgressBar(step.total, step.done, width=24 if wide else 10),
            Text(_count(step) + (_figures(step.extras) if wide else "")),
        )
        return table


class _Terminal(rich.console.Console):
    @property  # type: ignore[misc]  # nothing sets the size
    def size(self) -> rich.console.ConsoleDimensions:
        """Columns and lines of the stream itself; Rich would ask the redirected ones."""
        try:
            columns, lines = os.get_terminal_size(self.file.fileno())
        except (OSError, ValueError):  # no terminal, or one that is gone
            return super().size
        # Some pseudo-terminals say 0.
        return rich.console.ConsoleDimensions(columns or 80, lines or 25)

    def on_broken_pipe(self) -> None:
        """Write nothing more, where Rich would end the process."""
        self.quiet = True


def _state(node: _Node) -> str:
    match node.state:
        case "waiting":
            return ""
        case "running":
            return formatting.duration(time.time() - node.started)
        case "cached" | "resolved" | "skipped":
            return node.state
    return formatting.duration(node.wall_s)


def _ending(node: _Node) -> str:
    match node.state:
        case "complete":
            cpu, memory = formatting.duration(node.cpu_s), formatting.memory(node.peak_mb)
            wall = formatting.duration(node.wall_s)
            return f"complete in {wall} (CPU {cpu}, peak memory {memory})"
        case "failed" | "interrupted":
            return f"{node.state} after {formatting.duration(node.wall_s)}"
    return node.state


def _epoch(fields: Mapping[str, Any]) -> str:
    metrics = {
        key: value for key, value in fields.items() if key not in ("epoch", "epochs", "node")
    }
    return f"epoch {fields['epoch']}/{fields['epochs']}{_figures(metrics)}"


def _progress(step: _Step) -> str:
    share = f" ({step.done / step.total:.0%})" if step.total else ""
    return f"{step.what} {_count(step)}{share}{_figures(step.extras)}".rstrip()


def _count(step: _Step) -> str:
    """`12/70 steps`, `1/1 image`, `5 rows`, or nothing for what cannot be counted."""
    if not step.unit:
        return ""
    number = step.total or step.done
    unit = step.unit.removesuffix("s") if number == 1 else step.unit
    of_total = f"/{step.total:,}" if step.total else ""
    return f"{step.done:,}{of_total} {formatting.printable(unit)}"


def _figures(metrics: Mapping[str, Any]) -> str:
    """`, loss 0.4213, images/s 1,204, ETA 31m`, or nothing."""
    return "".join(f", {_labelled(key, value)}" for key, value in metrics.items())


def _labelled(key: str, value: Any) -> str:
    if key == progress.SECONDS_LEFT:
        return f"ETA {formatting.eta(value)}"
    return f"{key.replace('_per_', '/').replace('_', ' ')} {formatting.figure(value)}"
