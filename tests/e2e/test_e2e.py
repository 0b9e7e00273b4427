"""The whole DAG as a person starts it: `perennial run` in a process of its own, on real images."""

from __future__ import annotations

import json
import re
import shlex
import shutil
import signal
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import pytest
from PIL import Image

from components.model_registry import versions
from pipeline.config import items, load
from pipeline.report import page
from pipeline.report.facts import Facts, State
from tests import REPO
from tests.kit.cli import process, sets
from tests.kit.runs import SMALL, TINY, Run, perennial_run, run_command

PACKAGES = ("pipeline", "components", "trainer_module", "kubeflow")
DOWNSTREAM = {"Trainer", "Evaluator", "InfraValidator", "Pusher"}


class TestDigits:
    """The default run, and the same again."""

    @pytest.fixture(scope="class")
    def workspace(self, tmp_path_factory: pytest.TempPathFactory) -> Path:
        return tmp_path_factory.mktemp("digits") / "workspace"

    @pytest.fixture(scope="class")
    def first(self, workspace: Path) -> Run:
        return perennial_run("--workspace", str(workspace))

    def test_learns_is_blessed_and_is_pushed(self, first: Run, workspace: Path) -> None:
        assert first.code == 0, first.stderr
        assert first.stderr == ""
        verdict = first.summary["verdict"]
        assert verdict["accuracy"] >= 0.95
        assert verdict["blessed"]
        assert verdict["baseline_accuracy"] is None
        assert set(verdict["class_accuracy"]) == {str(digit) for digit in range(10)}
        splits = first.summary["data"]["splits"]
        assert sum(sum(split.values()) for split in splits.values()) == 1797
        assert verdict["examples"] == sum(splits["eval"].values())
        assert first.summary["pushed"] == str(workspace / "serving" / "perennial" / "1")

    def test_leaves_a_record_of_what_was_set_and_what_it_cost(
        self, first: Run, workspace: Path
    ) -> None:
        run_id = first.summary["run_id"]
        record = json.loads((workspace / "runs" / run_id / "run.json").read_text())
        assert record["verdict"] == first.summary["verdict"]
        assert all(node["cpu_s"] >= 0 and node["peak_mb"] > 0 for node in record["nodes"])
        assert len(record["nodes"]) == 11
        config = (workspace / "runs" / run_id / "config.toml").read_text()
        assert "min_accuracy = 0.95  # preset:data-digits" in config
        assert (workspace / "logs" / f"{run_id}.log").stat().st_size > 0

    def test_leaves_a_report_of_all_there_is_to_tell(self, first: Run, workspace: Path) -> None:
        folder = workspace / "runs" / first.summary["run_id"]
        facts = Facts.model_validate_json((folder / "report.json").read_bytes())
        assert facts.run.state is State.PUSHED
        assert facts.run.settings["evaluate.min_accuracy"].origin == "preset:data-digits"
        assert facts.data
        assert facts.data.all_examples == 1797
        assert facts.training
        assert len(facts.training.epochs) == 30
        assert facts.evaluation
        assert facts.evaluation.examples == facts.data.examples("eval")
        assert facts.verdict
        assert facts.predictions
        confusion = facts.evaluation.candidate.confusion_matrix()
        assert facts.predictions.wrong == confusion.sum() - confusion.trace()
        text = (folder / "report.html").read_text(encoding="utf-8")
        for title in ("Verdict", "Data", "Training", "Evaluation", "Mistakes", "Lineage"):
            assert f">{title}" in text
        # Of a mistake there is also where the network looked.
        shown = len(facts.predictions.grid) + 2 * len(facts.predictions.mistakes)
        assert text.count("<img ") == shown + 8 * 4  # samples: prepared, patches, 2 augmented
        assert first.summary["run_id"] in (workspace / "runs" / "index.html").read_text()

    def test_the_report_s_command_is_for_the_same_run(self, first: Run, workspace: Path) -> None:
        folder = workspace / "runs" / first.summary["run_id"]
        facts = Facts.model_validate_json((folder / "report.json").read_bytes())
        command = shlex.split(page.rerun(facts)[-1])
        assert command[:-1] == [".venv/bin/perennial", "run", "--config"]
        again = load(Path(command[-1]))
        settings = {key: setting.value for key, setting in facts.run.settings.items()}
        values = dict(items(again.config, again.origins))  # tables also entry by entry
        assert {key: values[key] for key in settings} == settings

    def test_the_run_s_model_can_be_asked_about_files_of_any_kind(
        self, first: Run, workspace: Path
    ) -> None:
        folder = workspace.parent / "asked"
        folder.mkdir()
        three = next((workspace / "data" / "digits" / "3").iterdir())
        with Image.open(three) as image:
            image.save(folder / "three.tiff")
        (folder / "junk.png").write_bytes(b"junk")
        arguments = ("predict", first.summary["run_id"], folder, "--json", "--top", "2")
        done = process(*arguments, "--workspace", workspace)
        assert done.returncode == 3
        assert re.fullmatch("perennial: error: 1 of 2 .*\n", done.stderr)
        junk, asked = map(json.loads, done.stdout.splitlines())
        assert junk["file"] == str(folder / "junk.png")
        assert junk["error"]
        assert asked["file"] == str(folder / "three.tiff")
        assert asked["classes"][0]["label"] == "3"
        assert len(asked["classes"]) == 2

    def test_the_pushed_model_answers_through_a_session(self, first: Run, workspace: Path) -> None:
        from trainer_module.export import IMAGES, run_in_session

        files = sorted((workspace / "data" / "digits").glob("*/*.png"))[::20]
        outputs = run_in_session(first.summary["pushed"], IMAGES, [f.read_bytes() for f in files])
        right = [
            label.decode() == file.parent.name
            for label, file in zip(outputs["label"], files, strict=True)
        ]
        assert sum(right) / len(right) >= 0.95
        assert outputs["probabilities"].shape == (len(files), 10)
        assert outputs["probabilities"].sum(axis=1) == pytest.approx(1, abs=1e-4)

    def test_the_same_again_is_taken_from_the_cache_and_pushes_nothing(
        self, first: Run, workspace: Path
    ) -> None:
        again = perennial_run("--workspace", str(workspace))
        assert again.code == 0
        assert again.states("complete") == set()
        assert len(again.states("cached")) == 9
        assert again.summary["pushed"] == first.summary["pushed"]
        assert again.summary["verdict"] == first.summary["verdict"]
        assert versions.find(first.summary["pushed"].removesuffix("/1")) == [1]

    def test_a_version_that_somebody_removed_is_pushed_again(
        self, first: Run, workspace: Path
    ) -> None:
        shutil.rmtree(first.summary["pushed"])
        again = perennial_run("--workspace", str(workspace))
        assert again.code == 0
        assert again.states("complete") == {"Pusher"}
        assert again.summary["pushed"] == first.summary["pushed"]
        assert versions.find(first.summary["pushed"].removesuffix("/1")) == [1]


class TestRecipes:
    """Each recipe that the digits' default run does not use, at a small size, to a pushed model."""

    SETTINGS = {
        "bit": {
            "transform.image_size": 32,
            "transform.train_size": 36,
            "train.hyperparameters.variant": "tiny",
        },
        "fixres": {
            "train.epochs": 2,
            "transform.image_size": 24,
            "train.hyperparameters.base": "bit",
            "train.hyperparameters.settings": '{variant = "tiny", crop = false}',
            "train.hyperparameters.low": 16,
            "train.hyperparameters.high": 24,
        },
        "mobilenet": {
            "transform.image_size": 32,
            "train.hyperparameters.alpha": 0.35,
            "train.hyperparameters.weights": "none",
            "train.hyperparameters.head_epochs": 0,
        },
        "vit_finetune": {
            "transform.image_size": 12,
            "train.gradient_accumulation": 2,
            "train.hyperparameters.variant": "tiny/4",
        },
    }

    @pytest.fixture(scope="class")
    def shared(self, tmp_path_factory: pytest.TempPathFactory) -> Path:
        """Create a folder for weights in the official form, and a workspace."""
        return tmp_path_factory.mktemp("recipes")

    @pytest.fixture(scope="class")
    def data(self, few_digits: Callable[..., Path]) -> Path:
        return few_digits("01")

    def weights(self, recipe: str, folder: Path) -> dict[str, str]:
        """Random ones: those of vit_finetune are for 8 px, so that positions are resized."""
        from tests.kit import weights
        from trainer_module.models.vision_transformer import VARIANTS

        if recipe == "bit":
            arrays = weights.bit_arrays()
        elif recipe == "vit_finetune":
            arrays = weights.vit_arrays(VARIANTS["tiny/4"], 2)
        else:
            return {}
        spec = weights.save_arrays(folder / f"{recipe}.npz", arrays)
        prefix = "train.hyperparameters.weights"
        return {f"{prefix}.source": spec.source, f"{prefix}.sha256": spec.sha256}

    @pytest.mark.parametrize("recipe", sorted(SETTINGS))
    def test_runs_from_images_to_a_pushed_model(
        self, recipe: str, shared: Path, data: Path
    ) -> None:
        from trainer_module.export import IMAGES, run_in_session

        settings = {**self.SETTINGS[recipe], **self.weights(recipe, shared)}
        # The model is asked in a session below, as the server of another test asks it.
        settings |= {"evaluate.max_accuracy_drop": 1, "infra_validation.enabled": "false"}
        place = ("--workspace", str(shared / "workspace"), "--data", str(data))
        run = perennial_run(*place, *SMALL, "--recipe", recipe, *sets(settings))
        assert run.code == 0, run.stderr
        assert run.states("complete") >= DOWNSTREAM - {"InfraValidator"}
        image = next((data / "0").iterdir()).read_bytes()
        outputs = run_in_session(run.summary["pushed"], IMAGES, [image])
        assert outputs["probabilities"].sum() == pytest.approx(1, abs=1e-4)


class Tree(NamedTuple):
    """A private copy of the sources, a small data set and a workspace in which it was run once."""

    root: Path
    data: Path
    workspace: Path

    def run(self, *arguments: str) -> Run:
        return perennial_run(*self.given, *arguments, tree=self.root)

    @property
    def given(self) -> list[str]:
        places = ("--workspace", str(self.workspace), "--data", str(self.data))
        return [*places, *SMALL, *sets(TINY)]

    def edit(self, source: str) -> None:
        with open(self.root / source, "a", encoding="utf-8") as file:
            file.write("\n_EDITED = True\n")


@pytest.mark.in_order
class TestChanges:
    """The nodes that run again after each kind of change, in one workspace."""

    @pytest.fixture(scope="class")
    def tree(
        self, tmp_path_factory: pytest.TempPathFactory, few_digits: Callable[..., Path]
    ) -> Tree:
        root = tmp_path_factory.mktemp("tree")
        for package in PACKAGES:
            shutil.copytree(
                REPO / package, root / package, ignore=shutil.ignore_patterns("__pycache__")
            )
        tree = Tree(root, few_digits("014"), root / "workspace")
        first = tree.run()
        assert first.code == 0, first.stderr
        assert first.summary["pushed"] == str(tree.workspace / "serving" / "perennial" / "1")
        return tree

    def test_a_model_below_the_bound_is_not_pushed(self, tree: Tree) -> None:
        run = tree.run("--set", "evaluate.min_accuracy=1")
        assert run.code == 4
        assert run.states("complete") == {"Evaluator", "Pusher"}
        assert run.summary["pushed"] is None
        assert re.search(r"accuracy [\d.]+ .*evaluate\.min_accuracy = 1\b", run.stderr)
        assert run.stderr.count("\n") == 1

    def test_a_hyperparameter_retrains_and_compares_with_the_blessed_model(
        self, tree: Tree
    ) -> None:
        run = tree.run(
            "--set", "train.hyperparameters.dropout=0.2", "--set", "evaluate.max_accuracy_drop=1"
        )
        assert run.code == 0, run.stderr
        assert run.states("complete") == DOWNSTREAM
        assert run.summary["verdict"]["baseline_accuracy"] is not None

    def test_an_edit_of_the_recipes_model_retrains(self, tree: Tree) -> None:
        tree.edit("trainer_module/models/vit.py")
        run = tree.run("--set", "evaluate.max_accuracy_drop=1")
        assert run.states("complete") == DOWNSTREAM

    def test_an_edit_of_the_preprocessing_runs_transform_too(self, tree: Tree) -> None:
        tree.edit("trainer_module/transform.py")
        run = tree.run("--set", "evaluate.max_accuracy_drop=1")
        assert run.states("complete") == {"Transform"} | DOWNSTREAM

    def test_killed_in_training_it_continues_with_training(self, tree: Tree) -> None:
        tree.edit("trainer_module/fit.py")
        killed = subprocess.Popen(
            run_command(*tree.given, "--set", "evaluate.max_accuracy_drop=1"),
            cwd=tree.root,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )
        assert killed.stdout is not None
        for line in killed.stdout:
            event = json.loads(line)
            if event["event"] == "epoch":  # of one, before the export
                killed.send_signal(signal.SIGSTOP)
                refused = tree.run()
                killed.send_signal(signal.SIGKILL)
        killed.wait()

        assert refused.code == 6
        assert f"process {killed.pid} " in refused.stderr
        run = tree.run("--set", "evaluate.max_accuracy_drop=1")
        assert run.code == 0, run.stderr
        assert any(e.get("text", "").startswith("Trainer was cut") for e in run.events)
        assert run.states("complete") == DOWNSTREAM

    def test_a_new_image_runs_everything(self, tree: Tree, few_digits: Callable[..., Path]) -> None:
        unused = max((few_digits("4", 41) / "4").iterdir())
        shutil.copy(unused, tree.data / "4" / "new.png")
        run = tree.run("--set", "evaluate.max_accuracy_drop=1")
        assert run.code == 0, run.stderr
        assert "ImageExampleGen" in run.states("complete")
        assert run.states("complete") >= {"Transform"} | DOWNSTREAM


class TestBadInput:
    """One line on stderr, the right exit code, no traceback; other mistakes are in test_cli.py."""

    def check(self, run: Run, code: int, *words: str) -> None:
        assert run.code == code, run.stderr
        assert run.stderr.count("\n") == 1
        assert run.stderr.startswith("perennial: error: ")
        for word in words:
            assert word in run.stderr

    def test_more_broken_images_than_allowed(self, two_classes: Path, tmp_path: Path) -> None:
        (two_classes / "cat" / "00.png").write_bytes(b"not a PNG")
        places = ("--workspace", str(tmp_path / "workspace"), "--data", str(two_classes))
        run = perennial_run(*places, "--set", "data.max_bad_fraction=0.01")
        self.check(run, 3, "cat/00.png", "1 of 80 ", "data.max_bad_fraction = 0.01")
        (note,) = [e["text"] for e in run.events if e.get("text", "").startswith("report: ")]
        report = Path(note.removeprefix("report: "))
        assert "max_bad_fraction" in report.read_text()
        record = json.loads((report.parent / "run.json").read_text())
        assert record["state"] == "failed"
        (finding,) = json.loads((report.parent / "report.json").read_text())["run"]["findings"]
        assert finding.startswith("cat/00.png: ")
        assert finding in report.read_text()
        states = {node["node"]: node["state"] for node in record["nodes"]}
        assert states["ImageExampleGen"] == "failed"
        assert states["Pusher"] == "skipped"

    def test_no_write_permission(self, two_classes: Path) -> None:
        run = perennial_run("--workspace", "/proc/perennial", "--data", str(two_classes))
        self.check(run, 2, "/proc/perennial")
