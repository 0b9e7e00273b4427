"""What is known of inputs is on disk: no name is lost, and memory does not follow their number."""

from __future__ import annotations

import tracemalloc
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from components.image_example_gen import near_duplicates
from components.image_example_gen.inputs import Input, Problem
from components.image_example_gen.ledger import Ledger
from components.image_example_gen.sources import file_table
from components.image_example_gen.sources.file_table import FileTable, FileUnit, SourceFile
from components.image_example_gen.writing import Facts
from tests.benchmarks import driver_memory

# As the names of files may hold bytes that are no UTF-8.
texts = st.text(st.characters(codec=None, exclude_characters="/"), max_size=5)


@given(st.lists(texts, max_size=9), texts)
def test_whatever_a_name_holds_it_comes_back_and_is_sorted_as_before(
    names: list[str], detail: str
) -> None:
    ledger = Ledger()
    entries = [Input(name, name, "", "00", 0, Problem("damaged", detail)) for name in names]
    ledger.add(entries[:3])
    ledger.add(entries[3:])
    assert list(ledger.entries()) == entries
    assert ledger.unit(0) == entries[:3]
    assert ledger.unit(1) == entries[3:]
    assert [entry.name for entry in ledger.entries("TRUE", "name, +id")] == sorted(names)
    assert ledger.values("label", "TRUE") == sorted(set(names))


@given(st.lists(st.tuples(texts, st.integers(0, 2**40)), unique_by=lambda each: each[0]))
def test_files_are_dealt_in_turns_by_their_names(found: list[tuple[str, int]]) -> None:
    files = [SourceFile(name, "a", size=size) for name, size in found]
    table = FileTable("root", files, 10, by_name=True)
    assert table.files == len(files)
    expected = sorted(files, key=lambda file: file.name)
    assert list(table) == [
        FileUnit("root", tuple(expected[index :: len(table)]), 10) for index in range(len(table))
    ]
    assert len(table) <= len(files)
    assert len(list(table.contents)) == len(files)


@pytest.mark.parametrize(
    ("files", "size", "units"),
    [(1, 1, 1), (2, 1, 2), (6000, 3_000, 6), (2001, 1, 3), (100, 10 * 2**20, 16)],
)
def test_units_follow_from_what_there_is(files: int, size: int, units: int) -> None:
    found = (SourceFile(f"{number}.png", "a", size=size) for number in range(files))
    assert len(FileTable("root", found, 10)) == units
    assert file_table.MIN_UNITS == 2


def test_thumbnails_on_disk_are_compared_as_those_in_memory() -> None:
    random = np.random.default_rng(5)
    thumbs = random.integers(0, 256, (50, 243), np.uint8)
    thumbs[40:] = thumbs[:10]
    ledger = Ledger()
    ledger.add(Input(str(n), "a", "train", f"{n:064x}", 0, None) for n in range(50))
    ledger.settle(0, [(n, Facts(9, 9, "none", thumbs[n].tobytes())) for n in range(50) if n % 7])
    ledger.settle(0, [(n, Problem("damaged", "")) for n in range(0, 50, 7)])
    on_disk, rows = ledger.thumbs()
    assert rows.tolist() == [n for n in range(50) if n % 7]
    expected = [(n, n + 40) for n in range(10) if n % 7 and (n + 40) % 7]
    assert near_duplicates.find(on_disk, rows) == expected
    assert near_duplicates.find(thumbs, rows) == expected


def test_python_holds_a_unit_at_a_time(tmp_path: Path) -> None:
    """SQLite has its own few megabytes beside that: see `scratch`."""

    def peak(units: int) -> int:
        tracemalloc.start()
        ledger = Ledger()
        for unit in range(units):
            ledger.add(
                Input(f"{unit} {n}.jpg", "a", "", f"{unit:032x}{n:032x}", 0, None)
                for n in range(500)
            )
        for batch in ledger.batches():
            ledger.update(batch)
        assert len(ledger) == 500 * units
        assert sum(1 for _ in ledger.entries()) == 500 * units
        _, most = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        return most

    peak(1)
    assert peak(20) < 1.2 * peak(5)
    assert list(tmp_path.iterdir()) == []


def test_an_ingest_takes_no_more_memory_for_more_images() -> None:
    """Neither does what Beam is given grow with them, but by a path for each thousand."""
    few, many = driver_memory.measure(2_000), driver_memory.measure(20_000)
    assert many.peak_mb < 1.1 * few.peak_mb
    assert many.pipeline_bytes - few.pipeline_bytes < 18 * 500


def test_a_change_after_reading_is_known_from_the_outcomes() -> None:
    ledger = Ledger()
    ledger.add(
        Input(name, "a", "", sha256, 0, problem)
        for name, sha256, problem in (
            ("read", "ab", None),
            ("never read", "", Problem("unreadable", "")),
            ("damaged", "cd", Problem("damaged", "")),
        )
    )
    assert not ledger.has_changed()
    ledger.settle(0, [(0, Problem("changed", ""))])
    assert ledger.has_changed()
