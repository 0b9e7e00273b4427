"""Settings that cannot be compiled, and the parameters of a compiled pipeline."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from kubeflow import parameters
from pipeline.config import load
from pipeline.errors import ConfigError
from tests.kit.cli import perennial, sets
from tests.kit.sample_package import NEEDED


class TestRefused:
    """One line on stderr, exit code 2, nothing written."""

    @pytest.mark.parametrize(
        ("settings", "words"),
        [
            ({"data.source": None}, ("data.source is not set", "digits to train on those")),
            ({"kubeflow.image": None}, ("kubeflow.image is not set",)),
            ({"kubeflow.image": "perennial"}, ("kubeflow.image = 'perennial'", "tag or a digest")),
            ({"kubeflow.pipeline_root": None}, ("kubeflow.pipeline_root is not set",)),
            (
                {
                    "kubeflow.pipeline_root": "s3://bucket/x",
                    "beam.runner": "PortableRunner",
                    "beam.args": '["--job_endpoint=beam:8099", "--environment_type=EXTERNAL", '
                    '"--environment_config=worker:50000"]',
                },
                ("PortableRunner works on other machines", "cannot write to s3://"),
            ),
            (
                {"kubeflow.pipeline_root": "what://x/y"},
                ("what:// is not a supported kind of storage",),
            ),
            ({"kubeflow.nodes": '{Trainer = "gpu"}'}, ("no such pool", "there are cpu")),
            ({"kubeflow.nodes": '{Tuner = "cpu"}'}, ("no such node", "Trainer")),
            ({"kubeflow.parameters": '["train.epoch"]'}, ("'train.epoch'", "no such setting")),
            ({"kubeflow.parameters": '["beam.args"]'}, ("'beam.args'", "must be a setting that")),
            (
                {"kubeflow.parameters": '["data.eval", "kubeflow.pipeline_root"]'},
                ("would be called pipeline_root",),
            ),
            ({"train.recipe": "auto"}, ("train.recipe", "name a recipe")),
            ({"data.schema_file": "/absent"}, ("data.schema_file", "No such file")),
        ],
    )
    def test_settings(
        self, settings: dict[str, str | None], words: tuple[str, ...], tmp_path: Path
    ) -> None:
        file = tmp_path / "pipeline.yaml"
        given = {k: v for k, v in {**NEEDED, **settings}.items() if v is not None}
        result = perennial("compile", "--output", file, *sets(given))
        self.check(result.exit_code, result.stderr, words)
        assert not file.exists()

    def test_a_file_that_is_not_called_yaml(self, tmp_path: Path) -> None:
        result = perennial("compile", "--output", tmp_path / "p.json")
        self.check(result.exit_code, result.stderr, ("p.json", ".yaml"))

    def check(self, code: int, stderr: str, words: tuple[str, ...]) -> None:
        assert code == ConfigError.exit_code, stderr
        (line,) = stderr.splitlines()
        for word in ("perennial: error: ", *words):
            assert word in line


class TestParameters:
    def given(self, **settings: Any) -> dict[str, Any]:
        return parameters.compiled(load(None, {"data.source": "/images", **settings}))

    def test_what_is_compiled_are_the_settings_that_a_user_made(self) -> None:
        given = self.given(**NEEDED, **{"workspace": "/w", "train.epochs": 3})
        assert given == {"data.source": NEEDED["data.source"], "train.epochs": 3}

    def test_a_parameter_changes_its_setting(self) -> None:
        arguments = {"data_root": "/new", "span": "7", "epochs": "2", "learning_rate": "0.5"}
        config = parameters.load(self.given(), arguments).config
        assert (config.data.source, config.data.last_span) == ("/new", 7)
        assert config.train.epochs == 2
        assert config.train.hyperparameters.model_dump()["learning_rate"] == 0.5

    def test_numbers_come_as_kubeflow_writes_them(self) -> None:
        config = parameters.load(self.given(), {"seed": "3.0", "min_accuracy": "1"}).config
        assert (config.train.seed, config.evaluate.min_accuracy) == (3, 1.0)

    def test_another_recipe_brings_its_own_presets_where_parameters_are_as_compiled(self) -> None:
        given = self.given()
        own = {each.name: str(each.default) for each in parameters.of(load(None, given).config)}
        config = parameters.load(given, {**own, "recipe": "bit", "seed": "5"}).config
        assert config.train.recipe == "bit"
        assert config.train.batch_size == 64
        assert config.train.seed == 5

    def test_an_empty_text_unsets_what_may_be_unset(self) -> None:
        given = self.given(**{"train.recipe": "bit", "train.epochs": 3})
        assert parameters.load(given, {"epochs": ""}).config.train.epochs is None

    @pytest.mark.parametrize(
        ("name", "text", "words"),
        [
            ("epochs", "many", "train.epochs = 'many': must be a valid integer"),
            ("epochs", "1.5", "train.epochs = 1.5: must be a valid integer"),
            ("epochs", "0", "train.epochs = 0: must be greater than or equal to 1"),
            ("batch_size", "true", "train.batch_size = true: must be a valid integer"),
            ("learning_rate", "fast", "learning_rate = 'fast': must be a valid number"),
            ("recipe", "best", "train.recipe = 'best': no such recipe"),
            ("data_root", "", "data.source = '': must not be empty"),
        ],
    )
    def test_the_wrong_type_is_one_line_that_names_the_parameter(
        self, name: str, text: str, words: str
    ) -> None:
        with pytest.raises(ConfigError) as error:
            parameters.load(self.given(), {name: text})
        assert str(error.value).startswith(f"parameter {name}: ")
        assert words in str(error.value)
        assert ";" not in str(error.value).partition("there are")[0].removesuffix("; ")

    def test_no_such_parameter(self) -> None:
        with pytest.raises(ConfigError, match="parameter epoch: no such parameter; there are data"):
            parameters.load(self.given(), {"epoch": "1"})

    def test_a_recipe_by_this_machine_is_refused(self) -> None:
        with pytest.raises(ConfigError, match="name a recipe"):
            parameters.load(self.given(), {"recipe": "auto"})


def test_a_setting_of_each_kind_can_be_a_parameter() -> None:
    keys = ["train.warm_start", "train.precision", "data.schema_file", "train.train_size"]
    config = load(None, {"kubeflow.parameters": keys[:3]}).config
    kinds = {each.name: (each.type, each.default) for each in parameters.of(config)[3:]}
    assert kinds == {
        "warm_start": (bool, False),
        "precision": (str, "auto"),
        "schema_file": (str, ""),
    }
