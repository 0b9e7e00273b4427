"""What cannot end well is refused before the first node, with the name of the setting."""

from __future__ import annotations

import json
import logging
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import keras
import pytest

from components.model_registry.signing import Keys
from components.model_server import launch
from pipeline import config, doctor, model_checks, preflight
from pipeline.errors import ConfigError
from pipeline.preflight import PreflightContext
from tests.kit.weights import bit_arrays, save_arrays, saved_model
from trainer_module import footprint, recipes, warm_start

HYPER = "train.hyperparameters."
PARTS = "train.gradient_accumulation"
TINY_BIT = {
    "train.recipe": "bit",
    f"{HYPER}variant": "tiny",
    "transform.image_size": 32,
    "transform.train_size": 40,
    "train.batch_size": 8,
}


@pytest.fixture
def place(two_classes: Path, tmp_path: Path) -> Callable[..., PreflightContext]:
    """Return a function that makes a preflight context with given settings."""

    def make(
        settings: dict[str, object], *, pod: bool = False, scheduled: bool = False
    ) -> PreflightContext:
        given = {"data.source": str(two_classes), "workspace": str(tmp_path / "w"), **settings}
        return PreflightContext(*config.load(None, given), pod=pod, scheduled=scheduled)

    return make


def memory_of(place: PreflightContext) -> str:
    """Check the memory with the model of the context."""
    return model_checks.memory(place, model_checks.build(place))


class Case(NamedTuple):
    settings: dict[str, object]
    named: str  # in the message


CASES = {
    "weights that are missing": Case(
        {"train.recipe": "mobilenet", f"{HYPER}weights": "gone.h5"},
        "train.hyperparameters.weights: ",
    ),
    "weights of another variant": Case(
        {**TINY_BIT, f"{HYPER}weights.source": "other.npz"},
        "train.hyperparameters.weights.source: ",
    ),
    "weights that are not confirmed": Case(
        {**TINY_BIT, f"{HYPER}weights.source": "bit.npz"},
        "train.hyperparameters.weights.sha256",
    ),
    "a base that is of one size": Case(
        {
            "train.recipe": "fixres",
            f"{HYPER}base": "vit",
            f"{HYPER}low": 36,
            f"{HYPER}high": 72,
            "transform.image_size": 72,
        },
        "train.recipe = 'fixres' with transform.image_size = 72: base vit ",
    ),
    "too few epochs for two stages": Case(
        {"train.recipe": "fixres", "train.epochs": 1}, "train.epochs 1"
    ),
    "a batch that does not fit": Case(
        {
            "train.recipe": "bit",
            "transform.image_size": 1500,
            "transform.train_size": 1600,
            PARTS: 1,
        },
        "train.batch_size = 64",
    ),
    "a batch that fits by no means": Case(
        {"transform.image_size": 1920, f"{HYPER}patch_size": 4}, "1 image of 1920 px"
    ),
    "a push directory with other things": Case({"push.directory": "mixed"}, "push.directory"),
}


@pytest.mark.parametrize("name", CASES)
def test_it_is_refused_with_the_name_of_the_setting(
    name: str,
    place: Callable[..., PreflightContext],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mixed").mkdir()
    (tmp_path / "mixed" / "holiday.jpg").touch()
    arrays = bit_arrays()
    save_arrays(tmp_path / "bit.npz", arrays)
    other = save_arrays(tmp_path / "other.npz", dict(list(arrays.items())[:5]))
    settings, named = CASES[name]
    if settings.get(f"{HYPER}weights.source") == "other.npz":
        settings = {**settings, f"{HYPER}weights.sha256": other.sha256}
    with pytest.raises(ConfigError) as refused:
        preflight.check(place(settings), [])
    assert named in str(refused.value)
    assert refused.value.exit_code == 2


def test_resnet_takes_no_smaller_images(place: Callable[..., PreflightContext]) -> None:
    with pytest.raises(ConfigError, match=r"low 16 .*\b32\b"):
        place({"train.recipe": "fixres", f"{HYPER}low": 16, f"{HYPER}high": 24})


def test_what_can_end_well_is_checked_and_recorded(
    place: Callable[..., PreflightContext], tmp_path: Path
) -> None:
    spec = save_arrays(tmp_path / "bit.npz", bit_arrays())
    settings = {**TINY_BIT, f"{HYPER}weights.source": spec.source}
    settings[f"{HYPER}weights.sha256"] = spec.sha256
    checked: list[dict[str, str]] = []
    preflight.check(place(settings), checked)
    assert all(set(each) == {"check", "found"} and each["found"] for each in checked)
    names = {each["check"] for each in checked}
    assert names - {"Keras"} == {
        *("paths", "infra_validation", "disk", "push.directory", "train.recipe", "memory")
    }


def test_a_recipe_that_was_chosen_says_what_else_there_is(
    place: Callable[..., PreflightContext], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise OSError("Network is unreachable")

    monkeypatch.setattr("keras.src.applications.mobilenet_v2.file_utils.get_file", fail)
    there = place({"train.recipe": "mobilenet"})
    there.origins = {"train.recipe": "auto: 80 images are too few"}
    with pytest.raises(ConfigError, match=r"weights.*Network is unreachable.*--recipe vit"):
        model_checks.build(there)


@pytest.mark.parametrize("suffix", [".weights.h5", ".keras"])
def test_weights_in_files_of_keras_are_read(
    place: Callable[..., PreflightContext], tmp_path: Path, suffix: str
) -> None:
    file = tmp_path / f"own{suffix}"
    network = keras.applications.MobileNetV2((32, 32, 3), 0.35, include_top=False, weights=None)
    (network.save if suffix == ".keras" else network.save_weights)(file)
    settings: dict[str, object] = {
        "train.recipe": "mobilenet",
        "transform.image_size": 64,
        f"{HYPER}weights": str(file),
    }
    with pytest.raises(ConfigError, match=r"^train\.hyperparameters\.weights: .*alpha"):
        model_checks.build(place({**settings, f"{HYPER}alpha": 0.5}))
    assert model_checks.build(place({**settings, f"{HYPER}alpha": 0.35})) is not None


def test_a_saved_model_brings_its_values(
    place: Callable[..., PreflightContext], tmp_path: Path
) -> None:
    spec = saved_model(tmp_path / "module")
    settings = {**TINY_BIT, f"{HYPER}weights.source": spec.source}
    settings[f"{HYPER}weights.sha256"] = spec.sha256
    assert model_checks.build(place(settings)) is not None


class TestKeys:
    def settings(self, private: Path, public: Path) -> dict[str, object]:
        return {"push.signing.private_key": str(private), "push.signing.public_key": str(public)}

    def test_a_pair_is_one(
        self,
        place: Callable[..., PreflightContext],
        make_keys: Callable[[str], Keys],
    ) -> None:
        one, other = make_keys("one"), make_keys("other")
        assert preflight._keys(place(self.settings(one.private, one.public)))
        with pytest.raises(ConfigError, match=r"push\.signing\.public_key"):
            preflight._keys(place(self.settings(one.private, other.public)))
        with pytest.raises(ConfigError, match=r"push\.signing\.private_key"):
            preflight._keys(place(self.settings(one.public, one.public)))

    def test_only_the_pod_that_pushes_has_them(
        self, place: Callable[..., PreflightContext]
    ) -> None:
        nowhere = self.settings(Path("/not/here/a"), Path("/not/here/b"))
        assert preflight._keys(place(nowhere, pod=True)) == preflight.NOT_HERE


class TestMemory:
    @pytest.mark.parametrize("room", [2e9, 4e9])
    def test_what_is_advised_fits(
        self, place: Callable[..., PreflightContext], monkeypatch: pytest.MonkeyPatch, room: float
    ) -> None:
        sizes = {"transform.image_size": 480, "transform.train_size": 512}
        settings = {**TINY_BIT, **sizes, "train.batch_size": 80, PARTS: 1}
        monkeypatch.setattr(doctor, "memory_bytes", lambda: room)
        with pytest.raises(ConfigError, match=r"gradient_accumulation to (\d+)") as refused:
            memory_of(place(settings))
        number = int(str(refused.value).partition("gradient_accumulation to ")[2].split()[0])
        assert memory_of(place({**settings, PARTS: number}))
        settings.pop(PARTS)
        assert f" {number} parts" in memory_of(place(settings))
        monkeypatch.setattr(doctor, "memory_bytes", lambda: 3e7)
        with pytest.raises(ConfigError, match=r"1 image .*480 px"):
            memory_of(place(settings))

    def test_a_step_that_may_not_fit_is_told(
        self,
        place: Callable[..., PreflightContext],
        monkeypatch: pytest.MonkeyPatch,
        caplog: pytest.LogCaptureFixture,
    ) -> None:
        settings = {**TINY_BIT, "train.batch_size": 80, PARTS: 1}
        model = model_checks.build(place(settings))
        assert model
        least = footprint.measure(model).of(80)
        for room, told in ((3 * least, 0), (1.5 * least, 1)):
            monkeypatch.setattr(doctor, "memory_bytes", lambda room=room: room)
            caplog.clear()
            with caplog.at_level(logging.INFO, "perennial.progress"):
                assert memory_of(place(settings))
            assert len([each for each in caplog.records if each.msg == "note"]) == told

    def test_batch_normalization_in_parts_of_one_image_is_refused(
        self, place: Callable[..., PreflightContext]
    ) -> None:
        settings = {
            "train.recipe": "fixres",
            f"{HYPER}low": 32,
            f"{HYPER}high": 40,
            "transform.image_size": 50,
            "train.batch_size": 8,
        }
        with pytest.raises(ConfigError, match=r"^train\.gradient_accumulation: .*now 8"):
            memory_of(place({**settings, PARTS: 8}))
        assert memory_of(place({**settings, PARTS: 4}))
        # Parts are another training, so that they are not chosen.
        model = model_checks.build(place(settings))
        assert model
        assert footprint.parts(model, 8, 1e6) == 1

    def test_parts_are_as_few_as_fit(self) -> None:
        settings = recipes.get("mobilenet").Config(weights="none")
        with keras.StatelessScope(initialize_variables=False):
            model = recipes.get("mobilenet").build_model(settings, 96, 2)
        needs = footprint.measure(model)
        for fitting, parts in ((64, 1), (32, 2), (31, 3), (1, 64), (0, 64)):
            room = (needs.of(fitting) + 1) / footprint.COMFORTABLE
            assert footprint.parts(model, 64, room) == parts
        assert footprint.parts(model, 64, float("inf")) == 1

    def test_no_more_images_count_than_there_are(
        self, place: Callable[..., PreflightContext]
    ) -> None:
        assert model_checks._step_images(place({"train.batch_size": 100_000})) == 80

    def test_it_grows_with_the_size_of_images_and_shrinks_with_what_is_frozen(self) -> None:
        recipe = recipes.get("mobilenet")
        settings = recipe.Config(weights="none")
        with keras.StatelessScope(initialize_variables=False):
            small, large = (recipe.build_model(settings, size, 2) for size in (96, 192))
        whole = footprint.measure(large)
        assert footprint.measure(small).fixed == whole.fixed
        assert 3.5 < whole.image / footprint.measure(small).image < 4.5
        images = [whole.image]
        for head_epochs in (10, 25):
            changed = recipe.Config(weights="none", head_epochs=head_epochs)
            recipe.most_trained(changed, large, None)
            images.append(footprint.measure(large).image)
            assert abs(footprint.measure(large, 2).image * 2 - images[-1]) <= 1
        assert images[0] / 2 > images[1] >= images[2]
        # What the first block has to hold: 96 channels at half the size.
        assert images[2] == 3 * 4 * 97 * 97 * 96
        assert whole.images(whole.of(7)) == 7

    @pytest.mark.parametrize(
        ("name", "settings"),
        [
            ("bit", {"variant": "tiny", "crop_size": 96}),
            ("vit", {"resize": 72}),
            (
                "fixres",
                {
                    "base": "bit",
                    "low": 96,
                    "high": 192,
                    "settings": {"variant": "tiny", "crop": False},
                },
            ),
        ],
    )
    def test_a_model_of_any_size_takes_what_one_of_the_crops_size_does(
        self, name: str, settings: dict[str, Any]
    ) -> None:
        recipe = recipes.get(name)
        config = recipe.Config(**settings)
        with keras.StatelessScope(initialize_variables=False):
            model = recipe.build_model(config, 192, 2)
        assert model.input_shape[1] is None
        size = recipe.training_size(config, 192)
        assert size == {"bit": 96}.get(name, 192)
        found = footprint.measure(model, 4, size)
        closed = {"bit": 96, "vit": 72, "fixres": 96}[name]
        fixed = {"vit": {"resize": None}, "bit": {"crop_size": None}}.get(name)
        base, own = (name, settings | fixed) if fixed else ("bit", settings["settings"])
        same = recipes.get(base)
        with keras.StatelessScope(initialize_variables=False):
            alike = footprint.measure(same.build_model(same.Config(**own), closed, 2))
        assert found.fixed == alike.fixed
        # More by the images before they are resized, which are floats where they are normalized.
        more = {"bit": 0, "vit": 4 * 3 * 192**2, "fixres": 0}[name]
        assert alike.image <= found.image <= alike.image + more
        twice = footprint.measure(model, 4, 2 * size).image / found.image
        assert {"bit": 3.5, "vit": 1, "fixres": 1}[name] <= twice < 4.5


class TestMachine:
    def test_a_disk_that_is_too_small(
        self, place: Callable[..., PreflightContext], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        usage = shutil.disk_usage("/")
        monkeypatch.setattr(shutil, "disk_usage", lambda _: usage._replace(free=10**6))
        with pytest.raises(ConfigError, match=r"^workspace: 1 MB "):
            preflight._disk(place({}))

    def test_an_image_of_a_server_without_docker(
        self, place: Callable[..., PreflightContext], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(launch, "find_backend", launch.own_backend)
        monkeypatch.delenv(launch.IMAGE_VARIABLE, raising=False)
        assert preflight._server(place({}))
        monkeypatch.setenv(launch.IMAGE_VARIABLE, "tensorflow/serving:1")
        with pytest.raises(ConfigError, match=f"^{launch.IMAGE_VARIABLE}="):
            preflight._server(place({}))
        assert not preflight._server(place({"infra_validation.enabled": False}))

    @pytest.mark.parametrize(
        ("value", "named"),
        [
            ("{nonsense", "TF_CONFIG .*line 1 column 2"),
            (
                {"cluster": {"worker": ["a:1", "b:1"]}, "task": {"type": "worker", "index": 1}},
                "^TF_CONFIG .* 2 of 2, ",
            ),
        ],
    )
    def test_a_cluster_that_this_is_not_the_first_of(
        self,
        place: Callable[..., PreflightContext],
        monkeypatch: pytest.MonkeyPatch,
        value: Any,
        named: str,
    ) -> None:
        monkeypatch.setenv("TF_CONFIG", value if isinstance(value, str) else json.dumps(value))
        with pytest.raises(ConfigError, match=named):
            model_checks._workers(place({}))

    def test_a_cluster_is_told(
        self, place: Callable[..., PreflightContext], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        cluster = {"cluster": {"worker": ["a:1", "b:2"]}, "task": {"type": "worker", "index": 0}}
        monkeypatch.setenv("TF_CONFIG", json.dumps(cluster))
        assert "a:1, b:2" in model_checks._workers(place({}))

    def test_gpus_that_are_not_used_are_told(
        self, place: Callable[..., PreflightContext], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        assert not model_checks._gpus(place({}))
        monkeypatch.setattr(model_checks, "count_gpus", lambda: 2)
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "GPU-gone")
        assert "0 of 2 GPUs" in model_checks._gpus(place({}))
        assert "GPU-gone" in model_checks._gpus(place({}))

    def test_flags_that_tensorflow_does_not_know(
        self, place: Callable[..., PreflightContext], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("XLA_FLAGS", "--xla_no_such_flag=1")
        with pytest.raises(ConfigError, match=r"^XLA_FLAGS=--xla_no_such_flag=1: .*xla_no_such"):
            preflight._xla(place({}))


class TestScheduled:
    @pytest.mark.parametrize("url", ["hooks.example.org/x", "https://", "ftp://example.org"])
    def test_a_webhook_that_is_none_is_refused_and_not_told(
        self, place: Callable[..., PreflightContext], monkeypatch: pytest.MonkeyPatch, url: str
    ) -> None:
        monkeypatch.setenv("PERENNIAL_WEBHOOK", url)
        with pytest.raises(ConfigError, match=r"^notify\.webhook_env") as refused:
            preflight._people(place({}, scheduled=True))
        assert "example.org" not in str(refused.value)
        assert not preflight._people(place({}))

    def test_a_server_without_a_port(self, place: Callable[..., PreflightContext]) -> None:
        with pytest.raises(ConfigError, match=r"^retrain\.servers: somewhere: .*HOST:PORT"):
            preflight._people(place({"retrain.servers": ["somewhere"]}, scheduled=True))


def test_a_warm_start_from_another_network(tmp_path: Path) -> None:
    recipe, folder = recipes.get("bit"), str(tmp_path / "Format-Serving")
    settings = recipe.Config(variant="tiny")
    warm_start.save(recipe.build_model(settings, 32, 3), ["a", "b", "c"], folder)
    with keras.StatelessScope(initialize_variables=False):
        same = recipe.build_model(settings, 48, 2)
        other = recipes.get("vit").build_model(recipes.get("vit").Config(), 72, 2)
    warm_start.check(same, folder)
    with pytest.raises(
        warm_start.WarmStartError,
        match=rf"{tmp_path}/\S+ .*\b{len(same.weights)} .*\b{len(other.weights)}\b",
    ):
        warm_start.check(other, folder)
    with pytest.raises(warm_start.WarmStartError, match=r"/nowhere/\S+ .*No such file"):
        warm_start.check(same, str(tmp_path / "nowhere" / "Format-Serving"))


def test_pods_leave_what_is_not_mounted_to_others(place: Callable[..., PreflightContext]) -> None:
    settings: dict[str, object] = {
        **TINY_BIT,
        f"{HYPER}weights.source": "/not/here/bit.npz",
        f"{HYPER}weights.sha256": "0" * 64,
        "push.directory": "/not/here/models",
        "data.source": "/not/here/images",
    }
    checked: list[dict[str, str]] = []
    preflight.check(place(settings, pod=True), checked)
    found = {each["check"]: each["found"] for each in checked}
    assert found["train.recipe"] == found["push.directory"] == preflight.NOT_HERE
    assert found["paths"] == preflight.NOT_HERE
    assert "memory" not in found
