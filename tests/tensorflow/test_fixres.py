"""The two stages of FixRes: what each one sees, what the second changes, and which one is kept."""

from __future__ import annotations

import logging
from collections.abc import Generator
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers
from pydantic import BaseModel, ConfigDict

from trainer_module import fit, recipes
from trainer_module.input_pipeline import Framed, Split
from trainer_module.models.views import SquareView, seen_through
from trainer_module.recipes import fixres
from trainer_module.recipes.base import EpochMetrics, Module, Phase, Recipe, TrainingData
from trainer_module.recipes.fixres import Config
from trainer_module.training import fixres as training

SEED = tf.constant([1, 2], tf.int64)


class Tiny:
    """A recipe with two normalizations over batches, the second one in a model in the model."""

    class Config(BaseModel):
        model_config = ConfigDict(extra="forbid")
        flatten: bool = False
        rate: float = 0.02

    def check(self, config: Any, image_size: int, train_size: int) -> None:
        if image_size % 4 or train_size != image_size:
            raise ValueError(f"image_size {image_size} is not a multiple of 4")

    def build_model(self, config: Any, image_size: int, num_classes: int) -> keras.Model:
        features = keras.Input((image_size // 2, image_size // 2, 4))
        x = layers.Conv2D(8, 3, padding="same", name="conv2")(features)
        x = layers.BatchNormalization(momentum=0.5, name="norm2")(x)
        inner = keras.Model(features, layers.Activation("relu")(x), name="inner")
        images = keras.Input((image_size, image_size, 3), dtype="uint8")
        x = layers.Rescaling(1 / 255)(images)
        x = layers.Conv2D(4, 3, strides=2, padding="same", name="conv1")(x)
        x = layers.BatchNormalization(momentum=0.5, name="norm1")(x)
        x = inner(x)
        x = layers.Flatten()(x) if config.flatten else layers.GlobalAveragePooling2D()(x)
        x = layers.Dropout(0.5)(x)
        return keras.Model(images, layers.Dense(num_classes, name="head")(x), name="tiny")

    def phases(
        self, config: Any, model: keras.Model, data: TrainingData
    ) -> Generator[Phase, EpochMetrics, None]:
        self.seen = next(iter(data.images)).shape
        yield Phase(data.epochs or 2, keras.optimizers.Adam(config.rate), None)


@pytest.fixture(autouse=True)
def tiny(monkeypatch: pytest.MonkeyPatch) -> Recipe:
    """Register a recipe called "tiny"."""
    recipe, get = Module(Tiny()), recipes.get
    monkeypatch.setattr(recipes, "names", lambda: ["bit", "fixres", "mobilenet", "tiny"])
    monkeypatch.setattr(recipes, "get", lambda name: recipe if name == "tiny" else get(name))
    return recipe


def config(**changes: Any) -> Config:
    settings = {"base": "tiny", "low": 16, "high": 24, "min_area": 0.5, "second_epochs": 2}
    return Config.model_validate({**settings, **changes})


def coloured(count: int, seed: int = 0, frame: bool = False) -> Split:
    """Noise of 32 pixels whose red channel is brighter in class 1, everywhere or only outside of
    the central 24 pixels.
    """
    random = np.random.default_rng(seed)
    images = random.integers(0, 150, (count, 32, 32, 3), np.uint8)
    labels = np.arange(count) % 2
    centre = images[:, 4:28, 4:28].copy()
    images[labels == 1, ..., 0] += 100
    if frame:
        images[:, 4:28, 4:28] = centre
    return Split(tf.data.Dataset.from_tensor_slices((images, labels)), labels, 2)


def data(split: Split, epochs: int | None = 4) -> TrainingData:
    return TrainingData(split.images.map(lambda image, _: image), split.size, 8, epochs)


def train(settings: Config, epochs: int | None = 5, frame: bool = False) -> fit.FitResult:
    keras.utils.set_random_seed(0)
    return fit.fit(
        recipes.get("fixres"),
        settings,
        train=coloured(32, frame=frame),
        evaluation=coloured(17, seed=1, frame=frame),
        image_size=32,
        num_classes=2,
        batch_size=8,
        epochs=epochs,
        seed=0,
    )


ROW = {"val_accuracy": 0.5, "val_loss": 1.0}


def second_stage(settings: Config) -> tuple[keras.Model, keras.Model, Phase]:
    """Make the first stage's model with random weights, and the second stage that follows on it."""
    keras.utils.set_random_seed(1)
    model = training.build_model(settings, 32, 2)
    random = np.random.default_rng(0)
    for variable in model.weights:
        variable.assign(random.uniform(0.1, 1, variable.shape))
    stages = training.phases(settings, model, data(coloured(16)))
    first = next(stages)
    assert first.model is model
    second = stages.send(ROW)
    assert second.model
    return model, second.model, second


def net(model: keras.Model) -> keras.Model:
    return model.layers[-1]


def weights(model: keras.Model) -> dict[str, np.ndarray]:
    """By the last two parts of the path, which are the same for both resolutions."""
    return {"/".join(v.path.split("/")[-2:]): v.numpy() for v in net(model).weights}


class TestSecondStage:
    @pytest.mark.parametrize(
        ("batch_norm", "changed"),
        [
            ("reestimate", {"head/kernel", "head/bias"}),
            (
                "train",
                {
                    "head/kernel",
                    "head/bias",
                    "norm2/gamma",
                    "norm2/beta",
                    "norm2/moving_mean",
                    "norm2/moving_variance",
                },
            ),
        ],
    )
    def test_training_touches_only_what_it_should(self, batch_norm: str, changed: set[str]) -> None:
        _, model, phase = second_stage(config(batch_norm=batch_norm))
        before = weights(model)
        model.compile(phase.optimizer, keras.losses.SparseCategoricalCrossentropy(True))
        model.fit(coloured(16).images.batch(8), epochs=2, verbose=0)
        after = weights(model)
        assert {name for name in before if (before[name] != after[name]).any()} == changed

    def test_it_starts_from_the_first_stages_weights(self) -> None:
        first, second, _ = second_stage(config(batch_norm="train"))
        old, new = weights(first), weights(second)
        assert old.keys() == new.keys()
        for name in old:
            np.testing.assert_array_equal(old[name], new[name])

    def test_statistics_are_measured_over_all_images_as_they_are_tested(self) -> None:
        first, second, _ = second_stage(config(batch_norm="reestimate"))
        images = np.stack(list(coloured(16).images.map(lambda image, _: image)))
        model = net(second)
        x = model.get_layer("norm1")(
            model.get_layer("conv1")(images[:, 4:28, 4:28] / np.float32(255)), training=False
        )
        x = np.asarray(model.get_layer("inner").get_layer("conv2")(x), np.float64)
        found = weights(second)
        np.testing.assert_allclose(found["norm2/moving_mean"], x.mean((0, 1, 2)), rtol=1e-4)
        np.testing.assert_allclose(found["norm2/moving_variance"], x.var((0, 1, 2)), rtol=1e-3)
        untouched = weights(first)
        for name in ("norm1/moving_mean", "norm1/moving_variance", "norm2/gamma", "norm2/beta"):
            np.testing.assert_array_equal(found[name], untouched[name])

    def test_group_normalizations_scale_and_offset_are_trained(self) -> None:
        settings = {"variant": "tiny", "crop": False, "mixup": 0.0}
        _, model, _ = second_stage(config(base="bit", settings=settings))
        trainable = {"/".join(v.path.split("/")[-2:]) for v in model.trainable_variables}
        assert trainable == {
            "final_norm/gamma",
            "final_norm/beta",
            "head/kernel",
            "head/bias",
        }

    def test_a_base_with_frozen_features_is_given_images_as_transform_gives_them(self) -> None:
        settings = {"weights": "none", "alpha": 0.35, "flip": False, "rotation": 0.0}
        settings |= {"head_epochs": 1}
        wrapped = config(base="mobilenet", settings=settings, low=32, high=40, batch_norm="train")
        model = training.build_model(wrapped, 48, 2)
        stages = training.phases(wrapped, model, data(coloured(8)))
        head_only = next(stages)
        assert head_only.frozen
        images = np.random.default_rng(0).integers(0, 256, (2, 48, 48, 3), np.uint8)
        logits = head_only.frozen.head(head_only.frozen.base(images))
        np.testing.assert_allclose(logits, model(images), rtol=1e-5)
        assert stages.send(ROW).frozen is None
        second = stages.send(ROW).model
        assert second
        trainable = {"/".join(v.path.split("/")[-2:]) for v in second.trainable_variables}
        assert trainable == {
            "Conv_1_bn/gamma",
            "Conv_1_bn/beta",
            "logits/kernel",
            "logits/bias",
        }

    def test_resnet50v2_trains_post_bn_and_head(self) -> None:
        model = training._resnet50v2(32, 3)
        norm, head = training._freeze(model, "train")
        assert norm.name == "post_bn"
        assert [layer.name for layer in head if layer.weights] == ["head"]
        trainable = {v.path for v in model.trainable_variables}
        assert trainable == {"post_bn/gamma", "post_bn/beta", "head/kernel", "head/bias"}
        assert model.count_params() == 23_564_800 + 3 * 2049


class TestTraining:
    def test_both_stages_run_and_the_better_one_is_kept(
        self, caplog: pytest.LogCaptureFixture
    ) -> None:
        with caplog.at_level(logging.INFO, "perennial.progress"):
            trained = train(config())
        assert [row["epoch"] for row in trained.epochs] == [1, 2, 3, 4, 5]
        best = max(trained.epochs, key=lambda row: (row["val_accuracy"], -row["val_loss"]))
        assert trained.best == best
        view = trained.model.get_layer("view")
        assert view.size == (16 if best["epoch"] <= 3 else 24)
        evaluation = coloured(17, seed=1)
        logits = trained.model.predict(evaluation.images.batch(8), verbose=0)
        assert np.mean(logits.argmax(1) == np.arange(17) % 2) == pytest.approx(best["val_accuracy"])
        first = max(row["val_accuracy"] for row in trained.epochs[:3])
        second = max(row["val_accuracy"] for row in trained.epochs[3:])
        (told,) = [
            record.fields["text"]  # type: ignore[attr-defined]
            for record in caplog.records
            if record.msg == "note"
        ]
        assert told == (
            f"FixRes: accuracy {first:.2%} at 16 px, {second:.2%} at 24 px: gain "
            f"{100 * (second - first):+.2f} points; the model of {view.size} px is kept"
        )

    def test_resnet50v2_s_second_stage_changes_its_head_and_last_statistics_only(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        after: list[dict[str, np.ndarray]] = []
        fit_phase = fit._Training.fit_phase

        def remembered(
            self: Any, number: int, phase: Phase, model: keras.Model, *rest: Any
        ) -> EpochMetrics:
            if not after:
                after.append(weights(model))
            best = fit_phase(self, number, phase, model, *rest)
            after.append(weights(model))
            return best

        monkeypatch.setattr(fit._Training, "fit_phase", remembered)
        monkeypatch.setattr(fixres, "SMALLEST", 28)  # what is trained does not depend on it
        split = coloured(4)
        fit.fit(
            recipes.get("fixres"),
            Config(low=28, high=32, second_epochs=1),
            train=split,
            evaluation=split,
            image_size=32,
            num_classes=2,
            batch_size=4,
            epochs=2,
            seed=0,
        )
        built, first, second = after
        # A convolution's bias before a normalization has no gradient.
        same = {name for name in built if (built[name] == first[name]).all()}
        assert not [name for name in same if not name.endswith("/bias")]
        assert {name for name in first if (first[name] != second[name]).any()} == {
            "post_bn/gamma",
            "post_bn/beta",
            "post_bn/moving_mean",
            "post_bn/moving_variance",
            "head/kernel",
            "head/bias",
        }

    def test_a_second_stage_without_gain_is_not_kept(self) -> None:
        settings = config(min_area=0.9, second_epochs=1)
        trained = train(settings, epochs=9, frame=True)
        assert trained.best["val_accuracy"] > 0.9
        assert trained.epochs[-1]["val_accuracy"] < 0.8
        assert trained.model.get_layer("view").size == 16

    def test_a_second_stage_with_a_gain_is_kept(self) -> None:
        settings = config(settings={"rate": 0.0}, second_learning_rate=0.05, second_epochs=4)
        assert train(settings).model.get_layer("view").size == 24

    def test_vanilla_is_one_stage_at_the_higher_resolution(self) -> None:
        trained = train(config(vanilla=True), epochs=2)
        assert len(trained.epochs) == 2
        assert trained.model.get_layer("view").get_config()["size"] == 24
        assert trained.model.get_layer("view").crop is False

    def test_epochs_are_split_and_the_base_decides_where_none_are_given(self) -> None:
        assert fixres.epochs_of(config(), 12) == (10, 2)
        assert fixres.epochs_of(config(), 2) == (1, 1)
        assert fixres.epochs_of(config(), None) == (None, 2)
        with pytest.raises(ValueError, match="set 2 or more"):
            fixres.epochs_of(config(), 1)

    def test_the_base_trains_on_crops_and_adapts_to_images_of_the_low_resolution(
        self, tiny: Tiny
    ) -> None:
        settings = config()
        model = training.build_model(settings, 32, 2)
        phase = next(training.phases(settings, model, data(coloured(4))))
        assert phase.augment
        images, labels = next(iter(coloured(4).images.batch(4)))
        crops, same = phase.augment(images, labels, SEED)
        assert crops.shape == (4, 16, 16, 3)
        assert tiny.seen == (16, 16, 3)
        np.testing.assert_array_equal(labels, same)

    @pytest.mark.parametrize("batch_norm", ["train", "reestimate"])
    def test_crops_are_of_larger_images_and_the_second_stage_sees_what_evaluates(
        self, batch_norm: str
    ) -> None:
        settings = config(batch_norm=batch_norm, flip=False)
        model = training.build_model(settings, 32, 2)
        pixels = np.random.default_rng(0).integers(0, 256, (8, 40, 40, 3), np.uint8)
        images = tf.data.Dataset.from_tensor_slices(pixels)
        stages = training.phases(settings, model, TrainingData(images, 8, 8, 4, image_size=32))
        first = next(stages)
        assert first.augment
        labels = tf.zeros([8], tf.int64)
        framed = Framed(tf.constant(pixels), tf.constant([[30, 40]] * 8, tf.int64))
        assert first.augment(framed, labels, SEED)[0].shape == (8, 16, 16, 3)
        second = stages.send({"val_accuracy": 0.5, "val_loss": 1.0})
        assert second.augment
        found = second.augment(framed, labels, SEED)[0]
        np.testing.assert_array_equal(
            found, tf.cast(tf.round(tf.image.resize(pixels, [32, 32])), tf.uint8)
        )


class TestRefusals:
    @pytest.mark.parametrize(
        ("changes", "message"),
        [
            ({"low": 32}, "must rise"),
            ({"high": 48}, "must rise"),
            ({"base": "fixres"}, "base 'fixres' is not one of"),
            (
                {"base": "resnet50v2", "low": 32, "high": 40, "settings": {"variant": "tiny"}},
                "settings {'variant': 'tiny'} are those of a recipe, but base is resnet50v2",
            ),
            ({"base": "resnet50v2"}, "low 16 is too small for resnet50v2"),
            ({"low": 18}, "settings of base tiny: image_size 18 is not a multiple of 4"),
            ({"settings": {"depth": 3}}, "settings of base tiny: depth: Extra inputs"),
        ],
    )
    def test_settings_that_cannot_work(self, changes: dict[str, Any], message: str) -> None:
        with pytest.raises(ValueError, match=message):
            fixres.check(config(**changes), 40, 40)

    def test_training_images_that_are_smaller(self) -> None:
        fixres.check(config(), 32, 40)
        with pytest.raises(ValueError, match="train_size 24 is below image_size 32"):
            fixres.check(config(), 32, 24)

    def test_a_base_bound_to_its_image_size_is_refused_before_training(self) -> None:
        settings = config(settings={"flatten": True})
        model = training.build_model(settings, 32, 2)
        with pytest.raises(ValueError, match=r"depend on the size of images.*head/kernel"):
            next(training.phases(settings, model, data(coloured(4))))

    def test_the_default_sizes_go_together(self) -> None:
        sizes = fixres.image_sizes(Config(), 500, 400)
        assert sizes == {"image_size": 392}
        fixres.check(Config(), 392, 392)


class TestSquareView:
    images = np.random.default_rng(0).integers(0, 256, (2, 12, 12, 3), np.uint8)

    def test_the_centre_is_cut_out_unchanged(self) -> None:
        np.testing.assert_array_equal(
            SquareView(8, crop=True)(self.images), self.images[:, 2:10, 2:10]
        )

    def test_the_whole_is_shrunk_as_transform_shrinks(self) -> None:
        expected = tf.image.resize(self.images, [5, 5], antialias=True)
        expected = tf.saturate_cast(tf.round(expected), tf.uint8)
        np.testing.assert_array_equal(SquareView(5, crop=False)(self.images), expected)

    @pytest.mark.parametrize("crop", [True, False])
    def test_images_of_the_size_pass_unchanged(self, crop: bool) -> None:
        np.testing.assert_array_equal(SquareView(12, crop=crop)(self.images), self.images)

    def test_model_survives_a_round_trip(self, tmp_path: Any) -> None:
        model = seen_through(training._net(config(), 8, 2), 8, crop=True)
        model.save(tmp_path / "model.keras")
        loaded = keras.saving.load_model(tmp_path / "model.keras", safe_mode=True)
        np.testing.assert_array_equal(loaded(self.images), model(self.images))
