"""Facts of a run as its report collects them from artifacts."""

from __future__ import annotations

import hashlib
import io
import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from components.image_evaluator import figures
from components.image_evaluator.figures import Figures
from pipeline.report import images, page, plots
from pipeline.report.collect import UNKNOWN, collect
from pipeline.report.facts import Artifact, Facts, State
from tests.kit import report as report_kit
from tests.kit.report import EVIL

CLASSES = ["cat", EVIL]


class TestCollect:
    """From artifacts, such as a run leaves them."""

    @pytest.fixture(scope="class")
    def artifacts(self, tmp_path_factory: pytest.TempPathFactory) -> list[Artifact]:
        root = tmp_path_factory.mktemp("artifacts")
        makers = {
            "examples": _write_examples,
            "statistics": _write_statistics,
            "anomalies": _write_anomalies,
            "model_run": _write_model_run,
            "evaluation": _write_evaluation,
            "blessing": _write_blessing,
        }
        for name, make in makers.items():
            (root / name).mkdir()
            make(root / name)
        return [Artifact(name=name, uri=str(root / name)) for name in makers]

    @pytest.fixture(scope="class")
    def facts(self, artifacts: list[Artifact]) -> Facts:
        return collect(report_kit.run(), artifacts)

    def test_data(self, facts: Facts) -> None:
        assert facts.data
        assert facts.data.examples("train") == 5
        assert facts.data.duplicates == 1
        assert [each.reason for each in facts.data.unusable] == ["not an image"]
        assert [each.text for each in facts.data.anomalies or []] == ["few"]
        (distance,) = facts.data.distances
        assert (distance.split, distance.feature, distance.compared) == (
            "eval",
            "image/mean",
            "skew",
        )
        assert distance.measure == "Jensen-Shannon"
        assert distance.exceeds
        (spread,) = facts.data.spreads
        assert (spread.feature, spread.low, spread.median, spread.high) == ("image/width", 8, 9, 10)

    def test_training_and_its_samples(self, facts: Facts) -> None:
        assert facts.training
        assert facts.training.best_epoch == 2
        assert [sample.label for sample in facts.samples] == CLASSES
        for sample in facts.samples:
            assert len(sample.after) == 2
            assert Image.open(io.BytesIO(sample.before)).size == (24, 24)

    def test_patches_are_those_of_the_transformer(self, facts: Facts) -> None:
        # 24 pixels in patches of 4 are 6 x 6, with 2 transparent pixels between them.
        assert facts.samples[0].patches
        sheet = np.asarray(Image.open(io.BytesIO(facts.samples[0].patches)))
        gaps = (sheet[..., 3] == 0).all(axis=0)
        assert gaps.sum() == 2 * 5
        prepared = np.asarray(Image.open(io.BytesIO(facts.samples[0].before)))
        assert (sheet[0, 0, :3] == prepared[0, 0]).all()

    def test_mistakes_come_with_the_most_confident_first(self, facts: Facts) -> None:
        assert facts.predictions
        found = [(each.filename, each.top[0]) for each in facts.predictions.mistakes]
        assert [name for name, _ in found] == ["3.png", "1.png", "4.png"]
        assert [label for _, (label, _) in found] == [EVIL, EVIL, "cat"]
        assert [share for _, (_, share) in found] == pytest.approx([0.9, 0.6, 0.55])
        assert facts.predictions.wrong == 3
        assert facts.predictions.mistakes[0].probability == pytest.approx(0.1)
        assert len(facts.predictions.grid) == 5

    def test_a_class_that_the_model_does_not_know_is_a_mistake(self, facts: Facts) -> None:
        assert facts.predictions
        last = facts.predictions.mistakes[-1]
        assert (last.label, last.probability, last.is_right) == (UNKNOWN, 0, False)

    def test_predictions_come_with_their_pictures(self, facts: Facts) -> None:
        assert facts.predictions
        for each in facts.predictions.grid:
            number = int(each.filename.removesuffix(".png"))
            assert each.image == images.thumbnail(report_kit.picture(number))

    def test_pictures_are_as_the_model_sees_them(self) -> None:
        buffer = io.BytesIO()
        Image.new("RGBA", (8, 6), (0, 0, 255, 0)).save(buffer, "PNG")
        with Image.open(io.BytesIO(images.thumbnail(buffer.getvalue()))) as shown:
            assert shown.size == (8, 6)
            assert shown.getpixel((0, 0)) == (255, 255, 255)

    def test_a_test_split_has_its_own(self, facts: Facts) -> None:
        assert facts.test_predictions
        (only,) = facts.test_predictions.mistakes
        assert facts.test_predictions.grid == [only]
        assert (only.filename, only.label, only.top[0][0]) == ("of the test.png", "cat", EVIL)
        assert only.image == images.thumbnail(report_kit.picture(5))
        assert (only.baseline, facts.test_predictions.paired) == (None, None)
        assert "of the test.png" in page.render(facts, [])

    def test_candidate_against_baseline_over_the_classes_that_both_know(self, facts: Facts) -> None:
        assert facts.predictions
        assert facts.predictions.paired
        # The baseline says "cat" of everything; compared are the three images of "cat".
        paired = facts.predictions.paired.model_dump()
        assert paired == {"both": 1, "only_candidate": 0, "only_baseline": 2, "neither": 0}
        assert {each.baseline for each in facts.predictions.grid} == {"cat"}

    def test_what_is_gone_is_left_out(self, artifacts: list[Artifact]) -> None:
        for left in range(len(artifacts)):
            facts = collect(report_kit.run(State.FAILED), artifacts[:left])
            page.render(facts, plots.draw(facts))
        gone = [Artifact(name=each.name, uri=f"{each.uri}-gone") for each in artifacts]
        facts = collect(report_kit.run(), gone)
        assert not any((facts.data, facts.training, facts.evaluation, facts.verdict))


def _write_examples(folder: Path) -> None:
    import tensorflow as tf

    from components import features

    counts = {"train": {"cat": 3, EVIL: 2}, "eval": {"cat": 3, EVIL: 1}}
    record = {"classes": CLASSES, "splits": counts, "inputs": 11, "duplicates": 1}
    (folder / "accounting.json").write_text(
        json.dumps(
            record
            | {"quarantined": {"not an image": 1}, "ignored": {}, "normalized": {}, "spans": [0]}
            | {"near_duplicates": {}, "findings": []}
        )
    )
    row = {"path": "a.png", "kind": "not an image", "reason": "not an image"}
    (folder / "quarantine.jsonl").write_text(json.dumps(row) + "\n")
    for split, numbers in (("eval", range(5)), ("test", [5])):
        (folder / f"Split-{split}").mkdir()
        with tf.io.TFRecordWriter(str(folder / f"Split-{split}" / "data")) as writer:
            for number in numbers:
                example = tf.train.Example()
                for name, value in (
                    (features.SHA256, _sha(number).encode()),
                    (features.IMAGE, report_kit.picture(number)),
                ):
                    example.features.feature[name].bytes_list.value.append(value)
                writer.write(example.SerializeToString())


def _sha(number: int) -> str:
    return hashlib.sha256(bytes([number])).hexdigest()


def _write_statistics(folder: Path) -> None:
    from tensorflow_metadata.proto.v0 import statistics_pb2

    statistics = statistics_pb2.DatasetFeatureStatisticsList()
    feature = statistics.datasets.add().features.add()
    feature.path.step.append("image/width")
    feature.num_stats.min, feature.num_stats.median, feature.num_stats.max = 8, 9, 10
    (folder / "Split-train").mkdir()
    (folder / "Split-train" / "FeatureStats.pb").write_bytes(statistics.SerializeToString())


def _write_anomalies(folder: Path) -> None:
    from tensorflow_metadata.proto.v0 import anomalies_pb2

    finding = {"split": "eval", "feature": "dataset", "type": "X", "text": "few", "level": "warn"}
    (folder / "findings.json").write_text(json.dumps([finding]))
    anomalies = anomalies_pb2.Anomalies()
    info = anomalies.drift_skew_info.add()
    info.path.step.append("image/mean")
    info.skew_measurements.add(type=2, value=0.7, threshold=0.6)
    (folder / "Split-eval").mkdir()
    (folder / "Split-eval" / "SchemaDiff.pb").write_bytes(anomalies.SerializeToString())


def _write_model_run(folder: Path) -> None:
    epochs = [
        {
            "epoch": epoch,
            **dict.fromkeys(("loss", "val_loss"), 1 / epoch),
            **dict.fromkeys(("accuracy", "val_accuracy"), 0.5),
            "learning_rate": 0.1,
            "images_per_s": 9.0,
        }
        for epoch in (1, 2)
    ]
    history_json = {
        "images": {"train": 5, "eval": 4},
        "seconds": 3.5,
        "steps": 8,
        "best_epoch": 2,
        "phase_starts": [1],
        "epochs": epochs,
    }
    (folder / "history.json").write_text(json.dumps(history_json))
    images = np.random.default_rng(0).integers(0, 255, (2, 3, 24, 24, 3), np.uint8)
    np.savez(folder / "samples.npz", images=images, labels=np.array([0, 1]))


def _write_evaluation(folder: Path) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    found = Figures(
        examples=5,
        classes=CLASSES,
        candidate=report_kit.model_figures(CLASSES, 0.9),
        baseline=report_kit.model_figures(["dog", "cat"], 0.8),
        test=report_kit.model_figures(CLASSES, 0.9),
    )
    (folder / figures.FIGURES).write_text(found.model_dump_json())
    # Images 0, 1 and 3 are cats, 2 is of the other class and 4 of none that the model knows.
    cat = [0.7, 0.4, 0.2, 0.1, 0.55]
    rows = {
        "sha256": [_sha(number) for number in range(6)],
        "filename": [f"{number}.png" for number in range(5)] + ["of the test.png"],
        "split": ["eval"] * 5 + ["test"],
        "label": [0, 0, 1, 0, -1, 0],
        "candidate": [[share, 1 - share] for share in [*cat, 0.0]],
        "baseline": [[0.1, 0.9]] * 5 + [None],
    }
    pq.write_table(pa.table(rows), folder / figures.PREDICTIONS)


def _write_blessing(folder: Path) -> None:
    verdict = report_kit.facts(classes=["dog", "cat"]).verdict
    assert verdict
    (folder / figures.VERDICT).write_text(verdict.model_dump_json())
