"""A span of a date is called by its date, and that of corrections comes after all others."""

from __future__ import annotations

import datetime
import json
import re
import shutil
import time
from pathlib import Path

import pytest
from PIL import Image

from components.image_example_gen import inputs, spans
from components.image_example_gen.dataset import list_data
from components.image_example_gen.ingest import ingest, work_here
from components.image_example_gen.options import Options
from pipeline.config import load
from pipeline.errors import ConfigError
from pipeline.retraining import feedback, observe
from pipeline.retraining.observe import DecisionInputs
from tests.kit.ledgers import judge

DAYS = ("2026-11-27", "2026-11-28", "2026-11-29")


@pytest.fixture
def dated(tmp_path: Path) -> str:
    """Spans of three days, of which the last corrects a label of the first."""
    for number, day in enumerate(DAYS):
        for label, green in (("cat", 0), ("dog", 200)):
            folder = tmp_path / "data" / day / label
            folder.mkdir(parents=True)
            for index in range(3):
                color = (50 * number + index, green, 9)
                Image.new("RGB", (8, 8), color).save(folder / f"{index}.png")
    Image.new("RGB", (8, 8), (0, 0, 9)).save(tmp_path / "data" / DAYS[2] / "dog" / "was cat.png")
    return f"{tmp_path}/data/{{YYYY}}-{{MM}}-{{DD}}"


@pytest.mark.parametrize(
    ("source", "number", "expected"),
    [
        ("data/{YYYY}-{MM}-{DD}", 20786, "2026-11-29"),
        ("data/{YYYY}/{MM}/{DD}/v{VERSION}", 0, "1970-01-01"),
        ("data/{SPAN}", 20786, "20786"),
        ("data", 0, "0"),
    ],
)
def test_the_name_follows_from_the_source(source: str, number: int, expected: str) -> None:
    assert spans.name(number, source) == expected


def test_a_location_is_that_of_its_number(dated: str) -> None:
    for span in spans.resolve(dated, Options(spans=9)):
        assert spans.location(dated, span.number) == span.location
        assert spans.is_one(span.location, dated)
        assert spans.name(span.number, dated) == Path(span.location).name
    assert spans.location("a/{SPAN:3}/v{VERSION}", 7, 2) == "a/007/v2"


def test_an_ingest_tells_dates(dated: str) -> None:
    options = Options(spans=9)
    found = ingest(list_data(dated, options), {"train": 4, "eval": 1}, options, work_here(options))
    assert found.accounting.span_names == list(DAYS)
    (row,) = found.quarantine
    assert re.match(f"relabelled: span {DAYS[2]} .*'dog'", row["reason"])


def test_a_span_that_there_is_not_names_those_there_are(dated: str) -> None:
    with pytest.raises(spans.NoSpanError, match=f"{DAYS[0]} to {DAYS[2]}$"):
        spans.resolve(dated, Options(first_span=99_999))


def test_a_decision_tells_dates(dated: str, tmp_path: Path) -> None:
    (tmp_path / "data" / "2026-11-30").mkdir()
    config = load(None, {"data.source": dated}, scheduled=True).config
    now = datetime.datetime(2026, 12, 1, tzinfo=datetime.UTC)
    situation = observe.observe(
        config, DecisionInputs(None, str(tmp_path / "journal")), now, forced=False
    )
    assert situation.changes.empty_spans == ("2026-11-30",)
    assert json.dumps(situation.changes.empty_spans) == '["2026-11-30"]'


class TestCorrections:
    @pytest.fixture
    def images(self, tmp_path: Path) -> Path:
        folder = tmp_path / "inbox"
        folder.mkdir()
        Image.new("RGB", (5, 5), (7, 0, 0)).save(folder / "0.png")
        return folder

    def table(self, images: Path, row: str) -> Path:
        path = images / "feedback.csv"
        path.write_text(f"image,label\n{row}\n")
        return path

    @pytest.mark.parametrize(
        ("there", "expected"),
        [
            pytest.param([], "2026-05-01", id="the first"),
            pytest.param(["2026-04-28"], "2026-05-01", id="older ones"),
            pytest.param(["2026-05-01"], "2026-05-02", id="one of today"),
            pytest.param(["2026-05-02"], "2026-05-03", id="of tomorrow, as east of here"),
            pytest.param(["2026-12-31", "2026-01-01"], "2027-01-01", id="of another year"),
        ],
    )
    @pytest.mark.parametrize("version", ["", "/v{VERSION}"])
    def test_a_dated_span_comes_after_the_newest(
        self, images: Path, tmp_path: Path, there: list[str], expected: str, version: str
    ) -> None:
        """Whatever the clock and its zone tell; never as a version that hides the day's images."""
        for day in there:
            (tmp_path / "data" / day / version.format(VERSION=3).strip("/") / "cat").mkdir(
                parents=True
            )
        source = f"{tmp_path}/data/{{YYYY}}-{{MM}}-{{DD}}{version}"
        made = feedback.add(self.table(images, "0.png,cat"), source, datetime.date(2026, 5, 1))
        assert made.span == tmp_path / "data" / (expected + version.format(VERSION=1))
        newest = spans.resolve(source, Options())
        assert [span.location for span in newest] == [str(made.span)]

    @pytest.mark.parametrize("zone", ["Pacific/Kiritimati", "UTC", "Pacific/Niue"])
    def test_a_correction_counts_in_any_time_zone(
        self, images: Path, tmp_path: Path, zone: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """The day's images came in by the clock of the one who corrects them."""
        monkeypatch.setenv("TZ", zone)
        time.tzset()
        try:
            today = datetime.date.today()
            span = tmp_path / "data" / f"{today:%Y/%m/%d}" / "cat"
            span.mkdir(parents=True)
            shutil.copy(images / "0.png", span)
            (span.parent / "dog").mkdir()
            Image.new("RGB", (5, 5), (9, 99, 9)).save(span.parent / "dog" / "1.png")
            source = f"{tmp_path}/data/{{YYYY}}/{{MM}}/{{DD}}"
            feedback.add(self.table(images, "0.png,dog"), source, new_classes=["dog"])
        finally:
            monkeypatch.undo()
            time.tzset()
        rows = [
            entry for unit in inputs.scan(list_data(source, Options(spans=9))) for entry in unit
        ]
        judge(rows, {"train": 1})
        assert {row.name.rsplit("/", 2)[-2]: row.fate for row in rows if row.label == "cat"} == {
            "cat": "quarantined"
        }
        assert [row.fate for row in rows if row.label == "dog"] == ["train", "train"]

    def test_a_number_without_room_is_refused(self, images: Path, tmp_path: Path) -> None:
        (tmp_path / "data" / "9" / "cat").mkdir(parents=True)
        with pytest.raises(ConfigError, match=r"\{SPAN:1\}: .*\b10; "):
            feedback.add(self.table(images, "0.png,cat"), f"{tmp_path}/data/{{SPAN:1}}")
        assert [path.name for path in (tmp_path / "data").glob("[!.]*")] == ["9"]
