"""The folder of recorded traffic: its files, limits and windows."""

from __future__ import annotations

import datetime
import os
import time
from pathlib import Path

import pytest

from pipeline.errors import ConfigError
from pipeline.monitoring import logs, retention, rows
from pipeline.monitoring.logs import Limits, Writer
from pipeline.monitoring.rows import Row
from tests.kit.cli import perennial
from tests.kit.serving import (
    MODEL,
)


def row(request: str = "a", at: int | None = None, **fields: object) -> Row:
    now = int(1000 * time.time()) if at is None else at
    return Row(request, 0, now, "rest", MODEL, **fields)  # type: ignore[arg-type]


class TestTheFolder:
    def test_rows_come_back_as_they_were(self, tmp_path: Path) -> None:
        written = row(
            label="stable", version=3, sha256="ab", format="png", size=7, height=2, width=4,
            channels=3, aspect=2.0, mean=0.5, contrast=0.25, predicted="Käse",
            probabilities=[0.25, 0.75], embedding=[1.0, 2.0], image=b"\x89PNG",
        )  # fmt: skip
        writer = Writer(tmp_path, Limits())
        writer.write(written)
        (found,) = logs.read(tmp_path).rows
        assert rows.to_example(found) == rows.to_example(written)
        (bare,) = logs.read(tmp_path, images=False).rows
        assert bare.image == b""

    def test_files_are_closed_and_the_disk_is_bounded(self, tmp_path: Path) -> None:
        writer = Writer(tmp_path, Limits(total=100_000, each=20_000))
        sizes = []
        for number in range(60):
            writer.write(row(str(number), at=number, image=os.urandom(5000)))
            sizes.append(sum(path.stat().st_size for path in retention.files(tmp_path)))
        assert max(sizes) <= 100_000
        assert sizes[-1] > 60_000
        kept = [int(each.request) for each in logs.read(tmp_path).rows]
        assert sorted(kept) == list(range(60 - len(kept), 60))

    def test_old_files_go(self, tmp_path: Path) -> None:
        writer = Writer(tmp_path, Limits(days=0))
        for age in (3, 1):
            writer.write(row(str(age)))
            writer.close()
            newest = max(retention.files(tmp_path), key=lambda path: path.stat().st_mtime)
            then = time.time() - age * 86400
            os.utime(newest, (then, then))
        assert len(retention.expired(tmp_path, 2)) == 1
        assert retention.expired(tmp_path, 0) == []
        Writer(tmp_path, Limits(days=2)).write(row("now"))
        assert {each.request for each in logs.read(tmp_path).rows} == {"1", "now"}

    @pytest.mark.parametrize("cut", [1, 4, 20, 100])
    def test_a_cut_end_hides_no_other_record(self, tmp_path: Path, cut: int) -> None:
        for name in ("first", "second"):
            writer = Writer(tmp_path, Limits())
            writer.write(row(name))
            writer.write(row(f"{name} cut" if name == "first" else name))
            writer.close()
        (first,) = (p for p in retention.files(tmp_path) if b"first" in p.read_bytes())
        os.truncate(first, first.stat().st_size - cut)
        found = logs.read(tmp_path)
        assert sorted(each.request for each in found.rows) == ["first", "second", "second"]
        (told,) = found.damaged
        assert str(first) in told

    def test_a_window(self, tmp_path: Path) -> None:
        writer = Writer(tmp_path, Limits())
        start = datetime.datetime(2026, 5, 1, tzinfo=datetime.UTC)
        for hour in range(5):
            at = start + datetime.timedelta(hours=hour)
            writer.write(row(str(hour), int(1000 * at.timestamp())))
        one = datetime.timedelta(hours=1)
        found = logs.read(tmp_path, start + one, start + 3 * one).rows
        assert [each.request for each in found] == ["1", "2"]

    def test_a_request_is_forgotten_while_others_are_recorded(self, tmp_path: Path) -> None:
        writer = Writer(tmp_path, Limits())
        for name in ("keep", "forget", "forget"):
            writer.write(row(name, image=f"picture of {name}".encode()))
        done = perennial("traffic", "forget", tmp_path, "forget")
        assert done.exit_code == 0
        writer.write(row("after"))
        assert [each.request for each in logs.read(tmp_path).rows] == ["keep", "after"]
        assert not any(b"picture of forget" in path.read_bytes() for path in tmp_path.iterdir())
        assert perennial("traffic", "forget", tmp_path, "forget").exit_code == 3

    def test_there_is_none(self, tmp_path: Path) -> None:
        with pytest.raises(ConfigError, match=f"^{tmp_path / 'none'}: "):
            logs.read(tmp_path / "none")
        assert perennial("traffic", "forget", tmp_path / "none", "a").exit_code == 2
