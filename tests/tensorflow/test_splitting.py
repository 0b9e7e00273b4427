"""Splits: classes are in train and eval, images stay where they are, and copies together."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from itertools import combinations
from pathlib import Path
from typing import NamedTuple

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from components.image_example_gen import assignments
from components.image_example_gen.assignments import Assignments
from components.image_example_gen.inputs import Input, split_of
from components.image_example_gen.near_duplicates import Pair
from tests.kit.ledgers import judge, settle

SHARES = {"train": 80, "eval": 20}
WITH_TEST = {"train": 70, "eval": 20, "test": 10}


class Photo(NamedTuple):
    """An image: what sets its bytes apart, its class, its span, and what it looks like."""

    number: int
    label: str = "a"
    span: int = 0
    look: int | None = None
    split: str = ""

    @property
    def sha256(self) -> str:
        return hashlib.sha256(str(self.number).encode()).hexdigest()


photos = st.builds(
    Photo,
    number=st.integers(0, 40),
    label=st.sampled_from("abc"),
    span=st.just(0),
    look=st.none() | st.integers(0, 4),
    split=st.just(""),
)
growing = st.lists(
    st.lists(photos, min_size=1, max_size=8, unique_by=lambda photo: photo.number),
    min_size=1,
    max_size=5,
)


def ingest(
    found: Iterable[Photo],
    earlier: Assignments | None = None,
    shares: Mapping[str, int] = SHARES,
    group: bool = False,
    window: set[int] | None = None,
) -> tuple[dict[int, str], Assignments]:
    """Return the splits of the kept photos by number, and the assignments."""
    earlier = earlier or Assignments("")
    found = list(found)
    inputs = [
        Input(str(photo.number), photo.label, photo.split, photo.sha256, photo.span, None)
        for photo in found
    ]
    ledger = judge(inputs, shares, window, earlier.of)
    looks = {str(photo.number): photo.look for photo in found}
    kept = [entry for entry in inputs if entry.is_kept]
    pairs = [
        Pair(first, second)
        for first, second in combinations(range(len(kept)), 2)
        if looks[kept[first].name] is not None
        and looks[kept[first].name] == looks[kept[second].name]
    ]
    settle(ledger, kept, pairs, shares, group, window)
    result = {int(entry.name): entry.split for entry in kept if entry.is_kept}
    remembered = Assignments(earlier.rule, dict(earlier))
    remembered.update(ledger.splits())
    return result, remembered


def distinct(stages: Sequence[Sequence[Photo]]) -> list[list[Photo]]:
    """Growing sets, each with all of the one before."""
    known: dict[int, Photo] = {}
    sets = []
    for stage in stages:
        known = {photo.number: photo for photo in stage} | known
        sets.append(list(known.values()))
    return sets


def plain(number: int, label: str = "a", look: int | None = None) -> Photo:
    return Photo(number, label, 0, look)


@given(growing, st.booleans(), st.sampled_from([SHARES, WITH_TEST]))
def test_a_class_of_enough_images_is_everywhere_and_its_images_stay(
    stages: list[list[Photo]], group: bool, shares: dict[str, int]
) -> None:
    remembered, before = Assignments(""), dict[int, str]()
    enough = set[str]()
    for everything in distinct(stages):
        splits, remembered = ingest(everything, remembered, shares, group)
        of = {photo.number: photo for photo in everything}
        for label in {photo.label for photo in everything}:
            mine = [number for number in splits if of[number].label == label]
            looks = {of[n].look if of[n].look is not None else f"own {n}" for n in mine}
            labels = {of[n].label for n in splits if of[n].look in looks}
            images = len(looks) if group else len(mine)
            if group and labels != {label}:
                continue  # a copy in another class ties their splits together
            there = {splits[number] for number in mine}
            if images >= 2:
                assert {"train", "eval"} <= there
            if images >= len(shares):
                assert set(shares) <= there
                for number in mine:
                    if label in enough and number in before:
                        assert splits[number] == before[number]
                enough.add(label)
        before = splits


@given(growing, st.randoms())
def test_neither_the_order_nor_the_names_count(stages: list[list[Photo]], random: object) -> None:
    everything = distinct(stages)[-1]
    shuffled = list(everything)
    random.shuffle(shuffled)  # type: ignore[attr-defined]
    (splits, made), (others, again) = (ingest(each, group=True) for each in (everything, shuffled))
    assert (splits, dict(made)) == (others, dict(again))


@given(growing, st.sampled_from([SHARES, WITH_TEST]))
def test_copies_are_never_in_two_splits(stages: list[list[Photo]], shares: dict[str, int]) -> None:
    remembered = Assignments("")
    for everything in distinct(stages):
        splits, remembered = ingest(everything, remembered, shares, group=True)
        for first, second in combinations(everything, 2):
            if first.look is not None and first.look == second.look:
                both = {splits.get(first.number), splits.get(second.number)} - {None}
                assert len(both) <= 1


@given(growing)
def test_spans_that_are_added_need_no_memory(stages: list[list[Photo]]) -> None:
    sets = distinct(stages)
    spans = {}
    for number, everything in enumerate(sets):
        spans.update({p.number: number for p in everything if p.number not in spans})
    dated = [[p._replace(span=spans[p.number], look=None) for p in each] for each in sets]
    counts = Counter(photo.label for photo in dated[0])
    assume(all(count > 1 for count in counts.values()))
    before: dict[int, str] = {}
    for everything in dated:
        splits, _ = ingest(everything)
        for photo in everything:
            if photo.label in counts and photo.number in before:
                assert splits[photo.number] == before[photo.number]
        before = splits


def test_no_rule_without_memory_could_do_it() -> None:
    # Each of the pairs has one image in train and one in eval, so the three differ pairwise.
    three = range(3)
    colourings = [
        colours
        for colours in ((a, b, c) for a in (0, 1) for b in (0, 1) for c in (0, 1))
        if all(colours[first] != colours[second] for first, second in combinations(three, 2))
    ]
    assert colourings == []


@given(st.integers(0, 10_000))
def test_ten_classes_of_ten(seed: int) -> None:
    found = [plain(seed * 100 + n, label=str(n // 10)) for n in range(100)]
    splits, _ = ingest(found)
    counts = Counter((photo.label, splits[photo.number]) for photo in found)
    assert len(counts) == 20
    moved = [p for p in found if splits[p.number] != split_of(p.sha256, SHARES)]
    assert len(moved) <= 10


def numbers(split: str, count: int, start: int = 0) -> list[int]:
    """Numbers of photos whose content belongs to a split."""
    found = (n for n in range(start, 10_000) if split_of(Photo(n).sha256, SHARES) == split)
    return [next(found) for _ in range(count)]


def test_a_single_image_is_where_its_content_puts_it() -> None:
    for split in SHARES:
        (number,) = numbers(split, 1)
        assert ingest([plain(number)])[0] == {number: split}


def test_a_new_image_moves_before_one_that_was_there() -> None:
    first, *more = sorted(numbers("train", 4), key=lambda n: Photo(n).sha256)
    _, remembered = ingest([plain(first)])
    splits, _ = ingest([plain(first), plain(more[0])], remembered)
    assert splits == {first: "train", more[0]: "eval"}


@pytest.mark.parametrize("group", [False, True])
def test_an_image_that_looks_like_no_other_moves_first(group: bool) -> None:
    alike = numbers("train", 8)
    single = max(alike, key=lambda n: Photo(n).sha256)
    found = [plain(n, look=None if n == single else 1) for n in alike]
    splits, _ = ingest(found, group=group)
    assert [number for number, split in splits.items() if split == "eval"] == [single]


def test_images_that_all_look_the_same_count_as_one_only_where_they_are_grouped() -> None:
    found = [plain(n, look=1) for n in numbers("train", 3)]
    assert Counter(ingest(found)[0].values()) == {"train": 2, "eval": 1}
    assert Counter(ingest(found, group=True)[0].values()) == {"train": 3}


def test_what_looks_like_images_of_two_splits_is_in_none() -> None:
    train, evaluated = plain(numbers("train", 1)[0], look=1), plain(numbers("eval", 1)[0])
    _, remembered = ingest([train, evaluated], group=True)
    between = plain(7777, look=1)
    found = [train, evaluated._replace(look=1), between]
    splits, _ = ingest(found, remembered, group=True)
    assert splits == {train.number: "train", evaluated.number: "eval"}


@pytest.mark.parametrize("split", ["train", "eval", "test"])
def test_splits_of_the_source_are_left_alone(split: str) -> None:
    given_ = [Photo(n, split=split) for n in range(3)]
    others = [Photo(n, "b", split=("train", "eval")[n % 2]) for n in range(10, 14)]
    splits, _ = ingest([*given_, *others])
    assert {splits[photo.number] for photo in given_} == {split}


def test_eval_images_of_old_spans_do_not_become_training_images() -> None:
    old = [Photo(n, span=1) for n in numbers("eval", 3)]
    new = [Photo(n, span=2) for n in numbers("eval", 2, start=500)]
    splits, _ = ingest([*old, *new], window={2})
    assert {splits[photo.number] for photo in old} == {"eval"}
    assert sorted(splits[photo.number] for photo in new) == ["eval", "train"]


def test_what_is_written_is_read_by_the_next_ingest(tmp_path: Path) -> None:
    found = [plain(n) for n in range(30)]
    for execution in ("3", "20"):
        (tmp_path / execution).mkdir()
        made = assignments.read(str(tmp_path / execution), SHARES, False)
        _, made = ingest(found[: int(execution)], made)
        made.write(str(tmp_path / execution))
    known = assignments.read(str(tmp_path / "21"), SHARES, False)
    assert dict(known) == dict(made)
    assert len(dict(known)) == 20
    assert dict(assignments.read(str(tmp_path / "20"), SHARES, False)).keys() < dict(known).keys()
    assert dict(assignments.read(str(tmp_path / "21"), WITH_TEST, False)) == {}
    assert dict(assignments.read(str(tmp_path / "21"), SHARES, True)) == {}


def test_what_an_earlier_version_wrote_is_read(tmp_path: Path) -> None:
    (tmp_path / "3").mkdir()
    rule = assignments.read(str(tmp_path / "4"), SHARES, False).rule
    old = {"rule": rule, "splits": {"eval": ["0" * 16], "train": ["1" * 16, "2" * 16]}}
    (tmp_path / "3" / "assignments.json").write_text(json.dumps(old))
    known = assignments.read(str(tmp_path / "4"), SHARES, False)
    assert dict(known) == {"0" * 16: "eval", "1" * 16: "train", "2" * 16: "train"}
