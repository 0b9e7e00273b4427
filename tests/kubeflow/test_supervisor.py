"""What an accident ended is tried again in its pod, and nothing else is."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path
from typing import Any

import pytest

from pipeline.errors import (
    ConfigError,
    DatabaseLost,
    DataError,
    NodeFailed,
    NotBlessed,
)
from tests import REPO
from tests.kit.kubeflow_stub import as_archived

KILLED = 128 + signal.SIGKILL
# Counts its tries in the file that its first argument names, and does what the others say.
PROGRAM = textwrap.dedent("""
    import os, subprocess, sys, time
    from pathlib import Path
    from kubeflow import supervisor

    tries, *actions = sys.argv[1:]

    def main():
        with open(tries, "a") as file:
            file.write("x")
        done = len(Path(tries).read_text())
        action = actions[min(done, len(actions)) - 1]
        if action == "child":
            child = subprocess.Popen(["sleep", "60"])
            Path(tries + ".child").write_text(str(child.pid))
            action = "9"
        if action == "wait":
            print("waiting", flush=True)
            time.sleep(60)
        if action == "usage":
            raise SystemExit(2)
        if action.startswith("="):
            return int(action[1:])
        os.kill(os.getpid(), int(action))

    sys.exit(supervisor.run(main, os.environ))
""")


class Pod:
    def __init__(self, folder: Path) -> None:
        self.tries = folder / "tries"
        self.errors: list[dict[str, Any]] = []
        self.env = {"PERENNIAL_RETRIES": "2", "PERENNIAL_RETRY_DELAY": "0"}

    def start(self, *actions: str) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [sys.executable, "-c", PROGRAM, str(self.tries), *actions],
            env={"PATH": os.environ["PATH"], "PYTHONPATH": str(REPO), **self.env},
            stdout=subprocess.PIPE,
            text=True,
        )

    def run(self, *actions: str) -> tuple[int, int, list[str]]:
        """Return the exit code, the number of attempts, and the note before each retry."""
        process = self.start(*actions)
        output, _ = process.communicate()
        assert as_archived(output) == output.rstrip()  # Kubeflow gives all of it out
        told = [json.loads(line) for line in output.splitlines()]
        notes = [line for line in told if line["event"] == "note"]
        assert all(line.keys() == {"ts", "timestamp", "event", "text"} for line in notes)
        self.errors = [line for line in told if line not in notes]
        return process.returncode, len(self.tries.read_text()), [line["text"] for line in notes]


@pytest.fixture
def pod(tmp_path: Path) -> Pod:
    return Pod(tmp_path)


@pytest.mark.parametrize(
    "accident", [str(int(number)) for number in (signal.SIGKILL, signal.SIGSEGV, signal.SIGABRT)]
)
def test_a_process_that_a_signal_ended_is_tried_again(pod: Pod, accident: str) -> None:
    code, tries, told = pod.run(accident, "=0")
    assert (code, tries, len(told)) == (0, 2, 1)
    assert told[0].startswith(f"signal {accident} ")
    assert ("memory" in told[0]) == (accident == "9")


def test_a_lost_database_is_tried_again(pod: Pod) -> None:
    assert pod.run(f"={DatabaseLost.exit_code}", "=0")[:2] == (0, 2)


@pytest.mark.parametrize(
    "code",
    [0, 1, *(kind.exit_code for kind in (ConfigError, DataError, NotBlessed, NodeFailed)), 130],
)
def test_what_would_only_happen_again_is_not_tried_again(pod: Pod, code: int) -> None:
    assert pod.run(f"={code}") == (code, 1, [])


def test_wrong_usage_is_not_tried_again(pod: Pod) -> None:
    assert pod.run("usage") == (ConfigError.exit_code, 1, [])


def test_the_last_try_decides_and_its_reason_is_told(pod: Pod) -> None:
    code, tries, notes = pod.run("9")
    assert (code, tries, len(notes)) == (KILLED, 3, 2)
    (error,) = pod.errors
    assert (error["event"], error["kind"], error["exit_code"]) == ("error", "Killed", KILLED)
    assert "signal 9 " in error["message"]


def test_what_has_told_its_reason_itself_is_not_told_of_again(pod: Pod) -> None:
    pod.env["PERENNIAL_RETRIES"] = "0"
    assert pod.run(f"={DatabaseLost.exit_code}") == (DatabaseLost.exit_code, 1, [])
    assert pod.errors == []


def test_a_bad_model_after_an_accident_is_final(pod: Pod) -> None:
    assert pod.run("9", "=4")[:2] == (4, 2)


def test_pods_before_this_one_count(pod: Pod) -> None:
    pod.env["KFP_RETRY_INDEX"] = "1"
    assert pod.run("9")[:2] == (KILLED, 2)


@pytest.mark.parametrize("index", ["", "{{retries}}"])
def test_a_kubeflow_that_does_not_count_them_changes_nothing(pod: Pod, index: str) -> None:
    pod.env["KFP_RETRY_INDEX"] = index
    assert pod.run("9")[:2] == (KILLED, 3)


def test_without_the_setting_it_is_the_process_itself(pod: Pod) -> None:
    pod.env = {}
    assert pod.run("9")[:2] == (-signal.SIGKILL, 1)


def test_what_a_killed_process_had_started_is_ended_too(pod: Pod) -> None:
    assert pod.run("child", "=0")[:2] == (0, 2)
    child = int(Path(f"{pod.tries}.child").read_text())
    deadline = time.monotonic() + 10
    while _runs(child) and time.monotonic() < deadline:
        time.sleep(0.01)
    assert not _runs(child)


def _runs(pid: int) -> bool:
    status = Path(f"/proc/{pid}/stat")
    return status.exists() and status.read_text().rpartition(")")[2].split()[0] != "Z"


def test_a_pod_that_is_told_to_end_is_not_tried_again(pod: Pod) -> None:
    process = pod.start("wait", "=0")
    assert process.stdout is not None
    assert process.stdout.readline() == "waiting\n"
    process.send_signal(signal.SIGTERM)
    process.communicate()
    assert process.returncode == 128 + signal.SIGTERM
    assert pod.tries.read_text() == "x"
