"""A retraining starts from the settings of the baseline, and tells what differs."""

from __future__ import annotations

import datetime
import json
import re
import subprocess
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
import typer

from components.lineage import History, Lineage, TrainedModel
from pipeline import cli
from pipeline.config import Loaded, items, load
from pipeline.report.facts import RECORD
from pipeline.retraining.prepare import Prepared, prepare
from pipeline.workspace import Workspace
from tests import REPO
from tests.kit.cli import command, sets, ungated
from tests.kit.runs import TINY

MADE = datetime.datetime(2026, 5, 1, 3, tzinfo=datetime.UTC)
PHOTOS = {"data.source": "gs://bucket/photos"}  # no preset, and nothing to look at
RUN = "20260501-030000-abcd"

Baseline = Callable[..., None]


@pytest.fixture
def baseline(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Baseline:
    """Return a function that makes the baseline one of a run with given settings."""

    def make(settings: Mapping[str, Any], run: str = RUN, **changed: Any) -> None:
        loaded = load(None, {"workspace": str(tmp_path), **PHOTOS, **settings})
        workspace = Workspace(tmp_path)
        record = {
            key: {"value": value, "origin": loaded.origins[key]}
            for key, value in items(loaded.config, loaded.origins)
        }
        workspace.metadata.touch()
        workspace.run_dir(run).mkdir(parents=True)
        (workspace.run_dir(run) / RECORD).write_text(
            json.dumps({"settings": {**record, **changed}})
        )
        model = TrainedModel(1, "model", True, MADE, "examples", run)
        monkeypatch.setattr(Lineage, "history", lambda *_: History(model, model))
        monkeypatch.setattr(Lineage, "at", lambda _: Lineage(None))

    return make


@pytest.fixture
def prepared(tmp_path: Path) -> Callable[..., Prepared]:
    """Return the configuration of a retraining with these settings."""

    def make(**given: Any) -> Prepared:
        settings = {"workspace": str(tmp_path), **PHOTOS}
        settings |= {key.replace("__", "."): value for key, value in given.items()}

        def load_with(
            above: Sequence[str] = (), below: Mapping[str, Mapping[str, object]] | None = None
        ) -> Loaded:
            extra = dict(each.split("=") for each in above)
            return load(None, {**settings, **extra}, scheduled=True, below=below)

        return prepare(load_with)

    return make


class TestSettings:
    OWN = {
        "train.recipe": "vit",
        "train.epochs": 7,
        "train.hyperparameters.depth": 3,
        "train.hyperparameters.head_dims": [32],
        "transform.image_size": 48,
        "data.eval": 30,
        "evaluate.min_accuracy": 0.9,
    }

    def test_are_the_baseline_s(
        self, baseline: Baseline, prepared: Callable[..., Prepared]
    ) -> None:
        baseline(self.OWN)
        loaded, notes = prepared()
        values = dict(items(loaded.config, loaded.origins))
        assert {key: values[key] for key in self.OWN} == self.OWN
        assert {loaded.origins[key] for key in self.OWN} == {f"baseline {RUN}"}
        assert notes[0].endswith(RUN)
        assert [n for n in notes if re.match(r"train\.epochs = 7, .*; 10 by preset:recipe-vit ", n)]
        assert len(notes) == len(self.OWN)  # a line each but for the recipe, and the first
        assert loaded.config.train.warm_start

    def test_what_is_given_wins_and_is_told(
        self, baseline: Baseline, prepared: Callable[..., Prepared]
    ) -> None:
        baseline(self.OWN)
        loaded, notes = prepared(train__epochs=2, transform__image_size=48)
        assert loaded.config.train.epochs == 2
        assert [n for n in notes if re.match(r"train\.epochs = 2 by command line; .* 7$", n)]
        assert not any("image_size" in note for note in notes)

    def test_are_still_its_own_after_a_retraining(
        self, baseline: Baseline, prepared: Callable[..., Prepared]
    ) -> None:
        baseline({"train.epochs": 7})
        depth = {"value": 3, "origin": "baseline 20260401-030000-ef01"}
        bound = {"value": 0.9, "origin": "champion 20260401-030000-ef01"}  # of version 0.1
        baseline(
            {"train.epochs": 7},
            "20260502-030000-cdef",
            **{"train.hyperparameters.depth": depth, "evaluate.min_class_recall": bound},
        )
        loaded, _ = prepared()
        assert loaded.config.train.hyperparameters.model_dump()["depth"] == 3
        assert loaded.config.evaluate.min_class_recall == 0.9

    def test_another_recipe_takes_neither_settings_nor_weights(
        self, baseline: Baseline, prepared: Callable[..., Prepared]
    ) -> None:
        baseline(self.OWN)
        loaded, notes = prepared(train__recipe="bit")
        assert loaded.config.train.recipe == "bit"
        assert not loaded.config.train.warm_start
        assert loaded.config.train.epochs is None
        assert loaded.config.data.eval == 30
        assert [n for n in notes if re.match(r"train\.recipe = bit .*\bvit\b", n)]

    def test_auto_is_the_baseline_s_recipe(
        self, baseline: Baseline, prepared: Callable[..., Prepared]
    ) -> None:
        baseline({"train.recipe": "fixres"})
        loaded, notes = prepared(train__recipe="auto")
        assert loaded.config.train.recipe == "fixres"
        assert loaded.config.train.warm_start
        chosen = load(None, {"train.recipe": "auto", **PHOTOS}).config
        assert chosen.train.recipe != "fixres"
        assert [n for n in notes if re.search(rf"fixres, .*auto .*{chosen.train.recipe} ", n)]

    def test_places_schedules_and_pinned_spans_are_not_taken(
        self, baseline: Baseline, prepared: Callable[..., Prepared], tmp_path: Path
    ) -> None:
        source = f"{tmp_path}/data/{{SPAN}}"
        baseline(
            {
                "data.source": source,
                "data.first_span": 1,
                "data.last_span": 2,
                "retrain.promote": "stable",
                "notify.on": ["failed"],
                "kubeflow.run_as_user": 7,
                "validation.warn": ["*"],
            }
        )
        (tmp_path / "data").mkdir()
        loaded, _ = prepared(data__source=source)
        config = loaded.config
        assert config.data.source == source
        assert (config.data.first_span, config.data.last_span) == (None, None)
        assert (config.data.spans, config.data.held_out) == (10_000, "all")
        assert config.retrain.promote == "canary"
        assert len(config.notify.on) == 4
        assert config.kubeflow.run_as_user is None
        assert config.validation.warn == ("*",)

    def test_a_gate_that_was_loosened_for_one_run_is_not_loose_for_good(
        self, baseline: Baseline, prepared: Callable[..., Prepared]
    ) -> None:
        baseline(
            {
                "evaluate.max_accuracy_drop": 1.0,
                "evaluate.min_accuracy": 0.1,
                "evaluate.majority_significance": 1.0,
                "evaluate.max_ece": 0.05,
                "evaluate.min_macro_f1": 0.8,
            }
        )
        bounds = prepared().loaded.config.evaluate
        assert (bounds.max_accuracy_drop, bounds.min_accuracy) == (0.0, 0.5)
        assert bounds.majority_significance == 0.05
        assert (bounds.max_ece, bounds.min_macro_f1) == (0.05, 0.8)

    def test_settings_of_another_version_are_left_out(
        self, baseline: Baseline, prepared: Callable[..., Prepared]
    ) -> None:
        old = {"value": 1, "origin": "command line"}
        baseline({"train.epochs": 7}, **{"train.hyperparameters.gone": old, "train.gone": old})
        assert prepared().loaded.config.train.epochs == 7

    def test_without_a_record_what_is_given_counts(
        self, baseline: Baseline, prepared: Callable[..., Prepared], tmp_path: Path
    ) -> None:
        assert prepared().notes == []
        baseline({"train.epochs": 7})
        (Workspace(tmp_path).run_dir(RUN) / RECORD).write_text("{")
        loaded, notes = prepared()
        assert notes == []
        assert loaded.config.train.epochs == 10


def test_retrain_takes_the_options_of_run() -> None:
    commands: Any = typer.main.get_command(cli.app)
    options = {
        name: {option for each in commands.commands[name].params for option in each.opts}
        for name in ("run", "retrain")
    }
    assert options["run"] <= options["retrain"]


@pytest.mark.timeout(1800)
def test_a_retraining_goes_on_where_the_baseline_ended(
    few_digits: Callable[..., Path], tmp_path: Path
) -> None:
    """As a person does it: a run with settings, new images, and a retraining without any."""
    data = few_digits("01", 40)
    held = tmp_path / "held"
    held.mkdir()
    for path in sorted((data / "1").iterdir())[:5]:
        path.rename(held / path.name)
    place = ["--data", str(data), "--workspace", str(tmp_path / "work"), "--log-format", "json"]
    loose = [*ungated(), *sets({"evaluate.min_accuracy": 0.01, "evaluate.max_accuracy_drop": 1})]
    own = sets({**TINY, "train.batch_size": 16, "infra_validation.enabled": "false"})
    first = subprocess.run(
        command("run", *place, "--epochs", 2, *own, *loose),
        cwd=REPO,
        capture_output=True,
        text=True,
    )
    assert first.returncode == 0, first.stderr
    for path in held.iterdir():
        path.rename(data / "1" / path.name)
    again = subprocess.run(
        command("retrain", *place, *loose), cwd=REPO, capture_output=True, text=True
    )
    assert again.returncode == 0, again.stderr
    events = [json.loads(line) for line in again.stdout.splitlines()]
    notes = [event["text"] for event in events if event["event"] == "note"]
    assert any(n.startswith("train.hyperparameters.patch_size = 4, ") for n in notes)
    (summary,) = (event for event in events if event["event"] == "summary")
    record = json.loads((tmp_path / "work/runs" / summary["run_id"] / RECORD).read_text())
    assert record["settings"]["train.epochs"]["value"] == 2
    assert record["settings"]["train.epochs"]["origin"].startswith("baseline ")
    assert record["settings"]["train.warm_start"]["value"] is True
