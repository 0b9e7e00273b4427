"""A span is worked on once, and what once judged a model judges every later one."""

from __future__ import annotations

import re
import shutil
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image
from tfx.types import standard_artifacts

from components import features, reuse
from components.image_example_gen.accounting import read_accounting
from components.image_example_gen.inputs import OUTSIDE, Input
from components.reuse import INPUTS_FILE
from tests.kit.image_folders import write_span
from tests.kit.ingested import by_split, lines, value
from tests.kit.ledgers import judge
from tests.kit.stage import Stage


def work(outputs: dict[str, Any]) -> dict[str, tuple[int, int]]:
    """Images worked on and taken over, by node."""
    return {
        name: (
            artifact.get_int_custom_property(reuse.DONE),
            artifact.get_int_custom_property(reuse.REUSED),
        )
        for name, artifact in outputs.items()
    }


def contents(artifact: Any) -> dict[str, Counter[bytes]]:
    """All records by split, in any order."""
    return {
        folder.name: Counter(
            record
            for file in folder.iterdir()
            for record in tf.data.TFRecordDataset(str(file)).as_numpy_iterator()
        )
        for folder in Path(artifact.uri).glob("Split-*")
    }


@pytest.fixture
def stage(tmp_path: Path) -> Stage:
    stage = Stage(tmp_path / "own")
    write_span(stage.data, 1)
    return stage


def anew(stage: Stage) -> Stage:
    """Return a stage of the same data without earlier results."""
    fresh = Stage(stage.root.with_name("fresh"))
    fresh.data = stage.data
    return fresh


class TestReuse:
    def test_the_next_span_costs_the_work_of_its_own_images(self, stage: Stage) -> None:
        first = stage.run()
        assert set(work(first).values()) == {(60, 0)}
        write_span(stage.data, 2, images=10)
        second = stage.run()
        assert set(work(second).values()) == {(20, 60)}
        whole = anew(stage).run()
        assert set(work(whole).values()) == {(80, 0)}
        for output in ("examples", "transformed"):
            assert contents(second[output]) == contents(whole[output])
        for split in ("train", "eval"):
            name = f"Split-{split}/FeatureStats.pb"
            counted = [Path(each["statistics"].uri, name) for each in (second, whole)]
            assert counted[0].stat().st_size == pytest.approx(counted[1].stat().st_size, abs=64)

    def test_what_is_taken_over_takes_no_room_and_outlives_its_first_owner(
        self, stage: Stage
    ) -> None:
        first = stage.run()
        write_span(stage.data, 2, images=5)
        second = stage.run()
        shared = [
            file
            for file in Path(second["transformed"].uri).glob("Split-*/*")
            if file.stat().st_nlink > 1
        ]
        assert len(shared) == len(list(Path(first["transformed"].uri).glob("Split-*/*")))
        for artifact in first.values():
            shutil.rmtree(artifact.uri)
        assert set(work(stage.run()).values()) == {(0, 70)}

    def test_a_duplicate_of_an_earlier_span_is_accounted_for(self, stage: Stage) -> None:
        stage.ingest()
        write_span(stage.data, 2, images=10)
        shutil.copy(stage.data / "1" / "a" / "0.png", stage.data / "2" / "a" / "again.png")
        second = stage.ingest()
        assert read_accounting(second.uri) == read_accounting(anew(stage).ingest().uri)
        assert read_accounting(second.uri).duplicates == 1
        assert lines(second, "duplicates.jsonl")[0]["same_as"] == "1/a/0.png"

    def test_a_changed_file_is_worked_on_again(self, stage: Stage) -> None:
        write_span(stage.data, 2, images=10)
        stage.ingest()
        Image.new("RGB", (9, 9), (1, 2, 3)).save(stage.data / "2" / "a" / "0.png")
        second = stage.ingest()
        done, reused = work({"examples": second})["examples"]
        assert 0 < done <= 20
        assert reused >= 60
        assert contents(second) == contents(anew(stage).ingest())

    def test_a_quarantined_file_stays_so(self, stage: Stage) -> None:
        (stage.data / "1" / "a" / "bad.png").write_bytes(b"\x89PNG\r\n\x1a\n and no more")
        first = stage.ingest()
        write_span(stage.data, 2, images=5)
        second = stage.ingest()
        for examples in (first, second):
            assert read_accounting(examples.uri).all_quarantined == 1

    def test_grouped_near_duplicates_are_as_if_all_had_been_done_anew(self, stage: Stage) -> None:
        stage.run(group_near_duplicates=True)
        folder = stage.data / "2" / "a"
        write_span(stage.data, 2, images=5)
        for index in range(10):  # the same pixels in other bytes, and so perhaps another split
            picture = Image.open(stage.data / "1" / "a" / f"{index}.png")
            picture.save(folder / f"copy{index}.bmp")
        second = stage.run(group_near_duplicates=True)
        whole = anew(stage).run(group_near_duplicates=True)
        assert contents(second["examples"]) == contents(whole["examples"])
        assert contents(second["transformed"]) == contents(whole["transformed"])
        assert read_accounting(second["examples"].uri).near_duplicates["across_splits"] == 0
        again = stage.ingest(group_near_duplicates=True)
        assert contents(again) == contents(whole["examples"])


def eval_images(examples: standard_artifacts.Examples) -> set[str]:
    return {value(example, features.SHA256) for example in by_split(examples)["eval"]}


class TestHeldOut:
    def test_an_eval_image_of_the_first_span_is_one_for_ever(self, stage: Stage) -> None:
        options = {"spans": 1, "held_out": "all"}
        seen = [eval_images(stage.ingest(**options))]
        for number in (2, 3):
            write_span(stage.data, number, images=20)
            examples = stage.ingest(**options)
            trained = by_split(examples)["train"]
            assert {value(example, features.SPAN) for example in trained} == {number}
            seen.append(eval_images(examples))
        assert seen[0] < seen[1] < seen[2]

    def test_the_window_moves_on_without_work_on_older_spans(self, stage: Stage) -> None:
        options = {"spans": 1, "held_out": "all"}
        held = len(eval_images(stage.ingest(**options)))
        write_span(stage.data, 2, images=10)
        assert work({"examples": stage.ingest(**options)}) == {"examples": (20, held)}

    def test_what_is_left_out_is_accounted_for(self, stage: Stage) -> None:
        held = len(eval_images(stage.ingest(spans=1, held_out="all")))
        write_span(stage.data, 2, images=10)
        examples = stage.ingest(spans=1, held_out="all")
        record = read_accounting(examples.uri)
        assert record.ignored == {OUTSIDE: 60 - held}
        assert record.inputs == record.all_examples == 20 + held
        fates = Counter(row["fate"] for row in lines(examples, INPUTS_FILE))
        assert fates[OUTSIDE] == 60 - held
        assert sum(fates.values()) == 80

    def test_has_a_version_that_follows_its_content(self, stage: Stage) -> None:
        versions = [read_accounting(stage.ingest().uri).held_out for _ in range(2)]
        assert versions[0] == versions[1]
        assert set(versions[0]) == {"eval"}
        write_span(stage.data, 2, images=10)
        assert read_accounting(stage.ingest().uri).held_out != versions[0]

    def test_a_class_that_the_window_does_not_teach_judges_nothing(self, stage: Stage) -> None:
        write_span(stage.data, 2, labels="bc")
        examples = stage.ingest(spans=1, held_out="all")
        assert read_accounting(examples.uri).classes == ["b", "c"]

    def test_an_image_that_comes_again_is_trained_on_again(self) -> None:
        train = next(f"{n:064x}" for n in range(99) if n % 5 < 4)
        held_out = next(f"{n:064x}" for n in range(99) if n % 5 == 4)
        inputs = [
            Input(f"{span}/{sha256}", "a", "", sha256, span, None)
            for sha256 in (train, held_out)
            for span in (1, 2)
        ]
        judge(inputs, {"train": 4, "eval": 1}, window={2})
        assert [entry.fate for entry in inputs] == ["duplicate", "train", "duplicate", "eval"]


class TestSmallClasses:
    """A class that content alone leaves out of a split, as its data grows."""

    def splits(self, examples: standard_artifacts.Examples) -> dict[str, str]:
        return {
            value(example, features.SHA256): split
            for split, found in by_split(examples).items()
            for example in found
        }

    def write(self, stage: Stage, *indices: int, label: str = "c") -> None:
        folder = stage.data / "1" / label
        folder.mkdir(parents=True, exist_ok=True)
        for index in indices:
            random = np.random.default_rng([7, index])
            pixels = random.integers(0, 256, (9, 9, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(folder / f"{index}.png")

    def test_images_stay_where_they_are(self, stage: Stage) -> None:
        before: dict[str, str] = {}
        for count in (2, 3, 5, 9):
            self.write(stage, *range(count))
            examples = stage.ingest()
            record = read_accounting(examples.uri)
            assert all("c" in record.splits[split] for split in ("train", "eval"))
            now = self.splits(examples)
            assert before.items() <= now.items()
            before = now

    def test_without_what_was_remembered_they_are_as_if_all_were_new(self, stage: Stage) -> None:
        self.write(stage, *range(4))
        first = stage.ingest()
        assert self.splits(first) == self.splits(anew(stage).ingest())

    def test_an_image_that_cannot_be_decoded_holds_no_place(self, stage: Stage) -> None:
        self.write(stage, 0, 1, 2)
        for index in range(12):
            bad = b"\x89PNG\r\n\x1a\n" + bytes([index])
            (stage.data / "1" / "c" / f"bad {index}.png").write_bytes(bad)
        examples = stage.ingest(max_bad_fraction=0.9)
        record = read_accounting(examples.uri)
        assert all("c" in record.splits[split] for split in ("train", "eval"))
        written = Counter(self.splits(examples).values())
        assert written == {split: record.examples(split) for split in record.splits}


def test_recent_spans_can_count_more(tmp_path: Path) -> None:
    from trainer_module.run_fn import weighted

    names = ["00001-aa", "00002-aa", "00002-bb", "00003-aa", "moved-aa"]
    files = [str(tmp_path / f"transformed_examples-data_tfrecord-{name}-cc") for name in names]
    for file in files:
        Path(file).touch()
    pattern = [str(tmp_path / "*")]
    assert weighted(pattern, 1, 2) == pattern
    shown = Counter(weighted(pattern, 3, 2))
    assert [shown[file] for file in files] == [1, 3, 3, 3, 1]


class TestCorrections:
    def test_a_later_span_corrects_a_label(self) -> None:
        inputs = [
            Input("1/x", "cat", "", "00", 1, None),
            Input("2/x", "dog", "", "00", 2, None),
            Input("3/x", "dog", "", "00", 3, None),
        ]
        judge(inputs, {"train": 1})
        assert [entry.fate for entry in inputs] == ["quarantined", "train", "duplicate"]
        assert re.match("relabelled: span 3 .*'dog'$", str(inputs[0].problem))

    def test_one_span_that_contradicts_itself_corrects_nothing(self) -> None:
        inputs = [
            Input("1/x", "cat", "", "00", 1, None),
            Input("2/x", "dog", "", "00", 2, None),
            Input("2/y", "cat", "", "00", 2, None),
        ]
        judge(inputs, {"train": 1})
        assert {entry.fate for entry in inputs} == {"quarantined"}
