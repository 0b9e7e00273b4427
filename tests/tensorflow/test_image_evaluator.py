"""ImageEvaluator on real images and exported models: TFMA's pass, the figures and the blessing."""

from __future__ import annotations

import functools
import hashlib
import json
import re
import weakref
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import tensorflow as tf
import tensorflow_model_analysis as tfma
from PIL import Image
from tfx.dsl.components.base.base_beam_executor import BaseBeamExecutor
from tfx.types import artifact_utils, standard_artifacts

from components import features
from components.errors import BadDataError, NotServableError
from components.image_evaluator import analysis, executor
from components.image_evaluator.bounds import Bounds
from components.image_evaluator.figures import (
    Figures,
    Verdict,
    read_figures,
    read_predictions,
    read_verdict,
)
from components.image_example_gen.accounting import Accounting, write_accounting
from components.image_example_gen.images import read_image
from components.image_example_gen.sources.base import Item
from components.image_example_gen.writing import Target, to_example
from tests.kit import image_corpus
from tests.kit.cli import UNGATED
from tests.kit.ingested import BEAM_ARGS
from tests.kit.tiny_export import CLASSES, export_colour_model

COLOURS = {"red": (200, 40, 40), "green": (40, 200, 40), "blue": (40, 40, 200)}
LIGHT = (16, 16, 30)
# A test's own bounds, without what any model must pass by default.
ALONE = {"min_accuracy": None, **UNGATED}


def encoded(label: str, index: int, size: tuple[int, int] = (8, 8)) -> bytes:
    """Return an image of a colour; every fourth has the next colour, which the models confuse."""
    shown = CLASSES[(CLASSES.index(label) + (index % 4 == 3)) % 3]
    color = tuple(value + index for value in COLOURS[shown])
    return image_corpus.encoded(Image.new("RGB", size, color), "PNG")


def record(data: bytes, label: str, name: str, span: int = 0) -> bytes:
    """Return an example as ImageExampleGen writes it."""
    sha256 = hashlib.sha256(data + name.encode()).hexdigest()
    item = Item(name, label, lambda: data, len(data))
    target = Target(CLASSES.index(label) if label in CLASSES else 9, "eval", sha256)
    return to_example(read_image(data, 10**8), item, target, span).SerializeToString()


def write_examples(
    root: Path, splits: Mapping[str, Iterable[bytes]], shards: int = 2
) -> standard_artifacts.Examples:
    examples = standard_artifacts.Examples()
    examples.uri = str(root)
    examples.split_names = artifact_utils.encode_split_names(list(splits))
    counts: dict[str, dict[str, int]] = {}
    for split, records in splits.items():
        folder = root / f"Split-{split}"
        folder.mkdir(parents=True)
        paths = [str(folder / f"data_tfrecord-{shard}") for shard in range(shards)]
        writers = [tf.io.TFRecordWriter(path) for path in paths]
        counts[split] = {}
        for number, each in enumerate(records):
            writers[number % shards].write(each)
            values = tf.train.Example.FromString(each).features.feature
            label = values[features.LABEL_TEXT].bytes_list.value[0].decode()
            counts[split][label] = counts[split].get(label, 0) + 1
        for writer in writers:
            writer.close()
    write_accounting(Accounting(classes=CLASSES, splits=counts), str(root))
    return examples


def colour_records(count: int, start: int = 0, labels: Sequence[str] = CLASSES) -> list[bytes]:
    return [
        record(
            encoded(label, index, size=(8, 8) if index % 2 else (100, 64)),
            label,
            f"camera {index % 3}/{label}/{index}.png",
            span=index % 2,
        )
        for label in labels
        for index in range(start, start + count)
    ]


class Evaluated(NamedTuple):
    """The outputs of the node."""

    evaluation: standard_artifacts.ModelEvaluation
    blessing: standard_artifacts.ModelBlessing

    @property
    def figures(self) -> Figures:
        return read_figures(self.evaluation.uri)

    @property
    def verdict(self) -> Verdict:
        return read_verdict(self.blessing.uri)


Evaluate = Callable[..., Evaluated]


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, standard_artifacts.Model]:
    """Model artifacts: a good one, one that mixes up two classes, one that knows fewer."""
    root = tmp_path_factory.mktemp("models")
    exports: dict[str, Callable[[Path], None]] = {
        "good": functools.partial(export_colour_model, sharpness=8.0),
        "mixed": functools.partial(export_colour_model, sharpness=8.0, channels="rbg"),
        "fewer": functools.partial(
            export_colour_model, sharpness=8.0, classes=["green", "red"], channels="gr"
        ),
        "broken": functools.partial(export_colour_model, sharpness=float("nan")),
        "calibrated": functools.partial(export_colour_model, sharpness=2.2),
        "uniform": functools.partial(export_colour_model, sharpness=0.0),
        "constant": functools.partial(export_colour_model, sharpness=0.0, bias=3.0),
        "reordered": functools.partial(
            export_colour_model, sharpness=8.0, classes=["blue", "red", "green"], channels="brg"
        ),
    }
    found = {}
    for number, (name, export) in enumerate(exports.items(), start=1):
        export(root / name / "Format-Serving")
        found[name] = standard_artifacts.Model()
        found[name].uri, found[name].id = str(root / name), number
    return found


@pytest.fixture(scope="module")
def evaluate(
    tmp_path_factory: pytest.TempPathFactory, models: dict[str, standard_artifacts.Model]
) -> Evaluate:
    def run(
        examples: standard_artifacts.Examples,
        candidate: str,
        baseline: str | None = None,
        **bounds: object,
    ) -> Evaluated:
        root = tmp_path_factory.mktemp("outputs")
        outputs = Evaluated(
            standard_artifacts.ModelEvaluation(), standard_artifacts.ModelBlessing()
        )
        outputs.evaluation.uri, outputs.blessing.uri = str(root / "e"), str(root / "b")
        inputs = {"examples": [examples], "model": [models[candidate]]}
        if baseline:
            inputs["baseline_model"] = [models[baseline]]
        context = BaseBeamExecutor.Context(beam_pipeline_args=BEAM_ARGS)
        executor.Executor(context).Do(
            inputs,
            {"evaluation": [outputs.evaluation], "blessing": [outputs.blessing]},
            {executor.BOUNDS_KEY: json.dumps({**ALONE, **bounds}), "code": ""},
        )
        return outputs

    return run


@pytest.fixture(scope="module")
def examples(tmp_path_factory: pytest.TempPathFactory) -> standard_artifacts.Examples:
    splits = {"train": [], "eval": colour_records(40), "test": colour_records(8, start=40)}
    return write_examples(tmp_path_factory.mktemp("examples"), splits)


class TestFirstModel:
    @pytest.fixture(scope="class")
    def outputs(self, evaluate: Evaluate, examples: standard_artifacts.Examples) -> Evaluated:
        return evaluate(examples, "good", min_accuracy=0.5)

    def test_figures_are_those_of_the_predictions(self, outputs: Evaluated) -> None:
        found = outputs.figures
        assert found.classes == CLASSES
        assert found.examples == found.candidate.examples == 120
        # Every fourth image looks like one of the next class.
        confusion = found.candidate.confusion_matrix().tolist()
        assert confusion == [[30, 10, 0], [0, 30, 10], [10, 0, 30]]
        assert found.candidate.metrics["accuracy"].value == 0.75
        assert found.baseline is None

    def test_the_test_split_is_reported(self, outputs: Evaluated) -> None:
        test = outputs.figures.test
        assert test
        assert test.examples == 24
        assert test.metrics["accuracy"].value == 0.75
        assert all("test" not in check.reason for check in outputs.verdict.checks)

    def test_a_dated_span_is_called_by_its_date(self) -> None:
        example = tf.train.Example.FromString(colour_records(1)[0])
        for name, value in ((features.ASPECT, 1.0), (features.MEAN, 99.0)):
            example.features.feature[name].float_list.value[:] = [value]
        assert analysis._properties(example, {0: "2026-05-01"})["span"] == "2026-05-01"
        assert analysis._properties(example, {})["span"] == "0"

    def test_slices_follow_from_the_images(self, outputs: Evaluated) -> None:
        support = {(s.feature, s.value): s.support for s in outputs.figures.candidate.slices}
        assert support["size", "under 64 px"] == support["size", "64-127 px"] == 60
        assert support["aspect", "square"] == support["aspect", "landscape"] == 60
        assert support["span", "0"] == support["span", "1"] == 60
        assert support["source", "camera 0"] == 42
        assert sum(n for (feature, _), n in support.items() if feature == "brightness") == 120

    def test_every_prediction_is_kept_with_what_it_is_of(
        self, outputs: Evaluated, models: dict[str, standard_artifacts.Model]
    ) -> None:
        table = read_predictions(outputs.evaluation.uri)
        rows = table.to_pylist()
        assert [row["split"] for row in rows] == ["eval"] * 120 + ["test"] * 24
        assert len({row["sha256"] for row in rows}) == 144
        assert [row["sha256"] for row in rows[:120]] == sorted(row["sha256"] for row in rows[:120])
        signature = tf.saved_model.load(models["good"].uri + "/Format-Serving").signatures
        for row in rows[:10]:
            _, label, name = row["filename"].split("/")
            assert row["label"] == CLASSES.index(label)
            index = int(name.removesuffix(".png"))
            image = encoded(label, index, size=(8, 8) if index % 2 else (100, 64))
            answer = signature["serving_default"](image_bytes=tf.constant([image]))
            assert row["candidate"] == pytest.approx(answer["probabilities"].numpy()[0].tolist())
            assert row["baseline"] is None

    def test_tfma_counts_the_same_over_all_and_by_slice(self, outputs: Evaluated) -> None:
        result = tfma.load_eval_result(outputs.evaluation.uri)
        metrics = {
            key: {name: value["doubleValue"] for name, value in found[""][""].items()}
            for key, found in result.slicing_metrics
        }
        assert metrics[()] == {"example_count": 120, "sparse_categorical_accuracy": 0.75}
        for part in outputs.figures.candidate.slices:
            found = metrics[((part.feature, part.value),)]
            assert found["example_count"] == part.support
            assert found["sparse_categorical_accuracy"] == pytest.approx(part.accuracy.value)
        for each in outputs.figures.candidate.per_class:
            found = metrics[((features.LABEL_TEXT, each.name),)]
            assert found["sparse_categorical_accuracy"] == pytest.approx(each.recall.value)

    def test_it_is_blessed_and_marked_as_the_first(self, outputs: Evaluated) -> None:
        assert outputs.verdict.blessed
        assert outputs.verdict.baseline is None
        assert "first" in outputs.verdict.note
        assert Path(outputs.blessing.uri, "BLESSED").exists()
        blessing = outputs.blessing
        assert blessing.get_int_custom_property("blessed") == 1
        assert blessing.get_int_custom_property("current_model_id") == 1
        assert not blessing.has_custom_property("baseline_model_id")

    def test_the_time_for_one_image_is_measured(self, outputs: Evaluated) -> None:
        measured = outputs.figures.candidate.latency
        assert measured
        assert 0 < measured.p50_ms <= measured.p95_ms
        assert executor.FEWEST <= measured.requests <= executor.MOST

    def test_the_same_again_gives_the_same(
        self, outputs: Evaluated, evaluate: Evaluate, examples: standard_artifacts.Examples
    ) -> None:
        again = evaluate(examples, "good", min_accuracy=0.5)
        assert again.verdict == outputs.verdict
        assert read_predictions(again.evaluation.uri) == read_predictions(outputs.evaluation.uri)


class TestComparison:
    def test_a_worse_model_is_not_blessed(
        self, evaluate: Evaluate, examples: standard_artifacts.Examples
    ) -> None:
        outputs = evaluate(examples, "mixed", "good", max_drop={"class": 0.1})
        found = outputs.figures
        assert found.baseline
        assert found.baseline.metrics["accuracy"].value == 0.75
        assert not outputs.verdict.blessed
        assert [check.name for check in outputs.verdict.checks if not check.passed] == [
            *("max_accuracy_drop", "class=blue", "class=green")
        ]
        assert outputs.verdict.baseline
        assert outputs.verdict.baseline.id == 1
        assert Path(outputs.blessing.uri, "NOT_BLESSED").exists()
        assert outputs.blessing.get_int_custom_property("blessed") == 0
        assert outputs.blessing.get_int_custom_property("baseline_model_id") == 1

    def test_each_model_answers_about_the_same_images(
        self, evaluate: Evaluate, examples: standard_artifacts.Examples
    ) -> None:
        outputs = evaluate(examples, "good", "good")
        assert outputs.verdict.blessed
        (line,) = (c for c in outputs.verdict.checks if c.name == "max_accuracy_drop")
        assert "(120 images, 0 lost, 0 gained)" in line.reason
        table = read_predictions(outputs.evaluation.uri)
        judged = table.slice(0, 120)
        assert judged["candidate"] == judged["baseline"]
        assert set(table.slice(120)["baseline"].to_pylist()) == {None}

    def test_changed_classes_are_compared_over_those_that_both_know(
        self, evaluate: Evaluate, examples: standard_artifacts.Examples
    ) -> None:
        outputs = evaluate(examples, "good", "fewer")
        assert outputs.verdict.compared_classes == ["red", "green"]
        assert re.search(r"1 added \('blue'\).* 80 .* 2 common ", outputs.verdict.note)
        found = outputs.figures.baseline
        assert found
        assert found.classes == ["green", "red"]
        assert found.examples == 80
        # Reds that look green are taken for green; greens that look blue are even, so the first.
        assert found.confusion_matrix()[1].tolist() == [10, 30]

    def test_the_order_of_classes_is_each_model_s_own(
        self, evaluate: Evaluate, examples: standard_artifacts.Examples
    ) -> None:
        """Images that look like two classes count for the first, which may be another one."""
        for candidate, baseline in (("good", "reordered"), ("reordered", "good")):
            outputs = evaluate(examples, candidate, baseline)
            found = outputs.figures
            assert outputs.verdict.blessed
            assert outputs.verdict.compared_classes == found.candidate.classes
            assert found.baseline
            assert sorted(found.baseline.classes) == sorted(found.candidate.classes)
            assert found.baseline.classes != found.candidate.classes
            by_name = [
                {each.name: each.recall.value for each in model.per_class}
                for model in (found.candidate, found.baseline)
            ]
            assert by_name[0] == by_name[1]


class TestByDefault:
    DEFAULT = Bounds().model_dump()

    @pytest.mark.parametrize("name", ["constant", "uniform"])
    @pytest.mark.parametrize("baseline", [None, "constant"])
    def test_a_model_that_learned_nothing_is_never_blessed(
        self,
        evaluate: Evaluate,
        examples: standard_artifacts.Examples,
        name: str,
        baseline: str | None,
    ) -> None:
        outputs = evaluate(examples, name, baseline, **self.DEFAULT)
        found = {check.name for check in outputs.verdict.checks if not check.passed}
        assert {"majority_significance", "zero_recall_images", "max_log_loss_ratio"} <= found
        assert not outputs.verdict.blessed
        assert Path(outputs.blessing.uri, "NOT_BLESSED").exists()
        assert outputs.blessing.get_int_custom_property("blessed") == 0

    def test_a_model_that_learned_something_is(
        self, evaluate: Evaluate, examples: standard_artifacts.Examples
    ) -> None:
        outputs = evaluate(examples, "calibrated", **self.DEFAULT)
        assert outputs.verdict.reasons == []
        assert outputs.verdict.blessed

    def test_the_largest_class_is_that_of_train(self, evaluate: Evaluate, tmp_path: Path) -> None:
        examples = write_examples(
            tmp_path,
            {"train": colour_records(9, 90, ["green"]), "eval": colour_records(12)},
        )
        (line,) = (
            check
            for check in evaluate(examples, "good", **self.DEFAULT).verdict.checks
            if check.name == "majority_significance"
        )
        assert re.search(r" 12 .*'green' \(18 .*3 ", line.reason)


class TestBadInput:
    def test_a_class_that_the_model_does_not_know(self, evaluate: Evaluate, tmp_path: Path) -> None:
        odd = record(encoded("red", 0), "purple", "purple/1.png")
        examples = write_examples(tmp_path, {"eval": [*colour_records(2), odd]})
        with pytest.raises(BadDataError, match=r"purple/1\.png .*\beval "):
            evaluate(examples, "good")

    def test_a_model_that_gives_no_numbers_is_not_taken_for_a_perfect_one(
        self, evaluate: Evaluate, tmp_path: Path
    ) -> None:
        examples = write_examples(tmp_path, {"eval": colour_records(4)})
        with pytest.raises(NotServableError, match="12 of 12"):
            evaluate(examples, "broken")

    def test_a_lost_image_is_noticed(
        self, evaluate: Evaluate, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        examples = write_examples(tmp_path, {"eval": colour_records(4)})
        whole = analysis._write
        monkeypatch.setattr(
            analysis, "_write", lambda tables, path: whole([t.slice(1) for t in tables], path)
        )
        with pytest.raises(RuntimeError, match=r"TFMA .*12 "):
            evaluate(examples, "good")


class TestMemory:
    def test_batches_are_small_whatever_the_images(self, tmp_path: Path) -> None:
        small = colour_records(70)
        large = [record(noise(3_000_000, seed), "red", f"{seed}.bmp") for seed in range(8)]
        examples = write_examples(tmp_path, {"eval": [*small, *large]}, shards=1)
        (shard,) = executor._shards(examples, "eval")
        batches = [batch[tfma.INPUT_KEY] for batch in analysis.read_batches(shard, {})]
        assert [each for batch in batches for each in batch] == [*small, *large]
        assert max(len(batch) for batch in batches) == analysis.BATCH
        assert max(sum(map(len, batch)) for batch in batches) <= analysis.BATCH_BYTES

    def test_the_images_of_few_batches_are_held_however_many_there_are(
        self, evaluate: Evaluate, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        batches: list[weakref.ref[np.ndarray]] = []
        held: list[int] = []
        whole = analysis._extracts

        def watched(records: list[bytes], spans: Mapping[int, str]) -> dict[str, Any]:
            extracts = whole(records, spans)
            batches.append(weakref.ref(extracts[tfma.INPUT_KEY]))
            held.append(sum(batch() is not None for batch in batches))
            return extracts

        monkeypatch.setattr(analysis, "BATCH", 2)
        monkeypatch.setattr(analysis, "_extracts", watched)
        evaluate(write_examples(tmp_path, {"eval": colour_records(20)}), "good", "mixed")
        assert len(batches) == 30
        assert max(held) <= 3


def noise(size: int, seed: int) -> bytes:
    """Return a bitmap of about `size` bytes."""
    side = int((size / 3) ** 0.5)
    pixels = np.random.default_rng(seed).integers(0, 256, (side, side, 3), np.uint8)
    return image_corpus.encoded(Image.fromarray(pixels), "BMP")
