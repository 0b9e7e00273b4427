"""A span of a date is called by its date, wherever a person reads of it."""

from __future__ import annotations

import datetime
import json
from pathlib import Path

import pytest
from PIL import Image

from components.errors import BadDataError
from components.image_example_gen import spans
from components.image_example_gen.dataset import list_data
from components.image_example_gen.ingest import ingest, work_here
from components.image_example_gen.options import Options
from pipeline.config import load
from pipeline.retraining import look
from pipeline.retraining.look import Place

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
    assert [row["reason"] for row in found.quarantine] == [
        f"relabelled: span {DAYS[2]} labels the same bytes 'dog'"
    ]


def test_a_span_that_there_is_not_names_those_there_are(dated: str) -> None:
    with pytest.raises(BadDataError, match=f"there are spans {DAYS[0]} to {DAYS[2]}"):
        spans.resolve(dated, Options(first_span=99_999))


def test_a_decision_tells_dates(dated: str, tmp_path: Path) -> None:
    (tmp_path / "data" / "2026-11-30").mkdir()
    config = load(None, {"data.source": dated}, scheduled=True).config
    now = datetime.datetime(2026, 12, 1, tzinfo=datetime.UTC)
    situation = look.look(config, Place(None, str(tmp_path / "journal")), now, forced=False)
    assert situation.news.empty_spans == ("2026-11-30",)
    assert json.dumps(situation.news.empty_spans) == '["2026-11-30"]'
