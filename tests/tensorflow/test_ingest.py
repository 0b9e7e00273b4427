"""The ingest: every input accounted for, duplicates, splits, checks, and the component."""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tfx.types import standard_artifacts

from components import features
from components.decoding import decode_now
from components.errors import BadDataError
from components.image_example_gen.accounting import read_accounting
from components.image_example_gen.ingest import (
    MAX_BAD_LISTED,
)
from components.image_example_gen.inputs import Input, Problem, split_of
from components.image_example_gen.options import Options
from tests.kit import image_corpus as corpus
from tests.kit.ingested import SHARES, by_split, check, execute, lines, value
from tests.kit.ledgers import judge
from tests.kit.recorder import Recorder

CONVERTED = ("bmp", "gif", "tiff", "webp")  # changes that the stored bytes have seen


hex_digests = st.binary(min_size=32, max_size=32).map(bytes.hex)


class TestCorpus:
    """All of tests/kit/image_corpus.py, through the component's executor."""

    @pytest.fixture(scope="class")
    def fates(self, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, corpus.Fates]:
        root = tmp_path_factory.mktemp("corpus") / "data"
        root.mkdir()
        return root, corpus.write(root)

    @pytest.fixture(scope="class")
    def examples(
        self, fates: tuple[Path, corpus.Fates], tmp_path_factory: pytest.TempPathFactory
    ) -> standard_artifacts.Examples:
        return execute(fates[0], tmp_path_factory.mktemp("out"), max_bad_fraction=0.5)

    def test_is_as_nasty_as_it_should_be(self) -> None:
        assert len(corpus.VALID) + len(corpus.BROKEN) >= 60

    def test_every_file_has_the_fate_it_should_have(
        self, fates: tuple[Path, corpus.Fates], examples: standard_artifacts.Examples
    ) -> None:
        found = {
            value(example, features.FILENAME): f"example:{value(example, features.NORMALIZED)}"
            for split in by_split(examples).values()
            for example in split
        }
        found |= {line["path"]: "duplicate" for line in lines(examples, "duplicates.jsonl")}
        found |= {
            line["path"]: f"quarantined:{line['kind']}"
            for line in lines(examples, "quarantine.jsonl")
        }
        assert found == fates[1]

    def test_the_sum_is_right(
        self, fates: tuple[Path, corpus.Fates], examples: standard_artifacts.Examples
    ) -> None:
        record = read_accounting(examples.uri)
        kinds = Counter(fate.partition(":")[0] for fate in fates[1].values())
        assert record.inputs == len(fates[1]) == sum(kinds.values())
        assert record.all_examples == kinds["example"]
        assert record.duplicates == kinds["duplicate"]
        assert record.all_quarantined == kinds["quarantined"]
        assert record.ignored == {
            "hidden": 3,
            "not an image (.md)": 1,
            "not an image (.txt)": 1,
            "special file": 2,
        }
        assert [finding for finding in record.findings if "'bird'" in finding]

    def test_quarantine_names_what_it_can(
        self, fates: tuple[Path, corpus.Fates], examples: standard_artifacts.Examples
    ) -> None:
        import hashlib

        for line in lines(examples, "quarantine.jsonl"):
            path = fates[0] / line["path"]
            if line["kind"] == "link":  # what is behind it is not even read
                assert line["sha256"] is None
            else:
                assert line["sha256"] == hashlib.sha256(path.read_bytes()).hexdigest()
            assert line["reason"].startswith(line["kind"])

    def test_examples_hold_what_is_said_of_them(
        self, fates: tuple[Path, corpus.Fates], examples: standard_artifacts.Examples
    ) -> None:
        import hashlib

        files = corpus.files(fates[0])
        for split, found in by_split(examples).items():
            for example in found:
                names = set(example.features.feature)
                assert names == {*features.STATISTICS, *features.IDENTIFYING}
                original = files[value(example, features.FILENAME)].read_bytes()
                sha256 = hashlib.sha256(original).hexdigest()
                assert value(example, features.SHA256) == sha256
                assert split_of(sha256, SHARES) == split
                encoded = value(example, features.IMAGE)
                is_kept = value(example, features.NORMALIZED) not in CONVERTED
                assert (encoded == original) == is_kept
                label = value(example, features.LABEL_TEXT)
                assert value(example, features.FILENAME).split("/")[0] == label
                assert ["cat", "dog"][value(example, features.LABEL)] == label
                assert value(example, features.BYTES) == len(encoded)
                pixels = decode_now(encoded).pixels
                size = value(example, features.HEIGHT), value(example, features.WIDTH), 3
                assert tuple(pixels.shape) == size
                assert value(example, features.ASPECT) == pytest.approx(size[1] / size[0])

    def test_too_many_bad_files_stop_the_run_and_are_named(
        self, fates: tuple[Path, corpus.Fates]
    ) -> None:
        result = check(fates[0])
        bad = result.accounting.all_quarantined
        share = bad / result.accounting.inputs
        result.check([], "x", Options(max_bad_fraction=share))
        with pytest.raises(BadDataError) as caught:
            result.check([], "x", Options(max_bad_fraction=share - 1e-9))
        message = str(caught.value)
        assert f"{bad} of {len(fates[1])} " in message
        assert "12 damaged, 7 link" in message
        assert "dog/broken too.png (damaged: " in message
        listed, more = caught.value.findings[:-1], caught.value.findings[-1]
        assert len(listed) == MAX_BAD_LISTED
        assert any(line.startswith("dog/broken too.png: damaged") for line in listed)
        assert more == f"and {bad - MAX_BAD_LISTED} more"

    def test_again_gives_the_same(
        self, fates: tuple[Path, corpus.Fates], examples: standard_artifacts.Examples
    ) -> None:
        assert dataclasses.asdict(check(fates[0]).accounting) == dataclasses.asdict(
            read_accounting(examples.uri)
        )


class TestDamageAnywhere:
    """However the files of a set are damaged, each is accounted for."""

    @given(
        st.lists(
            st.tuples(
                st.sampled_from(sorted(corpus.VALID)),
                st.integers(0, 3),
                st.floats(0, 1),
                st.sampled_from(["cat", "dog"]),
            ),
            min_size=1,
            max_size=12,
        )
    )
    def test_accounting(self, files: list[tuple[str, int, float, str]]) -> None:
        import tempfile

        with tempfile.TemporaryDirectory() as root:
            for index, (name, seed, share, label) in enumerate(files):
                data = corpus.VALID[name][0](seed)
                path = Path(root, label, f"{index}.png")
                path.parent.mkdir(exist_ok=True)
                path.write_bytes(data[: round(len(data) * min(1, 2 * share))])
            result = check(root)
        record = result.accounting
        assert record.inputs == len(files)
        assert record.all_examples + len(list(result.duplicates)) + record.all_quarantined == len(
            files
        )


def entry(name: str, label: str = "a", sha256: str = "00", split: str = "", span: int = 0) -> Input:
    return Input(name, label, split, sha256, span, None)


entries = st.lists(
    st.builds(
        lambda label, sha256, split, span: (label, sha256, split, span),
        st.sampled_from("ab"),
        st.integers(0, 9).map(lambda n: f"{n * 7919:064x}"),
        st.sampled_from(["", "", "train", "eval", "test"]),
        st.integers(0, 2),
    ),
    max_size=20,
)


class TestJudge:
    def judged(
        self, found: Sequence[tuple[str, str, str, int]], order: Sequence[int]
    ) -> list[Input]:
        inputs = [
            entry(f"{index}.png", label, sha256, split, span)
            for index, (label, sha256, split, span) in enumerate(found)
        ]
        judge([inputs[index] for index in order], SHARES)
        return inputs

    @given(entries, st.randoms())
    def test_each_content_is_kept_once_or_is_a_conflict_in_any_order(
        self, found: list[tuple[str, str, str, int]], random: Any
    ) -> None:
        order = list(range(len(found)))
        first = self.judged(found, order)
        random.shuffle(order)
        assert self.judged(found, order) == first
        for sha256 in {content for _, content, _, _ in found}:
            copies = [item for item in first if item.sha256 == sha256]
            newest = max(item.span for item in copies)
            latest = {item.label for item in copies if item.span == newest}
            kinds = {item.problem and item.problem.kind for item in copies}
            if len(latest) > 1:
                assert kinds == {"conflict"}
            else:
                assert kinds <= {None, "relabelled"}
                assert {item.label for item in copies if not item.problem} == latest
                assert sum(item.is_kept for item in copies) == 1
                (kept,) = [item for item in copies if item.is_kept]
                assert {item.duplicate_of for item in copies} <= {"", kept.name}

    def test_a_duplicate_stays_where_it_is_held_out(self) -> None:
        inputs = [entry("1", split="train"), entry("2", split="test"), entry("3", split="eval")]
        judge(inputs, SHARES)
        assert [item.name for item in inputs if item.is_kept] == ["2"]

    def test_the_splits_of_a_source_are_kept(self) -> None:
        inputs = [
            entry(str(n), sha256=f"{n:064x}", split=("train", "eval", "test")[n % 3])
            for n in range(30)
        ]
        judge(inputs, SHARES)
        assert all(item.split == ("train", "eval", "test")[int(item.name) % 3] for item in inputs)

    def test_a_source_without_an_eval_split_gets_one_out_of_train(self) -> None:
        inputs = [
            entry(str(n), sha256=f"{n:064x}", split=("train", "test")[n % 2]) for n in range(100)
        ]
        judge(inputs, {"train": 4, "eval": 1, "test": 5})
        assert Counter(item.split for item in inputs) == {"test": 50, "train": 40, "eval": 10}
        assert all((item.split == "test") == (int(item.name) % 2 == 1) for item in inputs)

    @given(hex_digests, st.integers(1, 100), st.integers(1, 100))
    def test_a_split_depends_on_content_and_shares_only(
        self, digest: str, train: int, held: int
    ) -> None:
        expected = "train" if int(digest, 16) % (train + held) < train else "eval"
        assert split_of(digest, {"train": train, "eval": held}) == expected

    @given(st.sets(hex_digests, min_size=1, max_size=50), hex_digests, st.randoms())
    def test_new_data_moves_nothing(self, old: set[str], new: str, random: Any) -> None:
        def splits(digests: set[str], earlier: dict[str, str]) -> dict[str, str]:
            inputs = [entry(f"{random.random()}", sha256=digest) for digest in digests]
            judge(inputs, SHARES, earlier=lambda sha256: earlier.get(sha256, ""))
            return {item.sha256: item.split for item in inputs}

        first = splits(old, {})
        assert first.items() <= splits(old | {new}, first).items()

    def test_shares_are_met(self) -> None:
        import hashlib

        digests = (hashlib.sha256(str(i).encode()).hexdigest() for i in range(20_000))
        shares = {"train": 80, "eval": 15, "test": 5}
        counts = Counter(split_of(digest, shares) for digest in digests)
        assert counts["train"] == pytest.approx(16_000, rel=0.02)
        assert counts["eval"] == pytest.approx(3_000, rel=0.05)
        assert counts["test"] == pytest.approx(1_000, rel=0.1)


def test_progress_counts_every_input_and_image(
    two_classes: Path, recorder: Recorder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("components.progress.EVERY", 7)
    (two_classes / "cat" / "00.png").write_bytes(b"")
    check(two_classes)
    steps = [fields for event, fields in recorder.events if event == "step"]
    for what, unit, total in (("read", "inputs", 80), ("ingest", "images", 79)):
        mine = [step for step in steps if step["what"] == what]
        assert len(mine) > 10
        assert sum(step["advance"] for step in mine) == total
        assert all((step["total"], step["unit"]) == (total, unit) for step in mine)
        assert mine[-1][f"{unit}_per_s"] > 0


def test_a_problem_is_told_with_its_kind() -> None:
    assert str(Problem("empty", "zero bytes")) == "empty: zero bytes"
    assert str(Problem("odd", "")) == "odd"
