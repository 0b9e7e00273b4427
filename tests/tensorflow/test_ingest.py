"""The ingest: every input accounted for, duplicates, splits, checks, and the component."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import shutil
import threading
import types
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from tfx.orchestration.portable import data_types
from tfx.types import standard_artifacts

from components import features, parallel
from components.decoding import decode_now
from components.errors import BadDataError
from components.image_example_gen import near_duplicates, writing
from components.image_example_gen.accounting import Accounting, read_accounting
from components.image_example_gen.component import ImageExampleGen
from components.image_example_gen.dataset import list_data
from components.image_example_gen.driver import Driver
from components.image_example_gen.executor import Executor
from components.image_example_gen.images import read_image
from components.image_example_gen.ingest import (
    MAX_BAD_LISTED,
    Ingest,
    ingest,
    split_names,
    work_here,
)
from components.image_example_gen.inputs import Input, Problem, split_of
from components.image_example_gen.options import Options
from components.image_example_gen.pieces import Pieces
from components.image_example_gen.writing import Outcome, Work
from components.wording import shortened
from tests.kit import data_sources
from tests.kit import image_corpus as corpus
from tests.kit.ingested import BEAM_ARGS, SHARES, by_split, execute, lines, records, value
from tests.kit.ledgers import judge
from tests.kit.recorder import Recorder

CONVERTED = ("bmp", "gif", "tiff", "webp")  # changes that the stored bytes have seen
hex_digests = st.binary(min_size=32, max_size=32).map(bytes.hex)


def check(source: Path | str, shares: Mapping[str, int] = SHARES, **options: Any) -> Ingest:
    """Ingest without Beam and without writing."""
    chosen = Options(**options)
    return ingest(list_data(str(source), chosen), shares, chosen, work_here(chosen))


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
        assert "class folder 'bird' holds no image" in record.findings

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
        assert f"{bad} of {len(fates[1])} inputs cannot be used" in message
        assert "12 damaged, 7 link" in message
        assert "dog/broken too.png (damaged: truncated or corrupt: " in message
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


def thumb(data: bytes) -> bytes:
    return read_image(data, 10**7).thumb


def photo(seed: int, width: int = 200, height: int = 150) -> Image.Image:
    rng = np.random.default_rng(seed)
    coarse = Image.fromarray(rng.integers(0, 256, (12, 12, 3), dtype=np.uint8))
    smooth = np.asarray(coarse.resize((width, height), Image.Resampling.BICUBIC)).astype(int)
    return Image.fromarray(np.clip(smooth + rng.normal(0, 6, smooth.shape), 0, 255).astype("uint8"))


def pairs_of(thumbs: Sequence[bytes]) -> list[near_duplicates.Pair]:
    return near_duplicates.find(np.frombuffer(b"".join(thumbs), np.uint8).reshape(-1, 243))


class TestNearDuplicates:
    @pytest.mark.parametrize(
        "copy",
        [
            lambda image: corpus.encoded(image, "JPEG", quality=60),
            lambda image: corpus.encoded(image.resize((100, 75)), "PNG"),
            lambda image: corpus.encoded(image.resize((333, 250)), "WEBP"),
            lambda image: corpus.encoded(image.point(lambda v: min(255, v + 4)), "JPEG"),
        ],
        ids=["recompressed", "smaller", "larger", "brighter"],
    )
    def test_copies_are_found_among_others(self, copy: Any) -> None:
        photos = [photo(seed) for seed in range(40)]
        thumbs = [thumb(corpus.encoded(image, "JPEG", quality=95)) for image in photos]
        thumbs += [thumb(copy(image)) for image in photos[:10]]
        assert pairs_of(thumbs) == [(n, 40 + n) for n in range(10)]

    def test_plain_images_of_other_colours_are_not_the_same(self) -> None:
        colors = [(0, 0, 0), (255, 255, 255), (200, 0, 0), (0, 100, 0), (120, 120, 120)]
        plain = [corpus.encoded(Image.new("RGB", (20, 20), color), "PNG") for color in colors]
        assert pairs_of([thumb(data) for data in [*plain, plain[2]]]) == [(2, 5)]

    @pytest.mark.parametrize("count", [0, 1])
    def test_of_too_few(self, count: int) -> None:
        assert pairs_of([bytes(243)] * count) == []

    def test_many_that_look_the_same_cost_no_more_than_their_number(self) -> None:
        pairs = pairs_of([bytes(243)] * 2000)
        assert len(pairs) <= 2000 * near_duplicates.NEIGHBOURS
        assert near_duplicates.groups(pairs) == [list(range(2000))]

    @given(st.lists(st.tuples(st.integers(0, 12), st.integers(0, 12)), max_size=20))
    def test_groups_are_what_pairs_connect(self, edges: list[tuple[int, int]]) -> None:
        pairs = [near_duplicates.Pair(*sorted(edge)) for edge in edges if edge[0] != edge[1]]
        groups = near_duplicates.groups(pairs)
        of = {member: number for number, group in enumerate(groups) for member in group}
        assert all(of[first] == of[second] for first, second in pairs)
        assert sum(map(len, groups)) == len(of) == len({n for pair in pairs for n in pair})
        # As many groups as nodes less the edges of a forest.
        reach = {node: {node} for node in of}
        for _ in of:
            for first, second in pairs:
                joined = reach[first] | reach[second]
                for node in joined:
                    reach[node] = joined
        assert sorted({tuple(sorted(nodes)) for nodes in reach.values()}) == list(
            map(tuple, groups)
        )

    @pytest.fixture
    def doubled(self, tmp_path: Path) -> Path:
        """20 photos a class, each also recompressed; one of them in the other class."""
        root = tmp_path / "doubled"
        for seed in range(40):
            folder = root / ("cat" if seed < 20 else "dog")
            folder.mkdir(parents=True, exist_ok=True)
            (folder / f"{seed}.png").write_bytes(corpus.encoded(photo(seed), "PNG"))
            (folder / f"{seed} again.jpg").write_bytes(corpus.encoded(photo(seed), "JPEG"))
        (root / "cat" / "0 again.jpg").rename(root / "dog" / "wrong.jpg")
        return root

    def test_are_reported_across_splits_and_classes(self, doubled: Path) -> None:
        result = check(doubled)
        counts = result.accounting.near_duplicates
        assert counts["pairs"] == 40
        assert counts["across_classes"] == 1
        assert 0 < counts["across_splits"] < 40
        assert result.near_duplicates[0]["paths"] == ["cat/0.png", "dog/wrong.jpg"]
        assert len(result.near_duplicates) == 40
        assert any(
            "look the same in different splits" in text for text in result.accounting.findings
        )
        assert any("cat/0.png = dog/wrong.jpg" in text for text in result.accounting.findings)

    def test_can_be_put_into_one_split(self, doubled: Path, tmp_path: Path) -> None:
        examples = execute(doubled, tmp_path / "out", group_near_duplicates=True)
        record = read_accounting(examples.uri)
        assert record.near_duplicates["across_splits"] == 0
        assert record.near_duplicates["pairs"] == 40
        written = by_split(examples)
        names = [
            value(example, features.FILENAME) for split in written.values() for example in split
        ]
        assert len(names) == len(set(names)) == 80
        for split, found in written.items():
            counts = Counter(value(example, features.LABEL_TEXT) for example in found)
            assert counts == record.splits[split]

    def test_splits_of_the_source_draw_and_stay(self, tmp_path: Path) -> None:
        rows = ["path,label,split"]
        for seed in range(20):
            for name, split in (("a", "test" if seed < 10 else ""), ("b", "")):
                quality = 95 if name == "a" else 70
                data = corpus.encoded(photo(seed), "JPEG", quality=quality)
                (tmp_path / f"{seed}{name}.jpg").write_bytes(data)
                rows.append(f"{seed}{name}.jpg,{'xy'[seed % 2]},{split}")
        (tmp_path / "list.csv").write_text("\n".join(rows))
        result = check(tmp_path / "list.csv", group_near_duplicates=True)
        assert result.accounting.near_duplicates == {
            "pairs": 20,
            "across_splits": 0,
            "across_classes": 0,
        }
        assert result.accounting.examples("test") == 20


class TestChecks:
    def test_a_class_missing_from_a_split_is_named(self) -> None:
        record = Accounting(
            classes=["cat", "dog"], splits={"train": {"cat": 3, "dog": 2}, "eval": {"cat": 1}}
        )
        record.check_splits(["train"], "/data")
        with pytest.raises(BadDataError, match="the eval split has no image of 'dog'; add"):
            record.check_splits(["train", "eval"], "/data")

    def test_a_share_that_reaches_no_image_gives_every_class_one(self, two_classes: Path) -> None:
        result = check(two_classes, {"train": 10**9, "eval": 1})
        result.check(split_names({"train": 1, "eval": 1}, result.accounting), "x", Options())
        assert result.accounting.splits["eval"] == {"cat": 1, "dog": 1}

    def test_a_split_of_the_source_that_lacks_a_class_is_an_error(self, two_classes: Path) -> None:
        root = two_classes.with_name("splits")
        shutil.copytree(two_classes, root / "train")
        (root / "train" / "cat" / "00.png").rename(root / "00.png")
        (root / "val" / "cat").mkdir(parents=True)
        (root / "00.png").rename(root / "val" / "cat" / "00.png")
        result = check(root)
        names = split_names(SHARES, result.accounting)
        with pytest.raises(BadDataError, match="the eval split has no image of 'dog'; add"):
            result.check(names, "x", Options())

    def test_one_class_only(self, two_classes: Path) -> None:
        shutil.rmtree(two_classes / "dog")
        with pytest.raises(BadDataError, match="only one class, 'cat'"):
            check(two_classes).check([], "x", Options())

    def test_nothing_to_ingest(self, tmp_path: Path) -> None:
        with pytest.raises(BadDataError, match="no images found; expected <class name>/<image>"):
            check(tmp_path)
        (tmp_path / "notes.txt").touch()
        with pytest.raises(BadDataError, match=r"among 1 other file: 1 .*\.txt.*; expected"):
            check(tmp_path)
        (tmp_path / "cat").mkdir()
        for name in ("a.mp4", "b.mp4", ".hidden.png"):
            (tmp_path / "cat" / name).touch()
        with pytest.raises(BadDataError, match=r"among 4 other files: 2 .*\.mp4") as caught:
            check(tmp_path)
        assert "1 hidden" in str(caught.value)

    def test_nothing_but_bad_files(self, tmp_path: Path) -> None:
        (tmp_path / "cat").mkdir()
        (tmp_path / "cat" / "1.png").touch()
        with pytest.raises(BadDataError, match="1 of 1 inputs cannot be used"):
            check(tmp_path).check(["train"], "x", Options())
        with pytest.raises(BadDataError, match="all images of 'cat' are quarantined"):
            check(tmp_path).check(["train"], "x", Options(max_bad_fraction=1))

    @pytest.mark.parametrize("kind", ["empty", "conflict", "link", "unreadable", "unsupported"])
    def test_a_class_that_is_quarantined_as_a_whole(
        self, two_classes: Path, kind: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """However few of all images that is."""
        owl = two_classes / "owl"
        match kind:
            case "link":
                (two_classes.parent / "elsewhere").mkdir()
                owl.symlink_to(two_classes.parent / "elsewhere")
            case "unreadable":
                owl.mkdir()
                scandir = os.scandir

                def refuse(path: str) -> Any:
                    if str(path).endswith("/owl"):
                        raise PermissionError(13, "Permission denied")
                    return scandir(path)

                monkeypatch.setattr(os, "scandir", refuse)
            case _:
                owl.mkdir()
                content = {"empty": b"", "unsupported": b"\0\0\0\x18ftypheic" + bytes(40)}
                copied = (two_classes / "cat" / "00.png").read_bytes()
                (owl / "1.png").write_bytes(content.get(kind, copied))
        result = check(two_classes)
        with pytest.raises(BadDataError, match="all images of 'owl' are quarantined") as told:
            result.check(["train", "eval"], "x", Options(max_bad_fraction=1))
        assert kind in str(told.value)
        assert all(row.startswith("owl") for row in told.value.findings)

    def test_a_class_that_a_later_span_renames_is_not_missed(self, tmp_path: Path) -> None:
        for label in ("cat", "dog", "hound"):
            for number in range(20):
                file = tmp_path / "1" / label / f"{number}.png"
                file.parent.mkdir(parents=True, exist_ok=True)
                color = (number, 40 * len(label), ord(label[0]))
                file.write_bytes(corpus.encoded(Image.new("RGB", (8, 8), color), "PNG"))
        shutil.copytree(tmp_path / "1" / "hound", tmp_path / "2" / "dog")
        result = check(tmp_path / "{SPAN}", spans=2)
        result.check(["train", "eval"], "x", Options(spans=2, max_bad_fraction=1))
        assert result.accounting.classes == ["cat", "dog"]

    @pytest.mark.parametrize("shared", [20, 40])
    def test_images_that_the_source_has_in_two_splits_are_told(
        self, two_classes: Path, shared: int
    ) -> None:
        """They judge and do not train; where that are all, there is nothing to train on."""
        root = two_classes.with_name("splits")
        shutil.copytree(two_classes, root / "train")
        for file in sorted((root / "train").rglob("*.png")):
            if int(file.stem) < shared:
                copy = root / "val" / file.parent.name / f"renamed {file.name}"
                copy.parent.mkdir(parents=True, exist_ok=True)
                shutil.copy(file, copy)
        result = check(root)
        assert result.accounting.examples("eval") == 2 * shared
        assert result.accounting.examples("train") == 80 - 2 * shared
        (finding,) = [
            each for each in result.accounting.findings if "the same content as held-out" in each
        ]
        assert finding.startswith(f"{2 * shared} images of 'train'")
        if shared == 40:
            with pytest.raises(BadDataError, match="the train split has no image of 'cat', 'dog'"):
                result.check(["train", "eval"], "x", Options())

    def test_a_lost_input_is_a_bug(self) -> None:
        with pytest.raises(RuntimeError, match="not accounted for: 3 inputs = 1 example "):
            Accounting(["a"], {"train": {"a": 1}}, inputs=3, duplicates=1).check_balance()

    def test_imbalance_tiny_and_extreme_images_are_told(self, tmp_path: Path) -> None:
        for label, count in (("many", 33), ("few", 3)):
            (tmp_path / label).mkdir()
            for seed in range(count):
                data = corpus.encoded(photo(seed + 100 * count), "PNG")
                (tmp_path / label / f"{seed}.png").write_bytes(data)
        for name, size in (("icon", (9, 9)), ("strip", (600, 100))):
            data = corpus.encoded(photo(1000, *size), "PNG")
            (tmp_path / "many" / f"{name}.png").write_bytes(data)
        assert check(tmp_path).accounting.findings == [
            "classes are out of balance: 35 images of 'many', 3 of 'few'",
            "1 image tiny beside the median of 150 pixels: many/icon.png (9 x 9)",
            "1 image more than 5 times as long as wide: many/strip.png (600 x 100)",
        ]

    @pytest.mark.parametrize(("count", "text"), [(2, "0, 1"), (3, "0, 1 and 1 more")])
    def test_long_lists_are_shortened(self, count: int, text: str) -> None:
        assert shortened(range(count), limit=2) == text


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


class TestChange:
    """Files that change between being hashed and being decoded."""

    def ingested(self, root: Path, change: Any) -> Ingest:
        def work(pieces: Pieces) -> Iterator[tuple[Work, list[Outcome]]]:
            change()
            return work_here(Options())(pieces)

        return ingest(list_data(str(root), Options()), SHARES, Options(), work)

    @pytest.mark.parametrize("kind", ["changed", "unreadable"])
    def test_are_quarantined(self, two_classes: Path, kind: str) -> None:
        file = two_classes / "cat" / "00.png"
        change = file.unlink if kind == "unreadable" else lambda: file.write_bytes(b"other")
        (line,) = list(self.ingested(two_classes, change).quarantine)
        assert (line["path"], line["kind"]) == ("cat/00.png", kind)

    def test_records_that_are_gone_are_quarantined(self, tmp_path: Path) -> None:
        path = tmp_path / "x.tfrecord"
        pets = [
            data_sources.example(image=corpus.make("PNG", seed), label=seed % 2)
            for seed in range(6)
        ]
        data_sources.write_records(path, *pets)
        result = self.ingested(path, lambda: data_sources.write_records(path, *pets[:4]))
        assert [line["kind"] for line in result.quarantine] == ["changed", "changed"]
        assert result.accounting.all_examples == 4


class TestInOrder:
    def test_keeps_order_and_bounds_what_is_in_flight(self) -> None:
        threads = len(__import__("os").sched_getaffinity(0))
        taken, done = 0, 0
        most = 0

        def values() -> Iterator[int]:
            nonlocal taken, most
            for number in range(2000):
                taken += 1
                most = max(most, taken - done)
                yield number

        found = []
        for result in parallel.in_order(lambda number: number * 2, values(), lambda _: 1):
            found.append(result)
            done += 1
        assert found == list(range(0, 4000, 2))
        assert most <= (threads + 3) * parallel.BATCH_ITEMS

    def test_what_is_quick_is_done_here_and_what_is_slow_in_threads(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        names: list[str] = []
        clock = [0.0]
        monkeypatch.setattr(parallel, "time", types.SimpleNamespace(monotonic=lambda: clock[0]))

        def work(seconds: float) -> float:
            clock[0] += seconds
            names.append(threading.current_thread().name)
            return seconds

        values = [0.0] * 64 + [0.001] * 64 + [0.0] * 64
        assert list(parallel.quick_in_order(work, values, lambda _: 1)) == values
        here = threading.current_thread().name
        assert set(names[:64]) == {here}
        assert here not in names[96:]

    def test_large_values_go_one_by_one(self) -> None:
        sizes = list(parallel._batches([1, 1, 10**9, 1, 10**9], lambda size: size))
        assert sizes == [[1, 1], [10**9], [1], [10**9]]

    def test_an_error_ends_it_and_no_thread_stays(self) -> None:
        def fail(number: int) -> int:
            if number == 100:
                raise KeyError(number)
            return number

        before = threading.active_count()
        with pytest.raises(KeyError):
            list(parallel.in_order(fail, range(10_000), lambda _: 1))
        assert threading.active_count() == before


class TestComponent:
    def test_splits_without_a_share_are_refused(self) -> None:
        with pytest.raises(ValueError, match="at least one hash bucket"):
            ImageExampleGen(input_base="x", splits={"train": 1, "eval": 0}, code="")

    def test_options_travel_as_they_are(self) -> None:
        options = Options(depth=3, spans=2, first_span=1, max_bad_fraction=0.25)
        component = ImageExampleGen(input_base="x", splits={"train": 1}, code="", options=options)
        assert Options.from_json(component.exec_properties["options"]) == options

    def test_driver_resolves_spans_and_fingerprints_them(self, tmp_path: Path) -> None:
        for span in (3, 4, 12):
            folder = tmp_path / f"{span}" / "cat"
            folder.mkdir(parents=True)
            (folder / "x.png").write_bytes(corpus.make("PNG", span))
        source, options = f"{tmp_path}/{{SPAN}}", Options(spans=2)
        output = Driver(None).run(
            data_types.ExecutionInfo(
                exec_properties={
                    "input_base": source,
                    "splits": "{}",
                    "options": options.to_json(),
                },
                output_dict={"examples": [standard_artifacts.Examples()]},
            )
        )
        expected = data_sources.digest(source, spans=2)
        assert output.exec_properties["input_fingerprint"].string_value == expected
        (artifact,) = output.output_artifacts["examples"].artifacts
        assert artifact.custom_properties["input_fingerprint"].string_value == expected
        assert artifact.custom_properties["span"].int_value == 12
        resolved = json.loads(output.exec_properties["resolved_spans"].string_value)
        assert [span for span, _, _ in resolved] == [4, 12]

    def test_executor_reads_the_spans_that_the_driver_chose(
        self, tmp_path: Path, two_classes: Path
    ) -> None:
        shutil.copytree(two_classes, tmp_path / "root" / "7")
        examples = standard_artifacts.Examples()
        examples.uri = str(tmp_path / "out")
        context = Executor.Context(beam_pipeline_args=BEAM_ARGS, tmp_dir=str(tmp_path / "tmp"))
        properties = {
            "input_base": f"{tmp_path}/root/{{SPAN}}",
            "splits": json.dumps(SHARES),
            "options": Options().to_json(),
            "resolved_spans": json.dumps([[7, None, f"{tmp_path}/root/7"]]),
        }
        (tmp_path / "root" / "8").mkdir()  # landed meanwhile
        Executor(context).Do({}, {"examples": [examples]}, properties)
        found = by_split(examples)["train"]
        assert {value(example, features.SPAN) for example in found} == {7}
        assert value(found[0], features.FILENAME).startswith("7/")
        assert read_accounting(examples.uri).spans == [7]

    @pytest.mark.parametrize("change", ["none", "gone", "new", "moved"])
    def test_what_is_not_what_was_fingerprinted_is_not_kept(
        self, tmp_path: Path, two_classes: Path, change: str
    ) -> None:
        """As where a disk goes between the two: the cache would give the rest for all of it."""
        expected = data_sources.digest(two_classes)
        file = two_classes / "cat" / "00.png"
        match change:
            case "gone":
                file.unlink()
            case "new":
                shutil.copy(file, file.with_name("new.png"))
            case "moved":
                file.rename(two_classes / "dog" / "cat.png")
        examples = standard_artifacts.Examples()
        examples.uri = str(tmp_path / "out")
        properties = {
            "input_base": str(two_classes),
            "splits": json.dumps(SHARES),
            "options": Options().to_json(),
            "input_fingerprint": expected,
        }
        context = Executor.Context(beam_pipeline_args=BEAM_ARGS, tmp_dir=str(tmp_path / "tmp"))
        with (
            contextlib.nullcontext()
            if change == "none"
            else pytest.raises(BadDataError, match="files changed while they were read")
        ):
            Executor(context).Do({}, {"examples": [examples]}, properties)

    def test_a_split_that_only_the_source_names_is_written(self, tmp_path: Path) -> None:
        for split in ("train", "test"):
            for label in ("cat", "dog"):
                folder = tmp_path / "data" / split / label
                folder.mkdir(parents=True)
                for seed in range(30):
                    data = corpus.make("PNG", hash_of(split, label, seed))
                    (folder / f"{seed}.png").write_bytes(data)
        examples = execute(tmp_path / "data", tmp_path / "out")
        counts = {split: len(found) for split, found in by_split(examples).items()}
        assert counts["test"] == 60
        assert counts["train"] + counts["eval"] == 60
        assert list(counts) == ["train", "eval", "test"]


def hash_of(*parts: object) -> int:
    return sum(map(ord, repr(parts))) * 1000 + len(repr(parts)) + int(str(parts[-1]))


SHARD = "Split-train/data_tfrecord-00000-of-00001"


def test_moving_examples_keeps_the_others_in_place(tmp_path: Path) -> None:
    for split in ("train", "eval"):
        (tmp_path / f"Split-{split}").mkdir()
    with tf.io.TFRecordWriter(f"{tmp_path}/{SHARD}") as writer:
        for name in "abc":
            feature = tf.train.Feature(bytes_list=tf.train.BytesList(value=[name.encode()]))
            features_ = tf.train.Features(feature={features.SHA256: feature})
            writer.write(tf.train.Example(features=features_).SerializeToString())
    writing.move(str(tmp_path), [SHARD], {"b": ("train", "eval")})
    examples = standard_artifacts.Examples()
    examples.uri = str(tmp_path)
    assert [value(e, features.SHA256) for e in records(examples, "train")] == ["a", "c"]
    assert [value(e, features.SHA256) for e in records(examples, "eval")] == ["b"]


def test_examples_that_are_in_no_split_are_dropped(tmp_path: Path) -> None:
    (tmp_path / "Split-train").mkdir()
    with tf.io.TFRecordWriter(f"{tmp_path}/{SHARD}") as writer:
        for name in "ab":
            feature = tf.train.Feature(bytes_list=tf.train.BytesList(value=[name.encode()]))
            features_ = tf.train.Features(feature={features.SHA256: feature})
            writer.write(tf.train.Example(features=features_).SerializeToString())
    changed = writing.move(str(tmp_path), [SHARD], {"b": ("train", "")})
    assert sorted(changed.values(), key=str) == [1, None]
    examples = standard_artifacts.Examples()
    examples.uri = str(tmp_path)
    assert [value(e, features.SHA256) for e in records(examples, "train")] == ["a"]


def test_a_problem_is_told_with_its_kind() -> None:
    assert str(Problem("empty", "zero bytes")) == "empty: zero bytes"
    assert str(Problem("odd", "")) == "odd"
