"""What is collected of a run, and what a page, files and commands make of it; no browser."""

from __future__ import annotations

import csv
import dataclasses
import json
import re
import shlex
from pathlib import Path
from xml.etree import ElementTree

import matplotlib as mpl
import pytest
from PIL import Image

from pipeline.report import figure as figure_style
from pipeline.report import page, plots, write
from pipeline.report.facts import Facts, Setting, State
from tests.kit import report as report_kit
from tests.kit.elements import Elements
from tests.kit.report import NAMES


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
        elements = Elements(text).found
        assert not {"script", "i", "b", "iframe"} & {tag for tag, _ in elements}
        assert not [name for _, attrs in elements for name in attrs if name.startswith("on")]
        assert "{{x}}" in text

    def test_nothing_is_loaded(self, text: str) -> None:
        for _, attrs in Elements(text).found:
            assert (attrs.get("src") or "data:").startswith("data:")
        assert "default-src 'none'" in text
        assert "http" not in text.replace("http-equiv", "").replace("http://www.w3.org/", "")

    def test_ids_are_unique(self, text: str) -> None:
        ids = [attrs["id"] for _, attrs in Elements(text).found if "id" in attrs]
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
        assert "augmented" in page.render(facts, drawn)
        text = page.render(facts.model_copy(update={"samples": plain}), drawn)
        assert "augments" in text
        assert "augmented" not in text

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
        assert re.search(r"1,000 classes, .* 2\b", drawn["classes"].svg)
        text = page.render(facts, list(drawn.values()))
        _, _, table = text.partition("The 200 worst of 1,000 classes")
        assert table.partition("</tbody>")[0].count('<th scope="row">') == 200
        assert "tables/classes.csv" in table

    @pytest.mark.parametrize(
        ("weights", "shown"),
        [("imagenet", "imagenet"), ("/w/own.h5", "/w/own.h5"), ("none", "scratch")],
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
        assert re.match(r"Not blessed\b", what)
        assert re.match(r"accuracy 0\.9000 .*evaluate\.min_accuracy = 0\.9500$", why)
        text = page.render(facts, [])
        assert text.index(why) < text.index("<main")

    def test_what_blocked_a_run_is_listed_first(self) -> None:
        facts = report_kit.facts(State.FAILED)
        assert facts.data
        data = dataclasses.replace(facts.data, anomalies=None, findings=[])
        text = page.render(facts.model_copy(update={"data": data}), [])
        assert text.index("no image</li>") < text.index("<main")
        assert "validated" not in text

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
