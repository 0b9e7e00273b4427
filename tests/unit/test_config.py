"""None"""

import re
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
from pipeline import config as config_module
from pipeline.config import (
    PRESETS,
    config_class,
    dump_toml,
    items,
    load,
    load_given,
    renamed,
)
from pipeline.errors import ConfigError
from pipeline.report import facts
from pipeline.settings import Config
from pipeline.settings.cluster import ENVIRONMENTS
from pipeline.settings.paths import BUILT_IN_SOURCES
from tests.kit.settings_files import write
from trainer_module import recipes


def history_run(**fields: Any) -> facts.Run:
    """Make the record of a run."""
    known = {"run_id": "1", "started": "2026-01-01T00:00:00+00:00", "state": "pushed"}
    known |= {"name": "perennial", "recipe": "vit"}
    more = {"data": {"source": "digits"}, "code": {"versions": {}}}
    return facts.Run.model_validate({**known, **more, **fields})


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
        with pytest.raises(ConfigError, match=r"^preset:data-digits: train\.epochs = 0: "):
            load()

    def test_a_recipe_without_a_preset_says_what_is_missing_and_where_it_goes(
        self, presets: Path
    ) -> None:
        preset = presets / "recipe-vit.toml"
        preset.unlink()
        with pytest.raises(ConfigError) as caught:
            load(None, {"data.source": "photos", "transform.interpolation": "area"})
        message = str(caught.value)
        named = r"train\.recipe = 'vit': transform\.image_size, train\.batch_size "
        assert re.match(named, message)
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
            ({"kubeflow.nodes.Trainer": "gpu"}, ("nodes.Trainer = 'gpu'", "cpu")),
            (
                {"kubeflow.pools.g.accelerator": "nvidia.com/gpu"},
                ("pools.g: accelerator ", "accelerator_limit"),
            ),
            (
                {"kubeflow.pools.g.accelerator_limit": 1},
                ("pools.g: accelerator_limit ", "nvidia.com/gpu"),
            ),
            ({"kubeflow.pools.g.accelerator": "NVIDIA_TESLA_T4"}, ("Vertex", "nvidia.com/gpu")),
            ({"kubeflow.pools.g.accelerator": "gpu"}, ("accelerator = 'gpu'", "nvidia.com/gpu")),
            ({"kubeflow.pools.g.spot": True}, ("pools.g.spot ", "kubeflow.spot")),
            ({"kubeflow.pools.g.memory": "8 GB"}, ("kubeflow.pools.g.memory = '8 GB'",)),
            (
                {"kubeflow.pools.g.memry": "8Gi"},
                ("'kubeflow.pools.g.memry'", "'kubeflow.pools.g.memory'"),
            ),
            ({"kubeflow.pools.g": 3}, ("kubeflow.pools.g = 3: ", "accelerator_limit")),
            ({"kubeflow.pools": 3}, ("kubeflow.pools = 3",)),
            (
                {"kubeflow.pools.g.secrets": [{"name": "s"}]},
                ("kubeflow.pools.g.secrets.0", "key", "env", "path"),
            ),
            ({"kubeflow.image": "perennial"}, ("kubeflow.image = 'perennial'", "tag", "digest")),
            ({"kubeflow.image": "registry:5000/perennial"}, ("kubeflow.image = ", "tag", "digest")),
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
        (note,) = noted
        assert re.match(f"command line: {old} .*{new} ", note)

    def test_in_a_file_with_its_table(self, tmp_path: Path, noted: list[str]) -> None:
        text = "[transform]\naspect = 'squeeze'\nantialias = false\n"
        file = write(tmp_path / "run.toml", text)
        config, origins = load(file)
        assert (config.transform.resize_mode, config.transform.antialias) == ("stretch", False)
        assert origins["transform.resize_mode"] == f"file:{file}"
        name, value = noted
        assert re.match(rf"{file}: transform\.aspect .*transform\.resize_mode ", name)
        assert re.match(rf"{file}: transform\.resize_mode = 'squeeze' .*'stretch'", value)

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
        with pytest.raises(ConfigError, match=r"transform\.resize_mode = 'squash': .*'stretch'"):
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


names = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), min_size=1)


# With ://, a path is a location in an object store.
paths = names.filter(lambda name: "://" not in name).map(lambda name: f"/x/{name}")


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
