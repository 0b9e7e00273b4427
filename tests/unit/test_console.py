"""The same events, for people on a terminal, in a log, and for machines."""

from __future__ import annotations

import contextlib
import fcntl
import io
import json
import logging
import math
import os
import re
import select
import struct
import sys
import termios
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from components import progress
from pipeline import output
from pipeline.console import Console

NODES = ["ImageExampleGen", "StatisticsGen", "BaselineResolver", "Trainer", "Pusher"]
FORMATS = ["rich", "plain", "json"]
ROWS = [("accuracy", "97.2 %"), ("pushed to", "/models/[bold]digits/1")]
DATA = {"accuracy": 0.972, "pushed_to": Path("/models/digits/1")}


def _tell(created: float, event: str, **fields: object) -> None:
    """Report `event` as if it happened `created` seconds after some epoch."""
    record = {"msg": event, "levelno": logging.INFO, "created": 1e9 + created, "fields": fields}
    progress.LOGGER.handle(logging.makeLogRecord(record))


def _node_end(created: float, node: str, state: str, wall_s: float = 0.0) -> None:
    _tell(
        created,
        "node_end",
        node=node,
        state=state,
        wall_s=wall_s,
        cpu_s=1.5 * wall_s,
        peak_mb=1234.5,
        error="why" if state == "failed" else None,
    )


def _tell_of_a_run() -> None:
    _tell(0, "run_start", run_id="7", nodes=NODES)
    _tell(0, "node_start", node="ImageExampleGen")
    _tell(0.1, "step", what="ingest", advance=100, total=200, unit="images")
    _tell(5, "step", what="ingest", advance=60, total=200, unit="images")
    _node_end(6, "ImageExampleGen", "complete", wall_s=6.04)
    _tell(6, "node_start", node="StatisticsGen")
    _node_end(6, "StatisticsGen", "cached")
    _tell(6, "node_start", node="Trainer")
    figures = {"loss": 0.51234, "images_per_s": 1234.5}
    _tell(6, "step", what="train", done=0, total=4000, unit="steps", **figures)
    _tell(36, "step", what="train", done=1000, total=4000, unit="steps", **figures)
    _tell(37, "epoch", epoch=1, epochs=4, loss=0.5, val_accuracy=0.9)
    _node_end(98, "Trainer", "failed", wall_s=92.4)
    _node_end(98, "Pusher", "skipped")
    _tell(98, "note", text="odd [bold]name\x1b[31m\nof a file")
    _tell(98, "run_end", run_id="7", state="failed", wall_s=3720)


def _shown(log_format: str) -> str:
    stream = io.StringIO()
    with Console.create(log_format, stream) as console:
        _tell_of_a_run()
        console.summary(ROWS, DATA)
    return stream.getvalue()


def _frame(ansi: str) -> list[str]:
    """Return the final screen if every redraw starts by erasing the last one."""
    final = ansi.rpartition("\x1b[2K")[2]
    return [line.rstrip() for line in re.sub(r"\x1b\[[\d;?]*[a-zA-Z]", "", final).splitlines()]


def test_plain_output_is_a_line_for_each_thing_worth_one() -> None:
    lines = _shown("plain").splitlines()
    assert all(re.match(r"\d\d:\d\d:\d\d ", line) for line in lines[:-3])
    assert [line[9:] for line in lines[:-3]] == [
        "run 7: 5 nodes",
        "[1/5] ImageExampleGen started",
        "ImageExampleGen: ingest 160/200 images (80%)",
        "[1/5] ImageExampleGen complete in 6.0 s (CPU 9.1 s, peak memory 1.2 GB)",
        "[2/5] StatisticsGen started",
        "[2/5] StatisticsGen cached",
        "[4/5] Trainer started",
        "Trainer: train 1,000/4,000 steps (25%), loss 0.5123, images/s 1,234",
        "Trainer: epoch 1/4, loss 0.5, val accuracy 0.9",
        "[4/5] Trainer failed after 1 min 32 s",
        "odd [bold]name?[31m?of a file",
        "run failed after 1 h 02 min; nodes that did not run: 1",
    ]
    assert lines[-3:] == ["", "accuracy   97.2 %", "pushed to  /models/[bold]digits/1"]


def test_json_output_is_one_object_a_line() -> None:
    events = [json.loads(line) for line in _shown("json").splitlines()]
    assert all(list(event)[:2] == ["ts", "event"] for event in events)
    assert events[0] == {
        "ts": "2001-09-09T01:46:40.000+00:00",
        "timestamp": 1000000000.0,
        "event": "run_start",
        "run_id": "7",
        "nodes": NODES,
    }
    assert [each["done"] for each in events if each["event"] == "step"] == [160, 1000]
    ends = {each["node"]: each for each in events if each["event"] == "node_end"}
    assert (ends["Trainer"]["state"], ends["Trainer"]["error"]) == ("failed", "why")
    assert ends["ImageExampleGen"]["peak_mb"] == 1234.5
    del events[-1]["ts"], events[-1]["timestamp"]
    assert events[-1] == {"event": "summary", "accuracy": 0.972, "pushed_to": "/models/digits/1"}


def test_json_output_has_no_values_that_json_lacks() -> None:
    stream = io.StringIO()
    with Console.create("json", stream):
        progress.report("epoch", epoch=1, epochs=2, loss=math.nan, rates=[math.inf, np.float32(2)])

    def refuse(constant: str) -> None:
        raise AssertionError(constant)

    event = json.loads(stream.getvalue(), parse_constant=refuse)
    assert (event["loss"], event["rates"]) == (None, [None, 2.0])


@pytest.mark.parametrize("columns", [100, 80, 40])
def test_a_terminal_shows_every_node_whole(monkeypatch: pytest.MonkeyPatch, columns: int) -> None:
    monkeypatch.setenv("COLUMNS", str(columns))
    frame = _frame(_shown("rich"))
    assert all(len(line) <= columns for line in frame)
    rows = {
        line.split()[1]: line for line in frame if line.split()[1:2] and line.split()[1] in NODES
    }
    assert list(rows) == NODES
    assert "✔" in rows["ImageExampleGen"]
    assert "6.0 s" in rows["ImageExampleGen"]
    assert "cached" in rows["StatisticsGen"]
    assert rows["BaselineResolver"].startswith("·")
    assert "✖" in rows["Trainer"]
    assert "1 min 32 s" in rows["Trainer"]
    assert "skipped" in rows["Pusher"]
    if columns >= 80:
        assert rows["ImageExampleGen"].endswith("6.0 s       9.1 s  1.2 GB")
        assert "epoch 1/4, loss 0.5" in rows["Trainer"]
    assert frame[-2:] == ["accuracy   97.2 %", "pushed to  /models/[bold]digits/1"]


def test_a_terminal_shows_the_step_under_way(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    stream = io.StringIO()
    with Console.create("rich", stream):
        progress.report("run_start", run_id="7", nodes=NODES)
        progress.report("node_start", node="Trainer")
        progress.report("step", what="train", done=5, total=20, unit="steps", loss=0.5)
    frame = _frame(stream.getvalue())
    assert re.fullmatch(r"train [━╸╺ ]+ 5/20 steps, loss 0.5", frame[-1])


def test_a_terminal_shows_notes_as_they_are() -> None:
    assert "odd [bold]name?[31m?of a file" in _shown("rich")


@pytest.fixture
def terminal() -> Iterator[tuple[io.TextIOWrapper, int]]:
    """Open a terminal of 47 columns and its other end, unrelated to our own."""
    other, own = os.openpty()
    fcntl.ioctl(own, termios.TIOCSWINSZ, struct.pack("HHHH", 30, 47, 0, 0))
    with open(own, "w", encoding="ascii", errors="backslashreplace") as stream:
        yield stream, other
    os.close(other)


def test_a_terminal_is_asked_for_its_own_width_and_alphabet(
    terminal: tuple[io.TextIOWrapper, int],
) -> None:
    stream, other = terminal
    with Console.create("rich", stream) as console:
        progress.report("run_start", run_id="7", nodes=["Short", "N" * 60])
        console.summary(ROWS, DATA)
        stream.flush()
    shown = ""
    while select.select([other], [], [], 0.5)[0]:  # a terminal gives what it has a part at a time
        shown += os.read(other, 100_000).decode("ascii")
    assert [line for line in _frame(shown) if len(line) > 47] == []
    assert "N" * 40 in shown
    assert "\\" not in shown  # an escaped character of another alphabet


@pytest.mark.parametrize("log_format", FORMATS)
def test_a_reader_that_is_gone_does_not_stop_the_run(log_format: str) -> None:
    reading, writing = os.pipe()
    os.close(reading)
    stream = open(writing, "w", buffering=1)  # noqa: SIM115
    with Console.create(log_format, stream) as console:
        _tell_of_a_run()
        console.summary(ROWS, DATA)
    with contextlib.suppress(BrokenPipeError):
        stream.close()


@pytest.mark.parametrize("log_format", FORMATS)
def test_a_console_that_fails_does_not_stop_the_run(
    log_format: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with Console.create(log_format, io.StringIO()):
        progress.report("run_start", without="what belongs there")
    assert "KeyError: 'nodes'" in capsys.readouterr().err


def test_slow_steps_are_shown_now_and_then() -> None:
    stream = io.StringIO()
    with Console.create("plain", stream):
        for second in range(100):
            _tell(second, "step", what="read", done=second, total=None, unit="files")
        for second in range(1000, 1021):
            _tell(second, "step", what="train", done=second - 1000, total=20, unit="steps")
    lines = stream.getvalue().splitlines()
    assert [line[9:] for line in lines if "read" in line] == [
        "read 30 files",
        "read 60 files",
        "read 90 files",
    ]
    assert [line.split()[2] for line in lines if "train" in line][:3] == ["2/20", "4/20", "6/20"]


@pytest.mark.parametrize(
    ("seconds", "shown"),
    [(1, "ETA 1s"), (59, "ETA 59s"), (1897, "ETA 32m"), (3600, "ETA 1h00m"), (7530, "ETA 2h06m")],
)
def test_the_rest_of_a_step_is_in_words(seconds: int, shown: str) -> None:
    stream = io.StringIO()
    with Console.create("plain", stream):
        left = {progress.SECONDS_LEFT: seconds}
        _tell(0, "step", what="train", done=0, total=70, unit="steps", **left)
        _tell(31, "step", what="train", done=1, total=70, unit="steps", **left)
    assert stream.getvalue().rstrip().endswith(f"train 1/70 steps (1%), {shown}")


@pytest.mark.parametrize(
    ("done", "total", "shown"),
    [(1, 1, "1/1 image (100%)"), (1, None, "1 image"), (1, 2, "1/2 images (50%)")],
)
def test_one_is_singular(done: int, total: int | None, shown: str) -> None:
    stream = io.StringIO()
    with Console.create("plain", stream):
        _tell(0, "step", what="read", done=0, total=total, unit="images")
        _tell(31, "step", what="read", done=done, total=total, unit="images")
    assert stream.getvalue().rstrip().endswith(f"read {shown}")


@pytest.mark.parametrize("log_format", ["plain", "json"])
def test_a_stage_takes_the_place_of_the_step_before_and_is_told_once(log_format: str) -> None:
    stream = io.StringIO()
    with Console.create(log_format, stream):
        _tell(0, "step", what="train", done=70, total=70, unit="steps")
        for moment in (1, 40):
            _tell(moment, "step", what="export", done=0, total=None, unit="")
    [line] = stream.getvalue().splitlines()
    if log_format == "json":
        assert json.loads(line)["what"] == "export"
    else:
        assert line.endswith(" export")


def test_a_terminal_shows_a_stage_without_a_count(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "100")
    stream = io.StringIO()
    with Console.create("rich", stream):
        _tell(0, "run_start", run_id="7", nodes=NODES)
        _tell(0, "node_start", node="Trainer")
        _tell(0, "step", what="train", done=70, total=70, unit="steps")
        _tell(1, "step", what="export", done=0, total=None, unit="")
    last = _frame(stream.getvalue())[-1]
    assert "export" in last
    assert "70" not in last
    assert "0 " not in last


def test_a_long_value_is_wrapped_in_its_column_and_a_path_is_not(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("COLUMNS", "60")
    path = "/models/" + "long" * 30
    stream = io.StringIO()
    with Console.create("rich", stream) as console:
        console.summary([("Checks", "ok  " + "word " * 30), ("Pushed", path)], {})
    shown = re.sub(r"\x1b\[[\d;?]*[a-zA-Z]", "", stream.getvalue())
    lines = [line for line in shown.splitlines() if "word" in line]
    assert lines[0].startswith("Checks  ok  word")
    assert len(lines) > 2
    assert {line[:12] for line in lines[1:]} == {" " * 12}
    assert max(map(len, lines)) <= 60
    assert path in shown


def test_nothing_is_shown_outside_of_the_context() -> None:
    stream = io.StringIO()
    level, handlers = progress.LOGGER.level, list(progress.LOGGER.handlers)
    with Console.create("plain", stream):
        pass
    progress.report("note", text="late")
    assert stream.getvalue() == ""
    assert (progress.LOGGER.level, progress.LOGGER.handlers) == (level, handlers)


@pytest.mark.parametrize(("terminal", "printed"), [(True, "wait\n"), (False, "")])
def test_a_wait_is_announced_on_a_terminal_only(
    monkeypatch: pytest.MonkeyPatch, terminal: bool, printed: str
) -> None:
    stream = io.StringIO()
    monkeypatch.setattr(stream, "isatty", lambda: terminal)
    monkeypatch.setattr(sys, "stderr", stream)
    output.announce("wait")
    assert stream.getvalue() == printed
