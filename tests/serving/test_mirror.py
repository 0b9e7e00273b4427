"""A model server's folder follows what is pushed to S3: whole versions only."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import fsspec
import pytest

from components import storage
from components.model_registry import mirror, versions
from tests.kit import s3 as s3_kit

BASE = "s3://bucket/models/colours"


@pytest.fixture
def s3(monkeypatch: pytest.MonkeyPatch) -> Iterator[s3_kit.S3]:
    with s3_kit.moto() as server:
        for name, value in server.env.items():
            monkeypatch.setenv(name, value)
        fsspec.filesystem("s3").clear_instance_cache()
        s3_kit.make_bucket()
        yield server
    fsspec.filesystem("s3").clear_instance_cache()


@pytest.fixture
def target(tmp_path: Path) -> Path:
    return tmp_path / "models" / "colours"


def push(folder: Path, content: str, keep: int = 10) -> int:
    (folder / "variables").mkdir(parents=True, exist_ok=True)
    (folder / "saved_model.pb").write_text(content)
    (folder / "variables" / "data").write_text(f"weights of {content}")
    return versions.push(folder, BASE, {"run": "r"}, keep, lambda: ())


def test_versions_come_and_go(s3: s3_kit.S3, tmp_path: Path, target: Path) -> None:
    assert mirror.mirror(BASE, target) == []
    push(tmp_path / "model", "one")
    push(tmp_path / "model", "two")
    assert len(mirror.mirror(BASE, target)) == 2
    assert versions.find(str(target)) == [1, 2]
    for number in (1, 2):
        manifest = versions.read_manifest(str(target), number)
        assert manifest is not None
        assert versions.damaged_files(str(target), number, manifest) == []
    s3.faults.log.clear()
    assert mirror.mirror(BASE, target) == []
    assert not any("variables" in line for line in s3.faults.log)
    push(tmp_path / "model", "three", keep=1)
    mirror.mirror(BASE, target)
    assert versions.find(str(target)) == [3]


def test_half_a_push_is_not_copied(s3: s3_kit.S3, tmp_path: Path, target: Path) -> None:
    push(tmp_path / "model", "one")
    storage.write_text(f"{BASE}/2/saved_model.pb", "half")
    mirror.mirror(BASE, target)
    assert versions.find(str(target)) == [1]


def test_what_is_not_what_was_pushed_is_refused(
    s3: s3_kit.S3, tmp_path: Path, target: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    push(tmp_path / "model", "one")
    storage.write_text(f"{BASE}/1/variables/data", "other")
    assert mirror.main([BASE, str(target), "--once"]) == 1
    event = json.loads(capsys.readouterr().out)
    assert event["event"] == "error"
    assert f"{BASE}/1/variables/data " in event["text"]
    assert versions.find(str(target)) == []
    assert [path.name for path in target.iterdir()] == [".lock"]


def test_a_mirror_that_was_killed_leaves_nothing(
    s3: s3_kit.S3, tmp_path: Path, target: Path
) -> None:
    push(tmp_path / "model", "one")
    (target / ".1-dead" / "variables").mkdir(parents=True)
    assert mirror.main([BASE, str(target), "--once"]) == 0
    assert sorted(path.name for path in target.iterdir() if path.name != ".lock") == ["1"]
