"""The presets of published documents: what reaches optimizer, schedule, transforms, variables."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from unittest import mock

import keras
import numpy as np
import pytest
import tensorflow as tf

from pipeline import config as config_module
from pipeline.config import load, published
from pipeline.errors import ConfigError
from pipeline.settings import Config
from tests.benchmarks.sources import SOURCES
from trainer_module import augmentation, recipes
from trainer_module.input_pipeline import Framed
from trainer_module.recipes.base import Phase, TrainingData

HYPER = "train.hyperparameters."
ROW = {"val_accuracy": 0.5, "val_loss": 1.0}
SEED = tf.constant([1, 2], tf.int64)
RESNET50V2 = 172  # variables that it trains without its head
# No weights are at hand, and the network's size is no part of what is tested.
WITHOUT_WEIGHTS = {
    "keras-bit": {f"{HYPER}variant": "tiny", f"{HYPER}weights.source": ""},
    "tensorflow-bit": {f"{HYPER}variant": "tiny", f"{HYPER}weights.source": ""},
    "tensorflow-transfer": {f"{HYPER}weights": "none"},
}
# Functions of `augmentation`, and what they are called with; other arguments are by position.
Changes = list[tuple[str, dict[str, Any]]]
FLIP: Changes = [("random_flip", {})]
CROP: Changes = [("random_resized_crop", {"min_area": 0.05, "antialias": False})]


@contextlib.contextmanager
def recorded(changes: Changes) -> Iterator[None]:
    def called(name: str, real: Callable[..., Any], *args: Any, **options: Any) -> Any:
        changes.append((name, options))
        return real(*args, **options)

    with contextlib.ExitStack() as stack:
        for name in ("random_flip", "random_move", "random_crop", "random_resized_crop"):
            change = functools.partial(called, name, getattr(augmentation, name))
            stack.enter_context(mock.patch.object(augmentation, name, change))
        yield


def loaded(preset: str, **changes: Any) -> Config:
    return load(overrides={"data.source": "/photos", "train.preset": preset, **changes}).config


class Made:
    """A preset's phases, up to each of which its model was brought."""

    def __init__(self, preset: str, images: int) -> None:
        self.config = loaded(preset, **WITHOUT_WEIGHTS.get(preset, {}))
        train, transform = self.config.train, self.config.transform
        recipe = recipes.get(train.recipe)
        size = transform.train_size or transform.image_size
        self.model = recipe.build_model(train.hyperparameters, transform.image_size, 5)
        pixels = np.random.default_rng(0).integers(0, 256, (2, size, size, 3), np.uint8)
        data = TrainingData(
            tf.data.Dataset.from_tensor_slices(pixels),
            images,
            train.batch_size,
            train.epochs,
            train.keep,
            transform.image_size,
        )
        phases = recipe.phases(train.hyperparameters, self.model, data)
        self.phases: list[Phase] = []
        self.trained: list[set[str]] = []
        self.changes: Changes = []
        with recorded(self.changes), contextlib.suppress(StopIteration):
            phase = next(phases)
            while True:
                self.phases.append(phase)
                model = phase.model or self.model
                self.trained.append({variable.path for variable in model.trainable_variables})
                phase = phases.send(ROW)

    def augmented(self, number: int, *, framed: bool = False) -> tuple[tf.Tensor, Changes]:
        transform, augment = self.config.transform, self.phases[number].augment
        assert augment
        size = transform.train_size or transform.image_size
        pixels = np.random.default_rng(1).integers(0, 256, (4, size, size, 3), np.uint8)
        images: Any = tf.constant(pixels)
        if framed:
            images = Framed(images, tf.constant([[240, 320]] * 4, tf.int64))
        self.changes.clear()
        with recorded(self.changes):
            changed, labels = augment(images, tf.range(4, dtype=tf.int64), SEED)
        np.testing.assert_array_equal(labels, [0, 1, 2, 3])  # no MixUp
        assert changed.dtype == tf.uint8
        return changed, list(self.changes)

    def resize(self) -> tuple[Any, ...]:
        transform = self.config.transform
        return (
            transform.image_size,
            transform.train_size,
            transform.interpolation,
            transform.antialias,
            transform.resize_mode,
        )


def rates(optimizer: keras.optimizers.Optimizer, *steps: int) -> list[float]:
    return [float(optimizer._learning_rate(step)) for step in steps]


def check_sgd(phase: Phase) -> None:
    optimizer = phase.optimizer
    assert isinstance(optimizer, keras.optimizers.SGD)
    assert (optimizer.momentum, optimizer.nesterov, optimizer.weight_decay) == (0.9, False, None)
    assert phase.clip is None


class TestKerasBit:
    made = pytest.fixture(scope="class")(lambda self: Made("keras-bit", 3_120))  # 85 % of 3,670

    def test_data_and_transforms(self, made: Made) -> None:
        assert made.config.data.splits == {"train": 85, "eval": 15}
        assert made.resize() == (384, None, "bilinear", False, "stretch")
        assert made.config.train.batch_size == 64
        changed, changes = made.augmented(0)
        assert changed.shape == (4, 224, 224, 3)
        assert changes == [("random_crop", {}), *FLIP]

    def test_optimizer_and_schedule(self, made: Made) -> None:
        (phase,) = made.phases
        check_sgd(phase)
        top = 0.003 * 64 / 512
        found = rates(phase.optimizer, 0, 1600, 1601, 2401, 3201, 4000)
        assert found == pytest.approx([top, top, top / 10, top / 100, top / 1000, top / 1000])
        assert phase.epochs * 49 >= 4000 > (phase.epochs - 1) * 49
        assert (phase.warmup, phase.patience) == (0, 24)
        assert made.config.train.keep == "best"

    def test_all_is_trained_and_evaluation_sees_the_larger_size(self, made: Made) -> None:
        assert made.trained[0] == {variable.path for variable in made.model.variables}
        for size in (224, 384):
            assert made.model(np.zeros((1, size, size, 3), np.uint8)).shape == (1, 5)

    def test_weights_are_the_source_s(self) -> None:
        hyperparameters: Any = loaded("keras-bit").train.hyperparameters
        weights = hyperparameters.weights
        assert weights.source == "https://tfhub.dev/google/bit/m-r50x1/1"
        assert weights.range == (0.0, 1.0)


class TestTensorflowBit:
    made = pytest.fixture(scope="class")(lambda self: Made("tensorflow-bit", 2_936))

    def test_transforms(self, made: Made) -> None:
        assert made.resize() == (384, 448, "bilinear", False, "stretch")
        assert made.config.train.batch_size == 512
        changed, changes = made.augmented(0)
        assert changed.shape == (4, 384, 384, 3)
        assert changes == [("random_crop", {}), *FLIP]

    def test_optimizer_and_schedule(self, made: Made) -> None:
        (phase,) = made.phases
        check_sgd(phase)
        assert rates(phase.optimizer, 0, 200, 201, 301, 401, 500) == pytest.approx(
            [3e-3, 3e-3, 3e-4, 3e-5, 3e-6, 3e-6]
        )
        assert (phase.warmup, phase.patience, made.config.train.keep) == (0, 0, "last")
        assert made.trained[0] == {variable.path for variable in made.model.variables}


class TestKerasFixres:
    made = pytest.fixture(scope="class")(lambda self: Made("keras-fixres", 3_303))
    control = pytest.fixture(scope="class")(lambda self: Made("keras-fixres-control", 3_303))

    def test_data_and_transforms(self, made: Made) -> None:
        assert made.config.data.splits == {"train": 90, "eval": 10}
        assert made.resize() == (int(224 / 128 * 224), 500, "bilinear", False, "stretch")
        assert made.config.train.batch_size == 32
        for number, size, expected in ((0, 128, CROP + FLIP), (1, 392, FLIP)):
            changed, changes = made.augmented(number, framed=True)
            assert (changed.shape, changes) == ((4, size, size, 3), expected)
        view = made.phases[1].model.get_layer("view")  # type: ignore[union-attr]
        assert (view.size, view.crop) == (224, True)

    def test_optimizers(self, made: Made) -> None:
        assert [phase.epochs for phase in made.phases] == [30, 10]
        for phase, rate in zip(made.phases, (1e-3, 1e-4), strict=True):
            assert isinstance(phase.optimizer, keras.optimizers.Adam)
            assert float(phase.optimizer.learning_rate) == pytest.approx(rate)
            assert (phase.patience, phase.clip) == (0, None)
        assert made.config.train.keep == "last"

    def test_the_second_stage_trains_post_bn_and_the_head(self, made: Made) -> None:
        first, second = ({"/".join(path.split("/")[-2:]) for path in each} for each in made.trained)
        assert len(first) == RESNET50V2 + 2
        assert second == {"post_bn/gamma", "post_bn/beta", "head/kernel", "head/bias"}

    def test_the_control_is_one_stage_at_the_higher_size(self, control: Made) -> None:
        (phase,) = control.phases
        assert phase.epochs == 30
        assert float(phase.optimizer.learning_rate) == pytest.approx(1e-3)
        changed, changes = control.augmented(0, framed=True)
        assert (changed.shape, changes) == ((4, 224, 224, 3), CROP + FLIP)
        view = control.model.get_layer("view")
        assert (view.size, view.crop, view.antialias) == (224, False, False)
        assert len(control.trained[0]) == RESNET50V2 + 2


class TestArticleVit:
    made = pytest.fixture(scope="class")(lambda self: Made("article-vit", 45_000))

    def test_data_and_transforms(self, made: Made) -> None:
        assert made.config.data.splits == {"train": 90, "eval": 10}
        assert made.resize() == (32, None, "bilinear", False, "stretch")
        changed, changes = made.augmented(0)
        assert changed.shape == (4, 72, 72, 3)
        assert changes == [("random_move", {"flip": True, "rotation": 0.02, "zoom": 0.2})]
        assert made.model(np.zeros((1, 32, 32, 3), np.uint8)).shape == (1, 5)

    def test_optimizer(self, made: Made) -> None:
        (phase,) = made.phases
        assert isinstance(phase.optimizer, keras.optimizers.AdamW)
        assert float(phase.optimizer.learning_rate) == pytest.approx(1e-3)
        assert (phase.epochs, made.config.train.batch_size) == (10, 256)
        assert made.config.train.keep == "best"

    def test_a_step_takes_as_much_of_a_weight_as_in_tensorflow_addons(self, made: Made) -> None:
        weight = keras.Variable([2.0])
        optimizer = type(made.phases[0].optimizer).from_config(
            made.phases[0].optimizer.get_config()
        )
        optimizer.apply([tf.zeros([1])], [weight])
        assert float(weight[0]) == pytest.approx(2.0 * (1 - 1e-4), rel=1e-6)

    def test_normalization_comes_before_the_resize_and_all_else_is_trained(
        self, made: Made
    ) -> None:
        names = [layer.name for layer in made.model.layers]
        assert names[:4] == ["image", "normalization", "resizing", "patches"]
        pixels = np.random.default_rng(0).integers(0, 256, (2, 32, 32, 3), np.uint8)
        mean = made.model.get_layer("normalization").adapt_mean
        np.testing.assert_allclose(np.ravel(mean), pixels.mean((0, 1, 2)), rtol=1e-5)
        assert len(made.trained[0]) == 2 + 1 + 8 * 16 + 2 + 4 + 2


class TestTensorflowTransfer:
    made = pytest.fixture(scope="class")(lambda self: Made("tensorflow-transfer", 2_000))

    def test_transforms(self, made: Made) -> None:
        assert made.resize() == (160, None, "bilinear", False, "stretch")
        assert made.config.train.batch_size == 32
        for number in (0, 1):
            changed, changes = made.augmented(number)
            assert changed.shape == (4, 160, 160, 3)
            assert changes == [("random_move", {"flip": True, "rotation": 0.2, "zoom": 0.0})]

    def test_optimizers(self, made: Made) -> None:
        first, second = made.phases
        assert isinstance(first.optimizer, keras.optimizers.Adam)
        assert isinstance(second.optimizer, keras.optimizers.RMSprop)
        assert float(first.optimizer.learning_rate) == pytest.approx(1e-4)
        assert float(second.optimizer.learning_rate) == pytest.approx(1e-5)
        assert (first.epochs, second.epochs, made.config.train.keep) == (10, 10, "last")
        assert first.frozen is None  # images are augmented anew in each epoch

    def test_trained_variables_are_2_then_56(self, made: Made) -> None:
        assert made.trained[0] == {"logits/kernel", "logits/bias"}
        assert len(made.trained[1]) == 56
        assert made.model.get_layer("drop").rate == 0.2

    def test_weights_are_the_source_s(self) -> None:
        hyperparameters: Any = loaded("tensorflow-transfer").train.hyperparameters
        assert (hyperparameters.weights, hyperparameters.alpha) == ("imagenet", 1.0)


def test_every_preset_is_tested_here_and_loads() -> None:
    assert published() == [
        "article-vit",
        "keras-bit",
        "keras-fixres",
        "keras-fixres-control",
        "tensorflow-bit",
        "tensorflow-transfer",
    ]
    for name in published():
        found = load(overrides={"data.source": "/photos", "train.preset": name})
        assert found.origins["train.batch_size"] == f"preset:source-{name}"


@pytest.mark.parametrize("name", published())
def test_the_benchmark_s_controls_have_the_numbers_of_the_presets(name: str) -> None:
    source = SOURCES[name]
    given = load(overrides={"data.source": "/photos", **source.settings(source.published)}).config
    # TensorFlow Hub's weights are not at hand.
    without = {f"{HYPER}weights.source": ""} if name.endswith("bit") else {}
    alone = loaded(name, **without)
    assert (given.train, given.transform) == (alone.train, alone.transform)
    smaller = source.settings({**source.published, **source.small})
    assert load(overrides={"data.source": "/photos", **smaller}).config.train.preset == name


def test_a_preset_is_above_those_of_its_recipe_and_below_what_is_given(tmp_path: Path) -> None:
    file = tmp_path / "own.toml"
    file.write_text("[train]\nepochs = 3\n")
    found = load(file, {"train.preset": "tensorflow-transfer", "train.seed": 5})
    assert (found.config.train.epochs, found.config.train.recipe) == (3, "mobilenet")
    assert found.config.transform.image_size == 160
    given = config_module.given_settings(found)
    again = config_module.load_given({"command line": given})
    assert again.config == found.config


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ({"train.preset": "keras-bits"}, r"train\.preset = 'keras-bits': .* 'keras-bit'\?$"),
        (
            {"train.preset": "keras-bit", "train.recipe": "vit"},
            r"train\.recipe = 'vit': .*train\.preset .*'bit'",
        ),
        ({"train.preset": 3}, r"train\.preset = 3: "),
    ],
)
def test_a_preset_that_cannot_be_used_is_refused(overrides: Any, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        load(overrides=overrides)
