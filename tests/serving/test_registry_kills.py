"""Push, promotion, rollback and `retrain`, killed or with failing writes at many steps."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests import REPO

STRACED = 12  # points of each kind: one takes some seconds where there is little time


@pytest.mark.parametrize(
    ("kind", "points", "fewest"),
    [
        ("kill", 100, 100),
        *((kind, 40, 40) for kind in ("EIO", "ENOSPC", "EROFS")),
        ("short", 0, 16),
        *((f"strace-{kind}", STRACED, STRACED) for kind in ("EIO", "ENOSPC", "EROFS")),
    ],
)
def test_push_promote_and_rollback_leave_one_of_two_states_and_tell_it(
    tmp_path: Path, kind: str, points: int, fewest: int
) -> None:
    if kind.startswith("strace") and (os.geteuid() or not shutil.which("strace")):
        pytest.skip("needs strace, and root to trace others")
    # Each point syncs some dozen times, which a disk takes long for.
    memory = Path("/dev/shm")
    folder = memory / f"registry-{os.getpid()}-{kind}" if memory.is_dir() else tmp_path / "r"
    command = [sys.executable, "-m", "tests.kit.registry_faults", kind, str(folder)]
    done = subprocess.run(
        [*command, *([str(points)] * (points > 0))], cwd=REPO, capture_output=True
    )
    shutil.rmtree(folder, ignore_errors=True)
    assert done.returncode == 0, done.stderr[-2000:]
    found = json.loads(done.stdout)
    assert found["problems"] == []
    assert found["points"] >= fewest


def test_a_server_serves_one_of_two_states_and_answers_all_the_time(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "tests.kit.watched_kills", str(tmp_path), "5"],
        cwd=REPO,
        capture_output=True,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    found = json.loads(done.stdout)
    assert found["problems"] == []
    assert found["failed"] == []
    assert found["points"] == 5
    assert found["requests"] > 20
