"""Faults of the machine during the whole DAG: what is lost and said, and what the next run does.

Faults of single nodes, of the metadata and of the clock are in tests/e2e/test_local_runner_*.py.
"""

from __future__ import annotations

import contextlib
import json
import re
import signal
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from components.model_registry import versions
from components.model_registry.signing import Keys, verify_version
from tests import REPO
from tests.kit.cli import sets
from tests.kit.runs import SMALL, TINY, Run, perennial_run, run_command


def _mounted(folder: Path, size: str) -> Path:
    folder.mkdir()
    done = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(folder)], capture_output=True
    )
    if done.returncode != 0:
        pytest.skip("mounting a tmpfs needs root")
    return folder


def _remount(folder: Path, option: str) -> None:
    subprocess.run(["mount", "-o", f"remount,{option}", str(folder)], check=True)


@pytest.fixture(scope="module")
def disks(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Path, Path]]:
    """Mount a small disk for the workspace, and one for pushed versions."""
    root = tmp_path_factory.mktemp("disks")
    disks = [_mounted(root / name, size) for name, size in (("work", "100m"), ("models", "50m"))]
    yield disks[0], disks[1]
    for disk in disks:
        subprocess.run(["umount", str(disk)], check=True)


@pytest.mark.in_order
class TestOneRunAfterTheOther:
    """Runs in one workspace, each of which begins with the finished nodes of the one before."""

    @pytest.fixture(scope="class")
    def arguments(self, few_digits: Callable[..., Path], disks: tuple[Path, Path]) -> list[str]:
        work, models = disks
        places = ["--workspace", str(work / "w"), "--data", str(few_digits("01", 30))]
        return [*places, *sets({"push.directory": f"{models}/digits", **TINY}), *SMALL]

    def interrupted_at(
        self, node: str, action: Callable[[subprocess.Popen[str]], None], arguments: list[str]
    ) -> Run:
        """Start a run, and do something as soon as `node` has started."""
        process = subprocess.Popen(
            run_command(*arguments),
            cwd=REPO,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        assert process.stdout is not None
        assert process.stderr is not None
        events = []
        for line in process.stdout:
            events.append(json.loads(line))
            if events[-1]["event"] == "node_start" and events[-1]["node"] == node:
                action(process)
        return Run(process.wait(), events, process.stderr.read())

    def test_a_full_disk(self, arguments: list[str], disks: tuple[Path, Path]) -> None:
        work, models = disks
        ballast = work / "ballast"

        def fill(_: subprocess.Popen[str]) -> None:
            with contextlib.suppress(OSError), ballast.open("wb", buffering=0) as file:
                while file.write(b"0" * 4096):
                    pass

        run = self.interrupted_at("StatisticsGen", fill, arguments)
        assert run.code == 5
        assert re.search(f" failed: .*space .*{work}", run.stderr)
        assert run.stderr.count("\n") == 1
        assert run.states("complete") >= {"ImageExampleGen"}
        assert len(run.states("failed")) == 1
        assert not list(models.iterdir())
        ballast.unlink()
        _remount(work, "size=30m")
        early = perennial_run(*arguments)
        assert early.code == 2
        assert re.search(rf"workspace: .* {work}", early.stderr)
        assert not early.states("complete")
        _remount(work, "size=200m")

    def test_sigterm_after_there_is_space_again(
        self, arguments: list[str], disks: tuple[Path, Path]
    ) -> None:
        run = self.interrupted_at(
            "Trainer", lambda process: process.send_signal(signal.SIGTERM), arguments
        )
        assert run.code == 130
        assert run.stderr.startswith("perennial: error: interrupted")
        assert run.stderr.count("\n") == 1
        assert "ImageExampleGen" in run.states("cached")
        assert run.states("interrupted") == {"Trainer"}
        assert not list(disks[0].glob("w/artifacts/Trainer/model/*"))

    def test_a_target_that_becomes_read_only(
        self, arguments: list[str], disks: tuple[Path, Path]
    ) -> None:
        _, models = disks
        run = self.interrupted_at("Evaluator", lambda _: _remount(models, "ro"), arguments)
        assert run.code == 5
        assert "Pusher failed: " in run.stderr
        assert "Read-only file system" in run.stderr
        assert str(models) in run.stderr
        assert run.states("complete") == {"Trainer", "Evaluator", "InfraValidator"}
        refused = perennial_run(*arguments)
        assert refused.code == 2
        assert re.search(rf"push\.directory: .*'{models}'", refused.stderr)
        assert refused.events[-1]["event"] == "error"
        _remount(models, "rw")
        assert not list(models.glob("*/*"))

    def test_then_only_what_is_left_is_done_and_it_is_signed(
        self,
        arguments: list[str],
        disks: tuple[Path, Path],
        make_keys: Callable[[str], Keys],
    ) -> None:
        keys = make_keys("mine")
        base = str(disks[1] / "digits")
        names = {"private_key": keys.private, "public_key": keys.public}
        signing = {f"push.signing.{name}": file for name, file in names.items()}
        run = perennial_run(*arguments, *sets(signing))
        assert run.code == 0, run.stderr
        assert run.states("complete") == {"Pusher"}
        assert run.summary["pushed"] == f"{base}/1"
        assert versions.find(base) == [1]
        verify_version(base, 1, keys.public)
