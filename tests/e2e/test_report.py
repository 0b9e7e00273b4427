"""What is collected of a run, and what a page, files and commands make of it; no browser."""

from __future__ import annotations

import csv
import dataclasses
import hashlib
import html.parser
import io
import json
import shlex
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import matplotlib as mpl
import numpy as np
import pytest
from PIL import Image
from typer.testing import Result

from components.image_evaluator import figures
from components.image_evaluator.figures import Figures
from pipeline.errors import ConfigError
from pipeline.report import figure as figure_style
from pipeline.report import history, images, page, plots, write
from pipeline.report.collect import UNKNOWN, collect
from pipeline.report.facts import Artifact, Facts, Run, Setting, State
from pipeline.report.text import differences
from pipeline.workspace import Workspace
from tests.kit import report as report_kit
from tests.kit.cli import perennial
from tests.kit.report import EVIL, NAMES

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


class _Elements(html.parser.HTMLParser):
    """All elements of a page: tag and attributes."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, str | None]]] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attrs)))


class TestPage:
    @pytest.fixture(scope="class")
    def folder(self, tmp_path_factory: pytest.TempPathFactory) -> Path:
        folder = tmp_path_factory.mktemp("report")
        write.write_report(report_kit.facts(), folder)
        return folder

    @pytest.fixture(scope="class")
    def text(self, folder: Path) -> str:
        return (folder / write.PAGE).read_text(encoding="utf-8")

    def test_names_are_text_and_nothing_else(self, text: str) -> None:
        elements = _Elements(text).found
        assert not {"script", "i", "b", "iframe"} & {tag for tag, _ in elements}
        assert not [name for _, attrs in elements for name in attrs if name.startswith("on")]
        assert "{{x}}" in text

    def test_nothing_is_loaded(self, text: str) -> None:
        for _, attrs in _Elements(text).found:
            assert (attrs.get("src") or "data:").startswith("data:")
        assert "default-src 'none'" in text
        assert "http" not in text.replace("http-equiv", "").replace("http://www.w3.org/", "")

    def test_ids_are_unique(self, text: str) -> None:
        ids = [attrs["id"] for _, attrs in _Elements(text).found if "id" in attrs]
        assert len(ids) == len(set(ids))

    def test_figures_are_files_too(self, folder: Path, text: str) -> None:
        drawn = {path.stem for path in (folder / "figures").glob("*.svg")}
        assert drawn == {
            *("classes", "accuracy", "loss", "learning_rate", "throughput"),
            *("confusion", "recall", "reliability"),
        }
        for name in drawn:
            svg = (folder / "figures" / f"{name}.svg").read_bytes()
            assert ElementTree.fromstring(svg).tag.endswith("svg")
            assert b"var(--" not in svg
            with Image.open(folder / "figures" / f"{name}.png") as image:
                image.verify()
        assert text.count("<svg") == len(drawn)

    def test_numbers_are_json_and_csv_too(self, folder: Path) -> None:
        facts = report_kit.facts()
        found = json.loads((folder / "report.json").read_text())
        assert found["verdict"]["checks"][0]["reason"] in (folder / write.PAGE).read_text()
        assert "image" not in found["predictions"]["mistakes"][0]
        assert Facts.model_validate(found).evaluation == facts.evaluation
        tables = {path.stem for path in (folder / "tables").iterdir()}
        assert tables == {
            *("data", "epochs", "metrics", "classes", "confusion", "reliability", "slices")
        }
        with (folder / "tables" / "classes.csv").open(newline="") as file:
            rows = list(csv.DictReader(file))
        assert [row["class"] for row in rows if row["model"] == "candidate"] == list(NAMES)
        assert facts.evaluation
        recall = facts.evaluation.candidate.per_class[2].recall
        assert float(rows[2]["recall_high"]) == recall.high

    def test_the_line_of_fine_tuning_is_drawn(self) -> None:
        once = report_kit.facts()
        assert once.training
        flat = once.training.model_copy(update={"phase_starts": [1]})
        drawn = {plot.name: plot.svg for plot in plots.draw(once)}
        without = plots.draw(once.model_copy(update={"training": flat}))
        for plot in without:
            changed = plot.name in ("accuracy", "loss", "learning_rate", "throughput")
            assert ("fine-tuning" in drawn[plot.name]) is changed
            assert "fine-tuning" not in plot.svg

    def test_ticks_of_an_axis_are_told_apart(self) -> None:
        training = report_kit.facts().training
        assert training
        fine = [
            {**row, "accuracy": 0.99, "val_accuracy": 0.99 + 0.0005 * (place % 20)}
            for place, row in enumerate(training.epochs)
        ]
        with mpl.rc_context(figure_style.STYLE):
            _, _, figure = plots._accuracy(training.model_copy(update={"epochs": fine}))
            figure.canvas.draw()
        (axes,) = figure.axes
        low, high = axes.get_ylim()
        ticks = [tick for tick in axes.get_yticks() if low <= tick <= high]
        texts = [axes.yaxis.get_major_formatter()(tick) for tick in ticks]
        assert len(set(texts)) == len(texts) > 2
        for tick, text in zip(ticks, texts, strict=True):
            assert float(text.rstrip("%")) / 100 == pytest.approx(tick, abs=1e-6)

    def test_frozen_features_do_not_flatten_the_throughput(self) -> None:
        training = report_kit.facts().training
        assert training
        speeds = [90_000.0, 80_000.0, *(40.0 + place for place in range(len(training.epochs) - 2))]

        def scale_of(values: list[float]) -> str:
            figure = plots._one_curve(training, values)
            figure.canvas.draw()
            (axes,) = figure.axes
            low, high = axes.get_ylim()
            assert low <= min(values) <= max(values) < high
            return str(axes.get_yscale())

        assert scale_of(speeds) == "log"
        assert scale_of(speeds[2:4] * (len(speeds) // 2)) == "linear"
        assert scale_of([0.0, *speeds[1:]]) == "linear"

    def test_only_of_a_recipe_that_augments_is_it_said_that_it_does(self) -> None:
        facts = report_kit.facts()
        plain = [sample.model_copy(update={"after": []}) for sample in facts.samples]
        drawn = plots.draw(facts)
        assert "training images as augmented" in page.render(facts, drawn)
        text = page.render(facts.model_copy(update={"samples": plain}), drawn)
        assert "this recipe augments nothing" in text
        assert "as augmented" not in text

    def test_many_classes_have_no_unreadable_labels(self) -> None:
        names = [f"species {index}" for index in range(100)]
        facts = report_kit.facts(classes=names)
        drawn = {plot.name: plot for plot in plots.draw(facts)}
        assert "species" not in drawn["confusion"].svg
        assert "recall" not in drawn
        text = page.render(facts, list(drawn.values()))
        assert facts.evaluation
        true, predicted, count, share = page.confusions(facts.evaluation)[0]
        assert f"{count}</td>" in text.partition("Most frequent confusions")[2]
        assert share == count / 20
        assert true != predicted

    def test_thousands_of_classes_are_left_to_the_tables(self) -> None:
        names = [f"species {index}" for index in range(1000)]
        facts = report_kit.facts(classes=names)
        drawn = {plot.name: plot for plot in plots.draw(facts)}
        assert "confusion" not in drawn
        assert "1,000 classes, largest first, means of 2" in drawn["classes"].svg
        text = page.render(facts, list(drawn.values()))
        _, _, table = text.partition("The 200 worst of 1,000 classes")
        assert table.partition("</tbody>")[0].count('<th scope="row">') == 200
        assert "All of them are in tables/classes.csv" in table

    @pytest.mark.parametrize(
        ("weights", "shown"),
        [("imagenet", "imagenet"), ("/w/own.h5", "/w/own.h5"), ("none", "trained from scratch")],
    )
    def test_weights_that_are_no_table_are_told_too(self, weights: str, shown: str) -> None:
        facts = report_kit.facts()
        settings = {
            **facts.run.settings,
            "train.hyperparameters.weights": Setting(value=weights, origin="command line"),
        }
        run = facts.run.model_copy(update={"settings": settings})
        text = page.render(facts.model_copy(update={"run": run}), [])
        _, _, row = text.partition('<th scope="row">Weights</th>')
        assert shown in row.partition("</tr>")[0]

    def test_an_earlier_model_is_told_only_where_one_was_begun_with(self) -> None:
        facts = report_kit.facts()
        assert facts.training
        for base, shown in (("/w/Format-Serving", "/w/Format-Serving"), ("", "from scratch")):
            training = facts.training.model_copy(update={"base_model": base})
            text = page.render(facts.model_copy(update={"training": training}), [])
            _, _, row = text.partition('<th scope="row">Weights</th>')
            assert shown in row.partition("</tr>")[0]

    def test_names_that_no_figure_can_show_are_made_harmless(self, tmp_path: Path) -> None:
        classes = ["tab\tand\x0bcontrol", "\N{RIGHT-TO-LEFT OVERRIDE}evil", "$x_"]
        write.write_report(report_kit.facts(classes=classes), tmp_path)
        for path in (tmp_path / "figures").glob("*.svg"):
            ElementTree.fromstring(path.read_bytes())

    def test_why_it_was_not_blessed_is_told_first(self) -> None:
        facts = report_kit.facts(State.REJECTED)
        what, why = page.headline(facts)
        assert what == "Not blessed, so not pushed"
        assert why == "accuracy 0.9000 is below evaluate.min_accuracy = 0.9500"
        text = page.render(facts, [])
        assert text.index(why) < text.index("<main")

    def test_what_blocked_a_run_is_listed_first(self) -> None:
        facts = report_kit.facts(State.FAILED)
        assert facts.data
        data = dataclasses.replace(facts.data, anomalies=None, findings=[])
        text = page.render(facts.model_copy(update={"data": data}), [])
        assert text.index("no image</li>") < text.index("<main")
        assert "was not validated" not in text

    def test_a_page_is_the_old_one_until_the_new_one_is_whole(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        path = tmp_path / "page"
        write.write_file(path, "old")

        def fail(self: Path, data: bytes) -> int:
            with open(self, "wb") as file:
                file.write(data[:1])
            raise OSError(28, "No space left on device")

        monkeypatch.setattr(Path, "write_bytes", fail)
        with pytest.raises(OSError, match="No space"):
            write.write_file(path, "new")
        assert path.read_text() == "old"

    def test_the_same_run_again_reads_the_same_spans_with_the_same_code(self) -> None:
        checkout, command = page.rerun(report_kit.facts())
        assert checkout == "git checkout 7a59f67"
        run = report_kit.run()
        assert shlex.split(command) == [
            *(".venv/bin/perennial", "run", "--config"),
            f"/tmp/work space/runs/{run.run_id}/config.toml",
            *("--set", "data.first_span=3", "--set", "data.last_span=4"),
        ]


@pytest.fixture
def workspace(tmp_path: Path) -> Workspace:
    """Four runs: pushed, rejected, pushed and failed, in this order; the first has a report."""
    place = Workspace(tmp_path / "work")
    states = (State.PUSHED, State.REJECTED, State.PUSHED, State.FAILED)
    for number, state in enumerate(states, 1):
        accuracy = None if state is State.FAILED else 0.8 + number / 100
        _record(place, state, number, accuracy)
    first = report_kit.facts().model_copy(update={"run": report_kit.run()})
    folder = place.run_dir(first.run.run_id)
    write.write_file(folder / history.FACTS, first.model_dump_json())
    write.write_file(folder / write.PAGE, page.render(first, []))
    return place


def _record(place: Workspace, state: State, number: int, accuracy: float | None = None) -> str:
    run = report_kit.run(state, number, accuracy)
    write.write_file(place.run_dir(run.run_id) / "run.json", run.model_dump_json())
    return run.run_id


class TestHistory:
    def test_runs_are_found_by_parts_of_their_ids(self, workspace: Workspace) -> None:
        found = {
            name: history.find(workspace, name).run_id[6:8]
            for name in ("latest", "20261102-041040-c102", "20261101", "c103")
        }
        assert list(found.values()) == ["04", "02", "01", "03"]

    @pytest.mark.parametrize("name", ["202611", "nonsense", "c1"])
    def test_a_name_of_none_or_several_is_refused(self, workspace: Workspace, name: str) -> None:
        with pytest.raises(ConfigError, match=f"{name} is .* run|{name} is any of"):
            history.find(workspace, name)

    def test_a_killed_run_was_cut_off_and_a_living_one_runs(self, workspace: Workspace) -> None:
        killed = _record(workspace, State.RUNNING, 5)
        assert history.find(workspace, killed).state is State.CUT_OFF
        with Workspace(workspace.root).lock():
            assert history.find(workspace, killed).state is State.RUNNING
            _record(workspace, State.RUNNING, 6)
            assert history.find(workspace, killed).state is State.CUT_OFF

    def test_a_record_that_cannot_be_read_hides_no_other(self, workspace: Workspace) -> None:
        folder = workspace.runs / "20261120-000000-beef"
        folder.mkdir()
        (folder / "run.json").write_text("{")
        assert len(history.rows(workspace)) == 4

    def test_the_index_has_every_run_and_promotion(self, workspace: Workspace) -> None:
        report_kit.write_promotions(workspace)
        text = write.write_index(workspace).read_text()
        for number in range(1, 5):
            assert f"202611{number:02}-041040" in text
        linked = [attrs["href"] for tag, attrs in _Elements(text).found if tag == "a"]
        assert [link for link in linked if link and link.endswith("report.html")] == [
            "20261101-041040-c101/report.html"
        ]
        assert "stable v1, canary v3" in text
        assert "&lt;i&gt;done" in text
        svg = (workspace.runs / "history.svg").read_text()
        assert svg.count(">v1<") == 1
        assert "stable v1, canary v3" in svg
        rows = json.loads((workspace.runs / "runs.json").read_text())
        assert [row["accuracy"] for row in rows] == [None, *map(pytest.approx, (0.83, 0.82, 0.81))]

    def test_the_index_names_the_command_that_withdraws_a_canary(
        self, workspace: Workspace
    ) -> None:
        report_kit.write_promotions(workspace)
        assert "perennial rollback" not in write.write_index(workspace).read_text()
        log = workspace.root / "serving" / "models.audit.jsonl"
        done = {**json.loads(log.read_text()), "result": "done"}
        log.write_text(json.dumps(done) + "\n")
        text = write.write_index(workspace).read_text()
        assert "Version 3 is the canary" in text
        assert f"perennial rollback --workspace {workspace.root}" in text
        with log.open("a") as file:
            file.write(json.dumps({**done, "to": {"labels": {"stable": 3}}}) + "\n")
        assert "perennial rollback" not in write.write_index(workspace).read_text()

    def test_the_record_of_an_ended_run_is_read_for_one_table_only(
        self, workspace: Workspace, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        killed = _record(workspace, State.RUNNING, 5)
        before = history.rows(workspace)
        write.write_index(workspace)
        read = history._read
        names = []

        def counted(place: Workspace, run_id: str, newest: str) -> Run | None:
            names.append(run_id)
            return read(place, run_id, newest)

        monkeypatch.setattr(history, "_read", counted)
        assert history.rows(workspace) == before
        assert names == [killed]

    @pytest.mark.parametrize("content", ["", "{", "{}", "[1]", '[{"run": "a"}]', "[[]]", '"text"'])
    def test_a_damaged_table_is_made_anew(self, workspace: Workspace, content: str) -> None:
        before = history.rows(workspace)
        (workspace.runs / history.TABLE).write_text(content)
        assert history.rows(workspace) == before

    def test_a_row_of_a_run_that_was_removed_is_gone(self, workspace: Workspace) -> None:
        write.write_index(workspace)
        (first, *_, last) = history.rows(workspace)
        shutil.rmtree(workspace.run_dir(last["run"]))
        assert history.rows(workspace)[0] == first
        assert last["run"] not in {row["run"] for row in history.rows(workspace)}

    def test_the_index_shows_the_newest_runs_and_its_tables_all(
        self, workspace: Workspace, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(write, "INDEXED", 2)
        text = write.write_index(workspace).read_text()
        shown = [number for number in range(1, 5) if f"202611{number:02}-041040" in text]
        assert shown == [3, 4]
        assert "newest 2 runs" in text
        assert "4 runs in " in text
        assert len(json.loads((workspace.runs / history.TABLE).read_text())) == 4

    def test_an_empty_workspace_says_so(self, tmp_path: Path) -> None:
        with pytest.raises(ConfigError, match="has no runs"):
            history.find(Workspace(tmp_path), "latest")
        listed = perennial("runs", "--workspace", tmp_path)
        assert listed.output == f"{tmp_path} has no runs; name another --workspace\n"
        assert perennial("runs", "--workspace", tmp_path, "--json").output == ""


def invoke(workspace: Workspace, *arguments: str) -> Result:
    return perennial(*arguments, "--workspace", workspace.root)


def json_lines(result: Result) -> Iterator[Any]:
    assert result.exit_code == 0, result.output
    return map(json.loads, result.output.splitlines())


class TestCommands:
    def test_runs(self, workspace: Workspace) -> None:
        rows = list(json_lines(invoke(workspace, "runs", "--json")))
        assert [row["state"] for row in rows] == ["failed", "pushed", "rejected", "pushed"]
        lines = invoke(workspace, "runs").output.strip().splitlines()
        assert lines[0].split() == [
            "run",
            "state",
            "accuracy",
            "baseline",
            "recipe",
            "data",
            "time",
        ]
        assert "pushed v3" in lines[2]
        assert "83.00%" in lines[2]
        assert all(line == line.rstrip() for line in lines)

    def test_show_tells_what_the_page_tells(self, workspace: Workspace) -> None:
        output = invoke(workspace, "show", "c101").output
        assert output.startswith("20261101-041040-c101: Blessed and pushed as version 1")
        told = (EVIL, "images of", "best epoch", "Macro F1", "of 1 test mistakes")
        for text in (*told, "preset:data-digits", "git checkout 7a59f67"):
            assert text in output, text
        found = json.loads(invoke(workspace, "show", "c101", "--json").output)
        assert found["training"]["best_epoch"] == 10

    def test_show_of_a_failed_run_tells_why(self, workspace: Workspace) -> None:
        output = invoke(workspace, "show", "c104").output
        assert "Failed: accuracy 0.9000 is below" in output
        assert f"train: {EVIL}: no image" in output

    def test_an_unknown_run_is_a_usage_error(self, workspace: Workspace) -> None:
        for command in (["show", "nope"], ["compare", "c101", "nope"], ["report", "nope"]):
            result = invoke(workspace, *command)
            assert result.exit_code == 2
            assert "nope is no run of" in result.output

    def test_compare_names_what_differs_and_by_how_much(self) -> None:
        first, second = report_kit.facts(), report_kit.facts(baseline=False)
        assert second.evaluation
        worse = report_kit.model_figures(NAMES, 0.5, seed=3)
        settings = second.run.settings | {"train.epochs": Setting(value=20, origin="command line")}
        second = second.model_copy(
            update={
                "evaluation": second.evaluation.model_copy(update={"candidate": worse}),
                "run": second.run.model_copy(update={"settings": settings}),
            }
        )
        found = differences(first, second)
        assert found["settings"] == [{"name": "train.epochs", "a": 12, "b": 20}]
        assert found["data"] == []
        accuracy = next(row for row in found["metrics"] if row["name"] == "accuracy")
        assert accuracy["change"] == pytest.approx(accuracy["b"] - accuracy["a"])
        assert accuracy["change"] < 0
        changes = [abs(row["change"]) for row in found["classes"]]
        assert changes == sorted(changes, reverse=True)
        assert 0 not in changes

    def test_compare_prints_a_line_for_each(self, workspace: Workspace) -> None:
        output = invoke(workspace, "compare", "c101", "c102").output
        assert "20261101-041040-c101 (pushed) and 20261102-041040-c102 (rejected)" in output
        assert "train images" in output
