"""Keys and values of settings: unknown keys, values out of range, and --set."""

import tomllib
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.config import (
    load,
    parse_set,
)
from pipeline.errors import ConfigError
from tests.kit.cli import UNGATED
from tests.kit.settings_files import write


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
        with pytest.raises(ConfigError, match=r"^command line: train\.recipe = "):
            load(None, {"train.recipe": value})

    def test_the_nearest_recipe_is_suggested(self) -> None:
        with pytest.raises(ConfigError, match=r"'vti': .* 'vit'\?$"):
            load(None, {"train.recipe": "vti"})


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
            (
                {"evaluate.max_drop": {"colour": 0.1}},
                "'colour' does not name a slice: give class, size",
            ),
            ({"evaluate.max_drop": {"class=cat": 2}}, "evaluate.max_drop.class=cat = 2: must be"),
            ({"beam.args": "--x"}, "beam.args = '--x': must be a list, in square brackets"),
            ({"beam.args": ["x=1"]}, "beam.args.0 = 'x=1': must start with --"),
            ({"beam.args": ["--a", "--runner=B"]}, "beam.args.1 = '--runner=B': must not name the"),
            (
                {"beam.runner": ""},
                "beam.runner = '': is not a runner of Beam; there are FnApiRunner",
            ),
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
        with pytest.raises(ConfigError, match=r"^command line: evaluate"):
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
