"""The terminal is ours alone, and the log file gets everything else."""

from __future__ import annotations

import logging
import os
import subprocess
import sys
import textwrap
import warnings
from pathlib import Path

import pytest

from components import progress
from pipeline import noise


def test_what_anything_else_writes_goes_to_the_log(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    log = tmp_path / "logs" / "run.log"
    with noise.redirect_output(log) as terminal, warnings.catch_warnings():
        warnings.simplefilter("always")
        os.write(1, b"native stdout\n")
        os.write(2, b"native stderr\n")
        print("a stray print")
        print("a stray complaint", file=sys.stderr)
        subprocess.run(["sh", "-c", "echo a child"], check=True)
        warnings.warn("a warning", stacklevel=1)
        logging.getLogger("library").info("a record")
        logging.getLogger("apache_beam.worker").info("chatter")
        logging.getLogger("apache_beam.worker").warning("a problem")
        progress.report("note", text="a fact")
        print("ours", file=terminal.stdout)
        print("our error", file=terminal.stderr)
    assert capfd.readouterr() == ("ours\n", "our error\n")
    text = log.read_text()
    for part in (
        "native stdout\n",
        "native stderr\n",
        "a stray print\n",
        "a stray complaint\n",
        "a child\n",
        "UserWarning: a warning",
        " INFO library: a record\n",
        " WARNING apache_beam.worker: a problem\n",
        " INFO perennial.progress: note {'text': 'a fact'}\n",
    ):
        assert part in text
    assert "chatter" not in text


def _open_descriptors() -> set[str]:
    return {path.name for path in Path("/proc/self/fd").iterdir()}


def test_everything_is_put_back(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    root = logging.getLogger()
    before = sys.stdout, sys.stderr, list(root.handlers), root.level, warnings.showwarning
    descriptors = _open_descriptors()
    with pytest.raises(ZeroDivisionError), noise.redirect_output(tmp_path / "log"):
        _ = 1 / 0
    assert before == (
        sys.stdout,
        sys.stderr,
        list(root.handlers),
        root.level,
        warnings.showwarning,
    )
    assert _open_descriptors() == descriptors
    os.write(1, b"out")
    os.write(2, b"err")
    assert capfd.readouterr() == ("out", "err")


def _python(code: str, *arguments: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", textwrap.dedent(code), *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=60)


def test_a_killed_process_has_written_what_it_said(tmp_path: Path) -> None:
    log = tmp_path / "log"
    done = _python(
        """
        import logging, os, signal, sys
        from pathlib import Path
        from pipeline import noise
        with noise.redirect_output(Path(sys.argv[1])) as terminal:
            print("ours", file=terminal.stdout)
            print("a stray print")
            logging.warning("a record")
            os.kill(os.getpid(), signal.SIGKILL)
        """,
        log,
    )
    assert (done.returncode, done.stdout, done.stderr) == (-9, "ours\n", "")
    assert "a stray print\n" in log.read_text()
    assert "a record\n" in log.read_text()


def test_a_process_without_standard_streams_works(tmp_path: Path) -> None:
    log = tmp_path / "log"
    done = _python(
        """
        import os, sys
        from pathlib import Path
        os.close(1), os.close(2)
        sys.stdout = sys.stderr = None
        from pipeline import noise
        with noise.redirect_output(Path(sys.argv[1])) as terminal:
            print("ours", file=terminal.stdout)
            os.write(2, b"noise")
        """,
        log,
    )
    assert done.returncode == 0
    assert "noise" in log.read_text()


def test_an_unwritable_log_changes_nothing(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "log").mkdir()
    with pytest.raises(IsADirectoryError), noise.redirect_output(tmp_path / "log"):
        pass
    os.write(2, b"err")
    assert capfd.readouterr().err == "err"
