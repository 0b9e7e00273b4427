"""AtomicPusher: versions appear whole, increase, and repeat no model."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from components.atomic_pusher.executor import STAGING_PREFIX, push, versions


@pytest.fixture
def model(tmp_path: Path) -> Path:
    folder = tmp_path / "model"
    (folder / "variables").mkdir(parents=True)
    (folder / "saved_model.pb").write_bytes(b"graph")
    (folder / "variables" / "variables.index").write_bytes(b"index")
    return folder


def test_versions_increase_whatever_the_clock_says(model: Path, tmp_path: Path) -> None:
    base = tmp_path / "serving"
    assert push(model, base) == 1
    (model / "saved_model.pb").write_bytes(b"graph 2")
    assert push(model, base) == 2
    assert (base / "1" / "saved_model.pb").read_bytes() == b"graph"
    assert (base / "2" / "saved_model.pb").read_bytes() == b"graph 2"
    assert (base / "2" / "variables" / "variables.index").read_bytes() == b"index"


def test_continues_from_versions_that_others_made(model: Path, tmp_path: Path) -> None:
    base = tmp_path / "serving"
    (base / "1700000000").mkdir(parents=True)
    assert push(model, base) == 1700000001


def test_the_same_model_is_pushed_once(model: Path, tmp_path: Path) -> None:
    base = tmp_path / "serving"
    assert push(model, base) == push(model, base) == 1
    assert versions(base) == [1]


@pytest.mark.parametrize("fail_at", range(1, 5))
def test_a_push_that_fails_at_any_file_shows_no_version(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fail_at: int
) -> None:
    base = tmp_path / "serving"
    calls = 0
    fsync = os.fsync

    def failing(descriptor: int) -> None:
        nonlocal calls
        calls += 1
        if calls == fail_at:
            raise OSError(28, "No space left on device")
        fsync(descriptor)

    monkeypatch.setattr(os, "fsync", failing)
    with pytest.raises(OSError, match="No space left"):
        push(model, base)
    assert list(base.iterdir()) == []


def test_what_a_killed_push_left_is_removed(model: Path, tmp_path: Path) -> None:
    base = tmp_path / "serving"
    leftover = base / f"{STAGING_PREFIX}dead"
    leftover.mkdir(parents=True)
    (leftover / "half").write_bytes(b"x")
    assert push(model, base) == 1
    assert not leftover.exists()
