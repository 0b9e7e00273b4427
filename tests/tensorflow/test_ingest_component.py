"""ImageExampleGen in a pipeline: its cache, its workers and where its examples are."""

from __future__ import annotations

import contextlib
import json
import shutil
import threading
import types
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import tensorflow as tf
from tfx.orchestration.portable import data_types
from tfx.types import standard_artifacts

from components import features, parallel
from components.errors import BadDataError
from components.image_example_gen import writing
from components.image_example_gen.accounting import read_accounting
from components.image_example_gen.component import ImageExampleGen
from components.image_example_gen.dataset import list_data
from components.image_example_gen.driver import Driver
from components.image_example_gen.executor import Executor
from components.image_example_gen.ingest import (
    Ingest,
    ingest,
    work_here,
)
from components.image_example_gen.options import Options
from components.image_example_gen.pieces import Pieces
from components.image_example_gen.writing import Outcome, Work
from tests.kit import data_sources
from tests.kit import image_corpus as corpus
from tests.kit.ingested import BEAM_ARGS, SHARES, by_split, execute, records, value


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
        assert most <= (2 * threads + 3) * parallel.BATCH_ITEMS

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

        size = parallel.BATCH_ITEMS
        values = [0.0] * 2 * size + [0.001] * 2 * size + [0.0] * 2 * size
        assert list(parallel.quick_in_order(work, values, lambda _: 1)) == values
        here = threading.current_thread().name
        assert set(names[: 2 * size]) == {here}
        assert here not in names[3 * size :]

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
        with pytest.raises(ValueError, match="'eval': 0"):
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
            else pytest.raises(BadDataError, match=f"^{two_classes}: .*changed")
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
