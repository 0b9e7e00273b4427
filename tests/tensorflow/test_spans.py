"""Spans: which parts of a data set a run reads."""

from __future__ import annotations

import re
import tempfile
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tfx.components.example_gen import utils
from tfx.proto import example_gen_pb2

from components.errors import BadDataError
from components.image_example_gen.dataset import list_data
from components.image_example_gen.options import Options
from components.image_example_gen.spans import NoSpanError, resolve
from tests.kit.data_sources import digest


def make(root: Path, *names: str) -> Path:
    for name in names:
        (root / name).mkdir(parents=True)
    return root


def numbers(pattern: str | Path, **options: Any) -> list[int]:
    return [span.number for span in resolve(str(pattern), Options(**options))]


def test_the_latest_by_number_not_by_name(tmp_path: Path) -> None:
    make(tmp_path, "9", "10", "2")
    (span,) = resolve(f"{tmp_path}/{{SPAN}}", Options())
    assert span == (10, None, f"{tmp_path}/10")


def test_a_window_of_the_last_ones_that_are_there(tmp_path: Path) -> None:
    make(tmp_path, "1", "3", "7", "20")
    assert numbers(tmp_path / "{SPAN}", spans=3) == [3, 7, 20]
    assert numbers(tmp_path / "{SPAN}", spans=9) == [1, 3, 7, 20]


@pytest.mark.parametrize(
    ("first", "last", "expected"),
    [(3, 7, [3, 7]), (4, None, [7, 20]), (None, 3, [1, 3]), (7, 7, [7])],
)
def test_a_static_range_includes_its_ends(
    tmp_path: Path, first: int | None, last: int | None, expected: list[int]
) -> None:
    make(tmp_path, "1", "3", "7", "20")
    assert numbers(tmp_path / "{SPAN}", first_span=first, last_span=last) == expected


def test_the_highest_version_counts(tmp_path: Path) -> None:
    make(tmp_path, "1/v9", "1/v10", "2/v1", "3/readme")
    found = resolve(f"{tmp_path}/{{SPAN}}/v{{VERSION}}", Options(spans=5))
    assert [(span.number, span.version) for span in found] == [(1, 10), (2, 1)]
    assert found[0].location == f"{tmp_path}/1/v10"


def test_a_width_is_exact(tmp_path: Path) -> None:
    make(tmp_path, "007", "0010", "12")
    assert numbers(tmp_path / "{SPAN:3}") == [7]


@pytest.mark.parametrize(
    "pattern", ["{YYYY}-{MM}-{DD}", "{YYYY}/{MM}/{DD}/photos", "d{DD}{MM}{YYYY}"]
)
def test_dates_are_days_as_in_tfx(tmp_path: Path, pattern: str) -> None:
    dates = [(2024, 2, 29), (2023, 12, 31), (2024, 2, 28)]
    for year, month, day in dates:
        name = pattern.replace("{YYYY}", f"{year}").replace("{MM}", f"{month:02}")
        make(tmp_path, name.replace("{DD}", f"{day:02}"))
    make(tmp_path, "2024-13-01", "notes")
    expected = sorted(utils.date_to_span_number(*date) for date in dates)
    assert numbers(tmp_path / pattern, spans=9) == expected


@given(
    st.sets(st.integers(0, 120), min_size=1, max_size=6),
    st.sampled_from(["{SPAN}", "s{SPAN}e", "{SPAN}/v{VERSION}"]),
)
def test_the_latest_is_the_one_that_tfx_takes(spans: set[int], pattern: str) -> None:
    with tempfile.TemporaryDirectory() as root:
        for span in spans:
            for version in (1, 11):
                name = pattern.replace("{SPAN}", str(span)).replace("{VERSION}", str(version))
                (Path(root) / name).mkdir(parents=True, exist_ok=True)
        split = example_gen_pb2.Input.Split(name="all", pattern=pattern)
        _, number, version = utils.calculate_splits_fingerprint_span_and_version(root, [split])
        (found,) = resolve(f"{root}/{pattern}", Options())
        assert (found.number, found.version) == (number, version)
        assert found.location == f"{root}/{split.pattern}"


def test_files_may_be_spans_and_their_folders_may_have_odd_names(tmp_path: Path) -> None:
    folder = make(tmp_path, "[a] *b?") / "[a] *b?"
    (folder / "3.csv").write_text("path,label\n")
    (folder / "x3.csv").write_text("path,label\n")
    assert numbers(folder / "{SPAN}.csv") == [3]


@pytest.mark.parametrize(
    "pattern",
    [
        "{SPAN}/{SPAN}",
        "{VERSION}",
        "{YYYY}-{MM}",
        "{SPAN}/{YYYY}{MM}{DD}",
        "{SPAN:x}",
        "{YYYY:4}{MM}{DD}",
    ],
)
def test_patterns_that_tfx_has_not_are_refused(tmp_path: Path, pattern: str) -> None:
    with pytest.raises(BadDataError, match=f"^{re.escape(f'{tmp_path}/{pattern}')}: .*SPAN"):
        resolve(f"{tmp_path}/{pattern}", Options())


def test_no_span_is_an_error_that_tells_which_there_are(tmp_path: Path) -> None:
    with pytest.raises(NoSpanError, match=rf"^{tmp_path}/\{{SPAN\}}: "):
        numbers(tmp_path / "{SPAN}")
    make(tmp_path, "3", "5")
    with pytest.raises(NoSpanError, match=r"\b3 to 5$"):
        numbers(tmp_path / "{SPAN}", first_span=9)


@pytest.mark.parametrize("options", [{"spans": 2}, {"first_span": 0}, {"last_span": 1}])
def test_a_window_needs_a_pattern(tmp_path: Path, options: dict[str, int]) -> None:
    with pytest.raises(
        BadDataError,
        match=rf"^{tmp_path}: data\.spans, data\.first_span .*data\.last_span .*\{{SPAN\}}",
    ):
        numbers(tmp_path, **options)


class TestData:
    def test_inputs_carry_their_span_and_a_name_of_their_own(self, tmp_path: Path) -> None:
        for span in ("3", "12"):
            make(tmp_path, f"{span}/cat")
            (tmp_path / span / "cat" / "x.png").write_bytes(b"x")
        data = list_data(f"{tmp_path}/{{SPAN}}", Options(spans=2))
        found = [(unit.span, item.name) for unit in data.units for item in unit.items()]
        assert found == [(3, "3/cat/x.png"), (12, "12/cat/x.png")]

    def test_a_span_that_lands_changes_the_fingerprint_only_within_the_window(
        self, tmp_path: Path
    ) -> None:
        def of(**options: Any) -> str:
            return digest(f"{tmp_path}/{{SPAN}}", **options)

        make(tmp_path, "1/a", "2/a")
        (tmp_path / "1" / "a" / "x.png").write_bytes(b"x")
        latest, fixed = of(), of(first_span=1, last_span=1)
        (tmp_path / "3" / "a").mkdir(parents=True)
        (tmp_path / "3" / "a" / "y.png").write_bytes(b"y")
        assert of() != latest
        assert of(first_span=1, last_span=1) == fixed
