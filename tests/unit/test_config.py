from __future__ import annotations

import contextlib
import os
import tomllib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel

from components import progress
from components.image_example_gen.options import Options
from pipeline import config as config_module
from pipeline.config import (
    PRESETS,
    check_paths,
    config_class,
    dump_toml,
    items,
    load,
    load_given,
    parse_set,
    renamed,
    toml,
)
from pipeline.errors import ConfigError, DataError
from pipeline.report import facts
from pipeline.settings import Config
from pipeline.settings.cluster import ENVIRONMENTS
from pipeline.settings.paths import BUILT_IN_SOURCES
from tests.kit.cli import UNGATED
from trainer_module import recipes


def history_run(**fields: Any) -> facts.Run:
    """Make the record of a run."""
    known = {"run_id": "1", "started": "2026-01-01T00:00:00+00:00", "state": "pushed"}
    known |= {"name": "perennial", "recipe": "vit"}
    more = {"data": {"source": "digits"}, "code": {"versions": {}}}
    return facts.Run.model_validate({**known, **more, **fields})


def write(path: Path, text: str) -> Path:
    path.write_text(text, encoding="utf-8")
    return path


@pytest.fixture
def presets(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Presets of known content, so that the layers can be told apart."""
    folder = tmp_path / "presets"
    folder.mkdir()
    write(
        folder / "recipe-vit.toml",
        "[transform]\nimage_size = 72\ninterpolation = 'area'\n"
        "[train]\nepochs = 11\nbatch_size = 12\n",
    )
    write(
        folder / "data-digits.toml",
        "[evaluate]\nmin_accuracy = 0.25\n"
        "[recipe.vit.train]\nepochs = 21\n[recipe.other]\nno = 1\n",
    )
    monkeypatch.setattr(toml, "PRESETS", folder)
    return folder


@contextlib.contextmanager
def unwritable(folder: Path) -> Iterator[None]:
    """Deny this process the folder, also where it runs as root, whom permissions do not bind."""
    user = os.geteuid()
    folder.chmod(0)
    if user == 0:
        os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(user)
        folder.chmod(0o700)


class TestLayers:
    @pytest.mark.parametrize(
        ("text", "overrides", "epochs", "origin"),
        [
            ("", {}, 21, "preset:data-digits"),
            ("data.source = 'photos'", {}, 11, "preset:recipe-vit"),
            ("", {"data.source": "photos"}, 11, "preset:recipe-vit"),
            ("data.source = 'photos'", {"data.source": "digits"}, 21, "preset:data-digits"),
            ("train.epochs = 31", {}, 31, "file:{file}"),
            ("train.epochs = 31", {"train.epochs": 41}, 41, "command line"),
            ("train.epochs = 31", {"train": {"epochs": 51}}, 51, "command line"),
            ("", {"train": {"epochs": 51}, "train.epochs": 61}, 61, "command line"),
        ],
    )
    def test_later_layers_win_and_are_the_origin(
        self,
        presets: Path,
        tmp_path: Path,
        text: str,
        overrides: dict[str, Any],
        epochs: int,
        origin: str,
    ) -> None:
        file = write(tmp_path / "run.toml", text)
        loaded = load(file, overrides)
        assert loaded.config.train.epochs == epochs
        assert loaded.origins["train.epochs"] == origin.format(file=file)

    def test_settings_that_no_layer_names_are_defaults(self, presets: Path) -> None:
        loaded = load()
        assert loaded.config.train.batch_size == 12
        assert loaded.origins["train.batch_size"] == "preset:recipe-vit"
        assert loaded.config.data.eval == 20
        assert loaded.origins["data.eval"] == "default"
        assert loaded.origins["train.hyperparameters.dim"] == "default"

    def test_a_broken_value_that_a_later_layer_replaces_is_no_error(
        self, presets: Path, tmp_path: Path
    ) -> None:
        file = write(tmp_path / "run.toml", "train.epochs = 'many'")
        assert load(file, {"train.epochs": 1}).config.train.epochs == 1

    def test_a_broken_preset_is_named(self, presets: Path) -> None:
        write(presets / "data-digits.toml", "[recipe.vit.train]\nepochs = 0\n")
        with pytest.raises(ConfigError, match=r"^preset:data-digits: train\.epochs = 0: must be"):
            load()

    def test_a_recipe_without_a_preset_says_what_is_missing_and_where_it_goes(
        self, presets: Path
    ) -> None:
        preset = presets / "recipe-vit.toml"
        preset.unlink()
        with pytest.raises(ConfigError) as caught:
            load(None, {"data.source": "photos", "transform.interpolation": "area"})
        message = str(caught.value)
        assert message.startswith(
            "train.recipe = 'vit': transform.image_size, train.batch_size not set; "
        )
        assert str(preset) in message

    def test_a_folder_that_is_called_like_a_data_set_gets_no_preset(self, presets: Path) -> None:
        assert load(None, {"data.source": "./digits"}).config.train.epochs == 11

    def test_the_tree_cannot_be_changed(self) -> None:
        config = load().config
        with pytest.raises(ValueError, match="frozen"):
            config.train.epochs = 2  # type: ignore[misc]


class TestShippedPresets:
    @pytest.mark.parametrize("recipe", recipes.names())
    @pytest.mark.parametrize("source", [*BUILT_IN_SOURCES, "photos"])
    def test_every_recipe_loads_with_every_source(self, recipe: str, source: str) -> None:
        loaded = load(None, {"train.recipe": recipe, "data.source": source})
        assert isinstance(loaded.config.train.hyperparameters, recipes.get(recipe).Config)

    def test_every_preset_belongs_to_a_setting(self) -> None:
        known = {f"recipe-{name}" for name in recipes.names()}
        known |= {f"data-{name}" for name in BUILT_IN_SOURCES}
        known |= {f"kubeflow-{name}" for name in ENVIRONMENTS}
        known |= {"retrain", "retrain-spans"}
        known |= {f"source-{name}" for name in config_module.published()}
        assert {path.stem for path in PRESETS.glob("*.toml")} <= known

    def test_recipe_tables_name_recipes_that_exist(self) -> None:
        for path in PRESETS.glob("*.toml"):
            tables = tomllib.loads(path.read_text(encoding="utf-8")).get("recipe", {})
            assert set(tables) <= set(recipes.names()), path.name


class TestPools:
    """Tables of settings whose names are free."""

    def test_a_setting_of_a_pool_leaves_its_others_as_they_are(self) -> None:
        given = {"kubeflow.environment": "gke", "kubeflow.pools.gpu-l4.memory": "30Gi"}
        config, origins = load(None, given)
        pool = config.kubeflow.pools["gpu-l4"]
        assert (pool.memory, pool.accelerator) == ("30Gi", "nvidia.com/gpu")
        assert origins["kubeflow.pools.gpu-l4.memory"] == "command line"
        assert origins["kubeflow.pools.gpu-l4.accelerator"] == "preset:kubeflow-gke"

    def test_a_pool_for_one_node_leaves_the_others_where_they_are(self, tmp_path: Path) -> None:
        file = write(
            tmp_path / "run.toml",
            "[kubeflow]\nenvironment = 'gke'\nnodes = { Pusher = 'push' }\npools.push.cpu = '1'\n",
        )
        nodes = load(file, {"kubeflow.nodes.Evaluator": "push"}).config.kubeflow.nodes
        assert nodes == {"Trainer": "gpu-l4", "Pusher": "push", "Evaluator": "push"}
        nodes = load(file, {"kubeflow.nodes.Trainer": "cpu"}).config.kubeflow.nodes
        assert nodes == {"Trainer": "cpu", "Pusher": "push"}

    @pytest.mark.parametrize("environment", ENVIRONMENTS)
    def test_environments_train_on_a_gpu_and_do_everything_else_on_the_pool_that_is_always_there(
        self, environment: str
    ) -> None:
        kubeflow = load(None, {"kubeflow.environment": environment}).config.kubeflow
        assert set(kubeflow.nodes) == {"Trainer"}
        assert kubeflow.pools[kubeflow.nodes["Trainer"]].accelerator == "nvidia.com/gpu"
        assert kubeflow.pools["cpu"].accelerator is None

    @pytest.mark.parametrize(
        ("overrides", "words"),
        [
            ({"kubeflow.nodes.Trainer": "gpu"}, ("nodes.Trainer = 'gpu'", "no such pool", "cpu")),
            ({"kubeflow.pools.g.accelerator": "nvidia.com/gpu"}, ("needs an accelerator_limit",)),
            ({"kubeflow.pools.g.accelerator_limit": 1}, ("needs an accelerator",)),
            ({"kubeflow.pools.g.accelerator": "NVIDIA_TESLA_T4"}, ("Vertex", "nvidia.com/gpu")),
            ({"kubeflow.pools.g.accelerator": "gpu"}, ("resource of a device plugin",)),
            ({"kubeflow.pools.g.spot": True}, ("pools.g.spot needs kubeflow.spot",)),
            ({"kubeflow.pools.g.memory": "8 GB"}, ("kubeflow.pools.g.memory = '8 GB'",)),
            ({"kubeflow.pools.g.memry": "8Gi"}, ("did you mean 'kubeflow.pools.g.memory'?",)),
            ({"kubeflow.pools.g": 3}, ("must be a table of settings (",)),
            ({"kubeflow.pools": 3}, ("kubeflow.pools = 3",)),
            ({"kubeflow.pools.g.secrets": [{"name": "s"}]}, ("either key and env, or path",)),
            ({"kubeflow.image": "perennial"}, ("tag or a digest",)),
            ({"kubeflow.image": "registry:5000/perennial"}, ("tag or a digest",)),
            ({"kubeflow.metadata.kind": "sqlite"}, ("kubeflow.metadata: path",)),
        ],
    )
    def test_impossible_settings_are_refused(
        self, overrides: dict[str, Any], words: tuple[str, ...]
    ) -> None:
        with pytest.raises(ConfigError) as error:
            load(None, overrides)
        for word in ("command line: ", *words):
            assert word in str(error.value)


def descriptions(model: type[BaseModel], prefix: str = "") -> Iterator[tuple[str, str | None]]:
    for name, field in model.model_fields.items():
        yield prefix + name, field.description
        if isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel):
            yield from descriptions(field.annotation, f"{prefix}{name}.")


@pytest.mark.parametrize("recipe", recipes.names())
def test_every_setting_has_a_description(recipe: str) -> None:
    undescribed = [key for key, text in descriptions(config_class(recipe)) if not text]
    assert undescribed == []


class TestPaths:
    def test_relative_paths_of_a_file_start_at_its_folder(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        folder = tmp_path / "conf"
        folder.mkdir()
        write(
            folder / "run.toml",
            "workspace = 'w'\ndata.source = '../photos'\ndata.schema_file = 's.pbtxt'\n"
            "push.directory = '/srv/models'\n",
        )
        monkeypatch.chdir(tmp_path)
        config = load(Path("conf/run.toml")).config
        assert config.workspace == folder / "w"
        assert config.data.source == str(tmp_path / "photos")
        assert config.data.folder == tmp_path / "photos"
        assert config.data.schema_file == folder / "s.pbtxt"
        assert config.push_directory == "/srv/models"

    def test_relative_paths_of_the_command_line_and_defaults_start_at_the_working_directory(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.chdir(tmp_path)
        config = load(None, {"data.source": "photos"}).config
        assert config.data.folder == tmp_path / "photos"
        assert config.workspace == tmp_path / "workspace"
        assert config.push_directory == str(tmp_path / "workspace" / "serving" / "perennial")

    @pytest.mark.parametrize(
        ("source", "expected"),
        [
            ("gs://bucket/photos", "gs://bucket/photos"),
            ("tfds:cifar10", "tfds:cifar10"),
            ("tfrecord:s3://b/x", "tfrecord:s3://b/x"),
            ("manifest:list.txt", "manifest:{folder}/list.txt"),
            ("photos/{SPAN}", "{folder}/photos/{SPAN}"),
        ],
    )
    def test_only_what_is_a_path_in_a_source_is_made_absolute(
        self, tmp_path: Path, source: str, expected: str
    ) -> None:
        file = write(tmp_path / "run.toml", f"data.source = '{source}'")
        assert load(file).config.data.source == expected.replace("{folder}", str(tmp_path))

    def test_the_folder_of_spans_is_what_is_above_them(self, tmp_path: Path) -> None:
        source = f"{tmp_path}/photos/v{{SPAN}}/x"
        assert load(None, {"data.source": source}).config.data.folder == tmp_path / "photos"

    def test_what_ingest_is_told_follows_from_the_settings(self) -> None:
        data = load(
            None, {"data.depth": 2, "data.spans": 3, "data.max_bad_fraction": 0.5}
        ).config.data
        assert (data.options.depth, data.options.spans) == (2, 3)
        assert data.options.max_bad_fraction == 0.5
        # The gate's test is not the ingest's: alone, it takes whatever judges.
        assert load(None, {}).config.data.options == Options(min_eval=5)

    def test_a_tilde_is_the_home_folder_also_in_a_file(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("HOME", "/home/someone")
        file = write(tmp_path / "run.toml", "data.source = '~/photos'")
        assert load(file).config.data.source == "/home/someone/photos"

    def test_the_built_in_data_set_is_a_word_not_a_path(self, tmp_path: Path) -> None:
        config = load(write(tmp_path / "run.toml", "data.source = 'digits'")).config
        assert config.data.source == "digits"
        assert config.data.folder is None

    @pytest.mark.parametrize("key", ["workspace", "data.source", "push.directory"])
    @pytest.mark.parametrize("value", ["", "a\0b", "a\udcffb", "~no-such-user-here/x", 3, ["a"]])
    def test_an_unusable_path_is_refused(self, key: str, value: object) -> None:
        with pytest.raises(ConfigError, match=rf"^command line: {key} = .*: (must|is no usable)"):
            load(None, {key: value})


class TestUnknownKeys:
    @pytest.mark.parametrize(
        ("text", "key", "suggestion"),
        [
            ("nmae = 'x'", "nmae", "name"),
            ("epochs = 3", "epochs", "train.epochs"),
            ("train.epoch = 3", "train.epoch", "train.epochs"),
            ("[evaluate]\nepochs = 3", "evaluate.epochs", "train.epochs"),
            ("[trian]\nepochs = 3", "trian", "train"),
            ("[hyperparameter]\ndim = 3", "hyperparameter", "train.hyperparameters"),
            ("[train.hyperparameters]\ndims = 3", "train.hyperparameters.dims", "…dim"),
        ],
    )
    def test_the_nearest_key_is_suggested(
        self, tmp_path: Path, text: str, key: str, suggestion: str
    ) -> None:
        file = write(tmp_path / "run.toml", text)
        suggestion = suggestion.replace("…", "train.hyperparameters.")
        with pytest.raises(ConfigError) as caught:
            load(file)
        assert str(caught.value) == f"{file}: unknown key {key!r}; did you mean {suggestion!r}?"

    def test_without_a_near_key_those_of_the_table_are_listed(self) -> None:
        with pytest.raises(
            ConfigError,
            match=r"unknown key 'push\.qqq'; there are directory, keep, served_config, promote, signing$",  # noqa: E501
        ):
            load(None, {"push.qqq": 1})

    def test_a_dot_in_a_quoted_key_does_not_reach_into_a_table(self, tmp_path: Path) -> None:
        with pytest.raises(ConfigError, match=r"unknown key 'train\.epochs'"):
            load(write(tmp_path / "run.toml", "'train.epochs' = 3"))

    @pytest.mark.parametrize("value", ["vti", 3, ["vit"], {"a": 1}])
    def test_an_unknown_recipe_is_refused(self, value: object) -> None:
        with pytest.raises(ConfigError, match=r"^command line: train\.recipe = .*no such recipe; "):
            load(None, {"train.recipe": value})

    def test_the_nearest_recipe_is_suggested(self) -> None:
        with pytest.raises(ConfigError, match=r"'vti': no such recipe; did you mean 'vit'\?$"):
            load(None, {"train.recipe": "vti"})


@pytest.fixture
def noted() -> Iterator[list[str]]:
    """Record the notes, line by line."""
    with mock.patch.object(progress, "report") as reported:
        lines: list[str] = []
        reported.side_effect = lambda _, text: lines.append(text)
        yield lines


class TestRenamed:
    @pytest.mark.parametrize("old", renamed.KEYS)
    def test_an_earlier_name_sets_the_present_setting(self, noted: list[str], old: str) -> None:
        value = "crop" if old == "transform.aspect" else "area" if "resize" in old else 0.7
        loaded = load(None, {old: value})
        new = renamed.KEYS[old]
        assert dict(items(*loaded))[new] == value
        assert loaded.origins[new] == "command line"
        assert old not in loaded.origins
        assert noted == [f"command line: {old} is called {new} now; change the name"]

    def test_in_a_file_with_its_table(self, tmp_path: Path, noted: list[str]) -> None:
        text = "[transform]\naspect = 'squeeze'\nantialias = false\n"
        file = write(tmp_path / "run.toml", text)
        config, origins = load(file)
        assert (config.transform.resize_mode, config.transform.antialias) == ("stretch", False)
        assert origins["transform.resize_mode"] == f"file:{file}"
        assert [line.partition(": ")[2] for line in noted] == [
            "transform.aspect is called transform.resize_mode now; change the name",
            "transform.resize_mode = 'squeeze' is called 'stretch' now",
        ]

    def test_in_a_preset_and_in_what_an_earlier_version_compiled_without_a_note(
        self, presets: Path, noted: list[str]
    ) -> None:
        write(presets / "kubeflow-gke.toml", "transform.aspect = 'pad'\n")
        given = {"kubeflow.environment": "gke", "validation.max_text_skew": 0.7}
        config, origins = load_given({"as compiled": given})
        assert config.transform.resize_mode == "pad"
        assert origins["transform.resize_mode"] == "preset:kubeflow-gke"
        assert config.validation.max_categorical_skew == 0.7
        assert noted == []

    def test_a_later_layer_wins_whichever_name_it_has(self, tmp_path: Path) -> None:
        file = write(tmp_path / "run.toml", "transform.aspect = 'crop'")
        assert load(file, {"transform.resize_mode": "pad"}).config.transform.resize_mode == "pad"
        file = write(tmp_path / "run.toml", "transform.resize_mode = 'crop'")
        assert load(file, {"transform.aspect": "pad"}).config.transform.resize_mode == "pad"

    def test_both_names_in_a_file_are_refused(self, tmp_path: Path) -> None:
        file = write(tmp_path / "run.toml", "[transform]\naspect = 'crop'\nresize_mode = 'pad'")
        with pytest.raises(ConfigError, match=r"transform\.aspect .* transform\.resize_mode"):
            load(file)

    def test_where_a_setting_is_a_name_it_is_the_present_one(self) -> None:
        config = load(None, {"kubeflow.parameters": ["transform.aspect", "train.epochs"]}).config
        assert config.kubeflow.parameters == ("transform.resize_mode", "train.epochs")

    def test_a_wrong_value_is_named_with_the_present_name(self) -> None:
        with pytest.raises(ConfigError, match=r"transform\.resize_mode = 'squash': must be"):
            load(None, {"transform.aspect": "squash"})

    def test_the_record_of_an_earlier_run_is_read(self) -> None:
        record: Any = {
            "transform.aspect": {"value": "squeeze", "origin": "default"},
            "train.epochs": {"value": 3, "origin": "command line"},
        }
        assert renamed.recorded(record) == {
            "transform.resize_mode": {"value": "stretch", "origin": "default"},
            "train.epochs": {"value": 3, "origin": "command line"},
        }
        run = history_run(settings=record)
        assert run.value("transform.resize_mode") == "stretch"

    def test_what_a_setting_is_called_now_is_a_setting(self) -> None:
        known = load().origins
        assert not renamed.KEYS.keys() & known
        assert {*renamed.KEYS.values(), *renamed.VALUES} <= known.keys()


class TestValues:
    @pytest.mark.parametrize(
        ("overrides", "message"),
        [
            ({"name": 2024}, "name = 2024: must be a string, in quotes"),
            ({"name": "Big"}, "name = 'Big': must match pattern"),
            ({"name": "a" * 64}, "must have at most 63 characters"),
            ({"train": 3}, "train = 3: must be a table of settings (recipe, preset, "),
            ({"train.epochs": True}, "train.epochs = true: must be a valid integer"),
            ({"train.epochs": "3"}, "train.epochs = '3': must be a valid integer"),
            ({"train.epochs": 3.0}, "train.epochs = 3.0: must be a valid integer"),
            ({"train.epochs": 0}, "train.epochs = 0: must be greater than or equal to 1"),
            ({"train.epochs.x": 1}, "train.epochs: must be a valid integer"),
            ({"train.seed": -1}, "train.seed = -1: must be greater than or equal to 0"),
            ({"train.seed": 2**32}, "train.seed = 4294967296: must be less than"),
            ({"train.deterministic": 1}, "train.deterministic = 1: must be true or false"),
            ({"data.train": 0}, "data.train = 0: must be greater than or equal to 1"),
            ({"data.eval": 0}, "data.eval = 0: must be greater than or equal to 1"),
            ({"data.test": -1}, "data.test = -1: must be greater than or equal to 0"),
            ({"transform.image_size": 5000}, "must be less than or equal to 4096"),
            (
                {"transform.interpolation": "linear"},
                "transform.interpolation = 'linear': must be 'area', ",
            ),
            ({"evaluate.min_accuracy": 95}, "evaluate.min_accuracy = 95: must be less than"),
            ({"evaluate.min_accuracy": float("nan")}, "= nan: must be a finite number"),
            ({"evaluate.max_accuracy_drop": -0.1}, "= -0.1: must be greater than or equal to 0"),
            ({"evaluate.max_drop": {"colour": 0.1}}, "'colour' names no slice: give class, size"),
            ({"evaluate.max_drop": {"class=cat": 2}}, "evaluate.max_drop.class=cat = 2: must be"),
            ({"beam.args": "--x"}, "beam.args = '--x': must be a list, in square brackets"),
            ({"beam.args": ["x=1"]}, "beam.args.0 = 'x=1': must start with --"),
            ({"beam.args": ["--a", "--runner=B"]}, "beam.args.1 = '--runner=B': must not name the"),
            ({"beam.runner": ""}, "beam.runner = '': is no runner of Beam; there are FnApiRunner"),
            ({"beam.runner": "FlinkRuner"}, "did you mean FlinkRunner?"),
            ({"beam.nodes.Trainer.runner": "FlinkRunner"}, "nodes.Trainer: no such node uses Beam"),
            ({"train.hyperparameters.dim": 0}, "train.hyperparameters.dim = 0: must be greater"),
        ],
    )
    def test_a_value_out_of_type_or_range_is_one_line_that_says_what_is_allowed(
        self, overrides: dict[str, Any], message: str
    ) -> None:
        with pytest.raises(ConfigError) as caught:
            load(None, overrides)
        line = str(caught.value)
        assert message in line
        assert line.startswith("command line: ")
        assert "\n" not in line

    def test_all_mistakes_are_reported_each_with_its_origin(self, tmp_path: Path) -> None:
        file = write(tmp_path / "run.toml", "[train]\nepochs = 0\nbatch_size = 0\n")
        with pytest.raises(ConfigError) as caught:
            load(file, {"train.seed": -1})
        for part in (f"{file}: train.epochs", f"{file}: train.batch_size", "line: train.seed"):
            assert part in str(caught.value)

    def test_a_gate_without_any_bound_is_refused(self) -> None:
        nothing: dict[str, float] = {"evaluate.min_accuracy": 0, "evaluate.max_accuracy_drop": 1}
        nothing |= {f"evaluate.{name}": value for name, value in UNGATED.items()}
        with pytest.raises(ConfigError, match="command line: evaluate: no bound is left"):
            load(None, {"data.source": "photos", "transform.image_size": 32, **nothing})

    def test_what_the_recipe_finds_wrong_is_refused_before_anything_runs(
        self, presets: Path
    ) -> None:
        with pytest.raises(ConfigError, match=r"^command line: image_size 31 .*patch_size"):
            load(None, {"transform.image_size": 31, "train.hyperparameters.patch_size": 4})

    def test_a_long_value_is_cut(self) -> None:
        with pytest.raises(ConfigError) as caught:
            load(None, {"train.epochs": "x" * 10_000})
        assert len(str(caught.value)) < 300

    def test_line_breaks_in_names_do_not_break_the_line(self, tmp_path: Path) -> None:
        file = write(tmp_path / "two\nlines.toml", '"a\\nb" = 1')
        with pytest.raises(ConfigError) as caught:
            load(file)
        assert "\n" not in str(caught.value)

    def test_splits_leave_out_a_test_split_of_none(self) -> None:
        assert load().config.data.splits == {"train": 80, "eval": 20}
        assert load(None, {"data.test": 5}).config.data.splits["test"] == 5

    def test_beam_is_always_given_its_runner_by_name(self) -> None:
        args = (
            load(None, {"beam.args": ["--direct_num_workers=2"]})
            .config.beam.jobs["Transform"]
            .pipeline_args
        )
        assert args[:2] == ["--runner=FnApiRunner", "--direct_num_workers=2"]


class TestFiles:
    @pytest.mark.parametrize(
        ("content", "message"),
        [
            (b"[train]\nepochs = \n", r"not TOML: .*at line 2, column 10"),
            (b"[train]\nepochs = 1\nepochs = 2\n", r"not TOML: .*at line 3"),
            (b"name = 'a'\nworkspace = '\xff'\n", r"not UTF-8: byte 0xff \(at line 2\)"),
            (b"x = " + b"[" * 5000, r"not TOML: nested too deeply"),
            (b"a." * 100_000 + b"a = 1", r"not TOML: nested too deeply"),
            (b"[" + b"a." * 100_000 + b"a]", r"not TOML: nested too deeply"),
            (b"x = {" + b" a ." * 100_000 + b"a = 1}", r"not TOML: nested too deeply"),
            (b"\"a\" . 'b-c' ." * 100_000 + b"a = 1", r"not TOML: nested too deeply"),
            (b"train.epochs = " + b"9" * 5000, r"not TOML: "),
        ],
        ids=["no value", "twice", "latin-1", "deep", "dots", "table", "inline", "quoted", "huge"],
    )
    def test_a_broken_file_is_named_with_the_place(
        self, tmp_path: Path, content: bytes, message: str
    ) -> None:
        file = tmp_path / "run.toml"
        file.write_bytes(content)
        with pytest.raises(ConfigError, match=f"run.toml: {message}") as caught:
            load(file)
        assert "\n" not in str(caught.value)

    def test_a_setting_of_too_many_parts_is_refused(self) -> None:
        with pytest.raises(ConfigError, match="nested too deeply") as caught:
            parse_set("a." * 100_000 + "a=1")
        assert len(str(caught.value)) < 200

    def test_a_long_value_is_read(self, tmp_path: Path) -> None:
        file = tmp_path / "run.toml"
        text = "a" * 1_000_000 + ". " * 1_000_000
        file.write_text(f'name = "{text}"')
        with pytest.raises(ConfigError, match="name"):  # not for its depth
            load(file)

    def test_a_file_from_a_windows_editor_is_read(self, tmp_path: Path) -> None:
        file = tmp_path / "run.toml"
        file.write_bytes(b"\xef\xbb\xbf[train]\r\nepochs = 3\r\n")
        assert load(file).config.train.epochs == 3

    def test_a_missing_file_is_refused(self, tmp_path: Path) -> None:
        with pytest.raises(ConfigError, match=r"none\.toml: no such configuration file$"):
            load(tmp_path / "none.toml")

    def test_a_folder_is_refused(self, tmp_path: Path) -> None:
        with pytest.raises(ConfigError, match=r"is a folder, not a configuration file$"):
            load(tmp_path)

    def test_a_file_without_read_permission_is_refused(self, tmp_path: Path) -> None:
        file = write(tmp_path / "run.toml", "")
        with unwritable(tmp_path), pytest.raises(ConfigError, match=r"cannot read .*Permission"):
            load(file)


class TestSet:
    @pytest.mark.parametrize(
        ("text", "expected"),
        [
            ("train.epochs=5", ("train.epochs", 5)),
            (" train.epochs = 5 ", ("train.epochs", 5)),
            ("a=1e-3", ("a", 0.001)),
            ("a=true", ("a", True)),
            ("a=True", ("a", "True")),
            ("a=[1, 2]", ("a", [1, 2])),
            ("a=[1, 2", ("a", "[1, 2")),
            ("a={b = 1}", ("a", {"b": 1})),
            ("a=vit", ("a", "vit")),
            ("a='vit'", ("a", "vit")),
            ("a=", ("a", "")),
            ("a=b=c", ("a", "b=c")),
            ("a=/data/my photos", ("a", "/data/my photos")),
            ("a=1\nb=2", ("a", "1\nb=2")),
            ("a=" + "[" * 5000, ("a", "[" * 5000)),
            ("a={" + "a." * 5000 + "a=1}", ("a", "{" + "a." * 5000 + "a=1}")),
        ],
    )
    def test_values_are_toml_or_else_strings(self, text: str, expected: tuple[str, Any]) -> None:
        assert parse_set(text) == expected

    @pytest.mark.parametrize("text", ["", "=", "=5", " =5", "train.epochs", "a=\udcff"])
    def test_what_is_no_key_and_value_is_refused(self, text: str) -> None:
        with pytest.raises(ConfigError, match=r"^--set "):
            parse_set(text)

    @given(st.text(st.characters(exclude_categories=["Cs"])))
    def test_any_value_is_kept_or_read_as_toml(self, value: str) -> None:
        key, parsed = parse_set(f"a.b={value}")
        assert key == "a.b"
        assert parsed == value.strip() or tomllib.loads(f"v = {value.strip()}") == {"v": parsed}

    @given(st.integers(), st.floats(allow_nan=False), st.booleans())
    def test_numbers_and_booleans_come_back(self, i: int, f: float, b: bool) -> None:
        assert parse_set(f"a={i}") == ("a", i)
        assert parse_set(f"a={f!r}") == ("a", f)
        assert parse_set(f"a={str(b).lower()}") == ("a", b)

    @given(st.sampled_from([*load().origins, "train", "train.epoch", ""]), st.text())
    def test_any_argument_is_either_taken_or_a_config_error_of_one_line(
        self, key: str, value: str
    ) -> None:
        message = "taken"
        try:
            load(None, dict([parse_set(f"{key}={value}")]))
        except ConfigError as error:
            message = str(error)
        assert len(message.splitlines()) == 1


names = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), min_size=1)
paths = names.map(lambda name: f"/x/{name}")
settings = st.fixed_dictionaries(
    {},
    optional={
        "name": st.from_regex(r"[a-z]([a-z0-9-]{0,61}[a-z0-9])?", fullmatch=True),
        "workspace": paths,
        "data.source": st.just("digits") | paths,
        "data.test": st.integers(0, 10_000),
        "data.schema_file": paths,
        "train.seed": st.integers(0, 2**32 - 1),
        "train.epochs": st.integers(1, 10**9),
        "train.deterministic": st.booleans(),
        "train.hyperparameters.learning_rate": st.floats(1e-300, 1e300),
        "train.hyperparameters.head_dims": st.lists(st.integers(1, 10**6), max_size=4),
        "evaluate.min_accuracy": st.floats(0, 1),
        "push.directory": paths,
        "beam.args": st.lists(names.map(lambda name: f"--o={name}"), max_size=3),
        "kubeflow.environment": st.sampled_from(ENVIRONMENTS),
        "kubeflow.pools.big.node_selector": st.dictionaries(names, names, max_size=2),
    },
)


def values(config: Config) -> Mapping[str, Any]:
    return config.model_dump()


class TestDump:
    @given(settings)
    def test_a_dumped_configuration_loads_to_the_same(
        self, tmp_path_factory: pytest.TempPathFactory, overrides: dict[str, Any]
    ) -> None:
        config, origins = load(None, overrides)
        file = tmp_path_factory.getbasetemp() / "dumped.toml"
        file.write_bytes(dump_toml(config, origins).encode())
        again, origins_again = load(file)
        assert values(again) == values(config)
        # What is not written has no value, or is a table whose entries have origins of their own.
        unset = {key for key, origin in origins_again.items() if origin == "default"}
        empty = {key for key, value in items(config, origins) if value is None or value == {}}
        assert unset <= {*empty, "kubeflow.pools"}

    @pytest.mark.parametrize("recipe", recipes.names())
    def test_so_does_every_recipes(self, tmp_path: Path, recipe: str) -> None:
        config, origins = load(None, {"train.recipe": recipe})
        file = write(tmp_path / "dumped.toml", dump_toml(config, origins))
        assert values(load(file).config) == values(config)

    def test_every_line_names_its_origin(self, tmp_path: Path) -> None:
        file = write(tmp_path / "two\nlines.toml", "train.batch_size = 7")
        text = dump_toml(*load(file, {"train.epochs": 3}))
        assert "epochs = 3  # command line\n" in text
        assert "batch_size = 7  # file:" in text
        assert "seed = 0  # default\n" in text
        assert all(" # " in line or line.startswith("[") or not line for line in text.splitlines())


class TestCheckPaths:
    def check(self, tmp_path: Path, **overrides: object) -> None:
        keys = {key.replace("__", "."): value for key, value in overrides.items()}
        workspace = {"workspace": str(tmp_path / "workspace")}
        check_paths(load(None, workspace | keys).config)

    @pytest.mark.parametrize("name", ["exp [1]", "what?", "a*"])
    def test_a_workspace_that_beam_would_take_for_a_pattern(
        self, tmp_path: Path, name: str
    ) -> None:
        with pytest.raises(ConfigError, match=r"workspace: .* takes for a pattern of names"):
            self.check(tmp_path, workspace=str(tmp_path / name))

    @pytest.mark.parametrize(
        ("recipe", "key", "source"),
        [
            ("mobilenet", "weights", "no.h5"),
            ("bit", "weights.source", "no.npz"),
            ("vit_finetune", "weights.source", "~/no.npz"),
        ],
    )
    def test_weights_that_are_not_there_are_named_before_anything_is_done(
        self, tmp_path: Path, recipe: str, key: str, source: str
    ) -> None:
        key = f"train.hyperparameters.{key}"
        digest = {} if recipe == "mobilenet" else {f"{key[:-6]}sha256": "0" * 64}
        with pytest.raises(ConfigError, match=rf"{key}: .*no\.\w+' cannot be read: No such file"):
            self.check(tmp_path, **{"train.recipe": recipe, key: source, **digest})
        self.check(tmp_path, **{"train.recipe": recipe, key: f"https://host/{source}", **digest})

    def test_a_folder_and_the_built_in_data_set_are_accepted_and_nothing_is_made(
        self, tmp_path: Path
    ) -> None:
        photos = tmp_path / "photos"
        photos.mkdir()
        self.check(tmp_path)
        self.check(tmp_path, data__source=str(photos), push__directory=str(tmp_path / "a" / "b"))
        assert list(tmp_path.iterdir()) == [photos]

    def test_a_missing_folder_is_bad_data(self, tmp_path: Path) -> None:
        with pytest.raises(DataError, match=r"^data\.source = '.*photos': there is no such file"):
            self.check(tmp_path, data__source=str(tmp_path / "photos"))

    @pytest.mark.parametrize(
        ("name", "what"), [("1.jpg", "a file; give"), ("photos.zip", "an archive; unpack it and")]
    )
    def test_a_file_instead_of_a_folder_is_bad_data(
        self, tmp_path: Path, name: str, what: str
    ) -> None:
        file = write(tmp_path / name, "")
        with pytest.raises(DataError, match=f"is {what}.* a folder of class folders"):
            self.check(tmp_path, data__source=str(file))

    @pytest.mark.parametrize(
        "name", ["list.csv", "list.jsonl", "pets-train.tfrecord-00000-of-00001"]
    )
    def test_a_manifest_and_records_are_files(self, tmp_path: Path, name: str) -> None:
        self.check(tmp_path, data__source=str(write(tmp_path / name, "")))

    def test_a_file_of_any_name_where_its_kind_is_said(self, tmp_path: Path) -> None:
        file = write(tmp_path / "list.txt", "")
        self.check(tmp_path, data__source=f"manifest:{file}")

    def test_the_folder_of_spans_must_be_there(self, tmp_path: Path) -> None:
        self.check(tmp_path, data__source=f"{tmp_path}/{{YYYY}}-{{MM}}-{{DD}}", workspace="/tmp/x")
        with pytest.raises(DataError, match="there is no such file or folder"):
            self.check(tmp_path, data__source=f"{tmp_path}/photos/{{SPAN}}")

    def test_an_unreadable_folder_is_bad_data(self, tmp_path: Path) -> None:
        photos = tmp_path / "photos"
        photos.mkdir()
        with unwritable(photos), pytest.raises(DataError, match="cannot be read: Permission"):
            self.check(tmp_path, data__source=str(photos))

    @pytest.mark.parametrize("key", ["workspace", "push__directory"])
    @pytest.mark.parametrize("place", [".", "workspace"])
    def test_output_among_the_images_is_refused(self, tmp_path: Path, key: str, place: str) -> None:
        photos = tmp_path / "photos"
        photos.mkdir()
        with pytest.raises(ConfigError, match=r"is in data\.source"):
            self.check(tmp_path, data__source=str(photos), **{key: str(photos / place)})

    def test_output_among_the_images_is_noticed_through_a_link(self, tmp_path: Path) -> None:
        (tmp_path / "photos").mkdir()
        (tmp_path / "link").symlink_to("photos")
        with pytest.raises(ConfigError, match=r"is in data\.source"):
            self.check(
                tmp_path,
                data__source=str(tmp_path / "link"),
                workspace=str(tmp_path / "photos" / "workspace"),
            )

    def test_a_schema_file_that_cannot_be_read_is_refused(self, tmp_path: Path) -> None:
        for path in (tmp_path / "none.pbtxt", tmp_path):
            with pytest.raises(ConfigError, match=r"^data\.schema_file: '.*' cannot be read: "):
                self.check(tmp_path, data__schema_file=str(path))

    def test_a_push_directory_below_a_file_is_refused(self, tmp_path: Path) -> None:
        file = write(tmp_path / "models", "")
        with pytest.raises(ConfigError, match=r"^push\.directory: '.*models' is not a folder$"):
            self.check(tmp_path, push__directory=str(file / "digits"))

    def test_a_push_directory_without_write_permission_is_refused(self, tmp_path: Path) -> None:
        models = tmp_path / "models"
        models.mkdir()
        with unwritable(models), pytest.raises(ConfigError, match="no permission to write"):
            self.check(tmp_path, push__directory=str(models))
