"""Wall time, CPU time and peak memory of a block."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

import pytest

from pipeline import usage

MB = 10**6


@pytest.fixture(params=["kernel", "sampled"])
def peak_source(
    request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    if request.param == "sampled":  # a /proc as sandboxes have it: no mark that could be reset
        (tmp_path / "clear_refs").mkdir()
        (tmp_path / "status").symlink_to("/proc/self/status")
        monkeypatch.setattr(usage, "_PROC", tmp_path)


@pytest.mark.usefixtures("peak_source")
def test_peak_counts_memory_that_was_given_back() -> None:
    with usage.measure() as before:
        pass
    with usage.measure() as used:
        block = b"x" * (200 * MB)
        time.sleep(4 * usage._SAMPLE_S)
        del block
    with usage.measure() as after:
        pass
    assert used.peak_mb > before.peak_mb + 150
    assert after.peak_mb < used.peak_mb - 150


def test_child_processes_count_as_cpu() -> None:
    busy = "import time\nwhile time.process_time() < 0.3: pass"
    with usage.measure() as used:
        subprocess.run([sys.executable, "-S", "-c", busy], check=True)
    assert used.cpu_s >= 0.3
    assert used.wall_s >= 0.3


def test_a_block_that_raises_is_measured() -> None:
    with pytest.raises(ZeroDivisionError), usage.measure() as used:
        _ = 1 / 0
    assert used.wall_s > 0
    assert used.peak_mb > 1
