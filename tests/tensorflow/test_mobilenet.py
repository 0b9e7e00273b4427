"""MobileNetV2: what is frozen stays so, features are computed once, wrong weights are refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras.src.applications import imagenet_utils
from keras.src.utils import file_utils

from tests.kit.mobilenet import SIZE, awaken, noise
from tests.kit.training import fitted
from trainer_module import attention, fit, frozen_features
from trainer_module.models import backbones
from trainer_module.recipes import transfer
from trainer_module.recipes.base import Phase, TrainingData
from trainer_module.recipes.mobilenet import Config
from trainer_module.training import transfer as training
from trainer_module.training.transfer import BASE
from trainer_module.weights import WeightsError

RANDOM: dict[str, Any] = {"alpha": 0.35, "weights": "none"}
MOBILENETS_V3 = {"MobileNetV3Large", "MobileNetV3Small"}


def by_layer(model: keras.Model) -> dict[str, list[np.ndarray]]:
    base = model.get_layer(BASE)
    return {
        layer.name: layer.get_weights()
        for layer in [*base.layers, model.get_layer("logits")]
        if layer.weights
    }


@pytest.fixture(scope="module")
def trained() -> dict[str, dict[str, list[np.ndarray]]]:
    """Weights by layer: as built, after phase 1 alone, and after both phases."""
    weights = {}

    def train(name: str, head_epochs: int) -> None:
        def remember(model: keras.Model) -> None:
            awaken(model)
            weights["built"] = by_layer(model)

        config = Config(
            **RANDOM,
            head_epochs=head_epochs,
            learning_rate=0.01,
            views=2,
            fine_tune_from=100,
            fine_tune_learning_rate=1e-3,
        )
        # Evaluated on what it is trained on, so that the last epoch is usually the best.
        data = noise(16, 0)
        outcome = fitted("mobilenet", config, data, data, batch_size=8, epochs=3, prepare=remember)
        weights[name] = by_layer(outcome.model)

    train("head", 3)
    train("all", 0)
    return weights


def changed(before: dict[str, list[np.ndarray]], after: dict[str, list[np.ndarray]]) -> set[str]:
    return {
        name
        for name, arrays in before.items()
        if any(np.any(old != new) for old, new in zip(arrays, after[name], strict=True))
    }


def test_phase_one_changes_the_head_and_nothing_else(
    trained: dict[str, dict[str, list[np.ndarray]]],
) -> None:
    assert changed(trained["built"], trained["head"]) == {"logits"}


def test_phase_two_changes_upper_layers_but_no_statistics(
    trained: dict[str, dict[str, list[np.ndarray]]],
) -> None:
    base = training.build_model(Config(**RANDOM), SIZE, 2).get_layer(BASE)
    norms = {x.name for x in base.layers if isinstance(x, keras.layers.BatchNormalization)}
    assert len(norms) == 52
    upper = {layer.name for layer in base.layers[100:] if layer.weights}
    assert changed(trained["built"], trained["all"]) == upper | {"logits"}
    for name in upper & norms:
        before, after = trained["built"][name], trained["all"][name]
        same = [bool((old == new).all()) for old, new in zip(before, after, strict=True)]
        assert same == [False, False, True, True], name  # gamma, beta, mean, variance


def test_phase_two_trains_the_tutorial_s_56_variables() -> None:
    model = training.build_model(Config(weights="none"), SIZE, 2)
    training.most_trained(Config(weights="none", head_epochs=3), model, 4)
    assert len(model.get_layer(BASE).layers) == 154
    assert len(model.trainable_variables) == 56
    training.most_trained(Config(weights="none"), model, None)
    assert len(model.trainable_variables) == 2


def test_features_and_head_together_are_the_model() -> None:
    model = training.build_model(Config(**RANDOM), SIZE, 2)
    images = noise(4, 0).images.map(lambda image, _: image)
    phases = training.phases(Config(**RANDOM), model, TrainingData(images, 4, 4, 2))
    frozen = next(phases).frozen
    assert frozen
    batch = next(iter(images.batch(4)))
    np.testing.assert_allclose(frozen.head(frozen.base(batch)), model(batch), atol=1e-6)


def test_the_network_runs_once_over_each_view_in_phase_one(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    computed: list[np.ndarray] = []
    real = frozen_features.compute

    def counted(*args: Any, **options: Any) -> tf.Tensor:
        features = real(*args, **options)
        computed.append(np.asarray(features))
        return features

    monkeypatch.setattr(frozen_features, "compute", counted)
    config = Config(**RANDOM, head_epochs=4, views=3)
    data = (noise(8, 0), noise(4, 1))
    trained = fitted("mobilenet", config, *data, batch_size=4, epochs=4, prepare=awaken)
    of_training, of_evaluation = computed
    assert len(of_evaluation) == 4
    assert len(of_training) == 3 * 8
    first, second, third = np.split(of_training, 3)
    assert not np.allclose(first, second)
    assert not np.allclose(second, third)
    np.testing.assert_array_equal(trained.features, first)


class TestWeights:
    def saved(self, folder: Path, name: str, alpha: float = 0.35) -> str:
        random = keras.applications.MobileNetV2(
            (SIZE, SIZE, 3), alpha=alpha, include_top=False, weights=None
        )
        path = str(folder / name)
        random.save_weights(path) if name.endswith(".weights.h5") else random.save(path)
        return path

    @pytest.mark.parametrize("name", ["model.keras", "model.weights.h5"])
    def test_a_local_file_is_loaded(self, name: str, tmp_path: Path) -> None:
        path = self.saved(tmp_path, name)
        keras.utils.set_random_seed(7)
        one, two = (
            training.build_model(Config(alpha=0.35, weights=path), SIZE, 2) for _ in range(2)
        )
        for first, second in zip(
            one.get_layer(BASE).get_weights(), two.get_layer(BASE).get_weights(), strict=True
        ):
            np.testing.assert_array_equal(first, second)

    @pytest.mark.parametrize("name", ["model.keras", "model.weights.h5"])
    def test_those_of_another_width_are_refused(self, name: str, tmp_path: Path) -> None:
        path = self.saved(tmp_path, name, alpha=0.5)
        with pytest.raises(WeightsError, match=rf"{path} .*alpha 0\.35"):
            training.build_model(Config(alpha=0.35, weights=path), SIZE, 2)

    def test_a_missing_file_is_refused(self) -> None:
        with pytest.raises(WeightsError, match=r" /none\.h5 "):
            training.build_model(Config(alpha=0.35, weights="/none.h5"), SIZE, 2)


class TestTransfer:
    """Any classifier of keras.applications."""

    def test_the_list_of_backbones_is_that_of_keras(self) -> None:
        names = {name for name in dir(keras.applications) if name[0].isupper()}
        assert set(transfer.BACKBONES) == names

    @pytest.mark.parametrize("name", sorted(transfer.BACKBONES))
    def test_preprocessing_is_the_network_s_own(self, name: str) -> None:
        module = getattr(keras.applications, name).__module__.rpartition(".")[2]
        prepare = getattr(keras.applications, module).preprocess_input
        images = np.random.default_rng(0).integers(0, 256, (2, 4, 4, 3), np.uint8)
        expected = prepare(images.astype(np.float32))
        np.testing.assert_allclose(backbones.preprocessing(name)(images), expected, atol=1e-4)

    @pytest.mark.parametrize(
        ("name", "variables"),
        [("EfficientNetV2B0", None), ("MobileNetV3Small", None), ("ResNet50", 106)],
    )
    def test_upper_layers_are_trained_and_statistics_kept(
        self, name: str, variables: int | None
    ) -> None:
        settings = transfer.Config(backbone=name, weights="none", head_epochs=0)
        model = training.build_model(settings, 64, 3)
        images = noise(2, 0).images.map(lambda image, _: image)
        (phase,) = training.phases(settings, model, TrainingData(images, 2, 2, 1))
        assert isinstance(phase.optimizer, keras.optimizers.RMSprop)
        base = model.get_layer(BASE)
        trained = [layer.trainable for layer in base.layers]
        assert trained == sorted(trained)
        assert trained.count(False) == len(trained) * 100 // 154
        before = [each.numpy() for each in base.non_trainable_variables]
        pixels = np.random.default_rng(0).integers(0, 256, (2, 64, 64, 3), np.uint8)
        assert model(pixels, training=True).shape == (2, 3)
        for old, new in zip(before, base.non_trainable_variables, strict=True):
            np.testing.assert_array_equal(old, new)

    # MobileNetV3 takes any size.
    @pytest.mark.parametrize("name", sorted(set(transfer.BACKBONES) - MOBILENETS_V3))
    def test_sizes_are_those_of_the_published_classifier(
        self, name: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        found: dict[str, int] = {}

        def stop(*_: Any, default_size: int, min_size: int, **__: Any) -> None:
            found.update(own=default_size, least=min_size)
            raise StopIteration

        monkeypatch.setattr(imagenet_utils, "obtain_input_shape", stop)
        with pytest.raises(StopIteration):
            getattr(keras.applications, name)(weights=None)
        assert transfer.BACKBONES[name]._asdict() == found
        sizes = transfer.image_sizes(transfer.Config(backbone=name), 500, 400)
        assert sizes == {"image_size": found["own"]}

    @pytest.mark.parametrize("name", sorted(transfer.BACKBONES))
    def test_every_network_can_be_built_fine_tuned_and_looked_into(self, name: str) -> None:
        settings = transfer.Config(backbone=name, weights="none", head_epochs=1)
        size = transfer.BACKBONES[name].own
        with keras.StatelessScope(initialize_variables=False):
            model = training.build_model(settings, size, 3)
        assert (model.input_shape, model.output_shape) == ((None, size, size, 3), (None, 3))
        assert attention.looked(model) is not None
        training.most_trained(settings, model, 1)
        assert len(model.trainable_variables) == 2
        training.most_trained(settings, model, 2)
        trained = {id(each) for each in model.trainable_variables}
        base = [id(each) for each in model.get_layer(BASE).weights]
        assert base[0] not in trained
        assert len(trained & set(base)) > 2

    def test_published_weights_give_the_features_of_keras_s_own_network(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def normalization(model: keras.Model) -> keras.layers.Normalization:
            return next(each for each in model.layers if hasattr(each, "adapt_mean"))

        def stem(model: keras.Model) -> keras.Model:
            return keras.Model(model.input, model.get_layer("stem_conv").output)

        shape, file = (SIZE, SIZE, 3), str(tmp_path / "file.weights.h5")
        plain = keras.applications.EfficientNetB0(False, None, input_shape=shape)
        normalization(plain).adapt_mean.assign([0.485, 0.456, 0.406])
        normalization(plain).adapt_variance.assign([0.229, 0.224, 0.225])
        plain.save_weights(file)
        monkeypatch.setattr(file_utils, "get_file", lambda *_, **__: file)
        published = keras.applications.EfficientNetB0(False, "imagenet", input_shape=shape)
        published.save(tmp_path / "file.keras")
        pixels = np.random.default_rng(0).integers(0, 256, (2, *shape), np.uint8)
        expected = stem(published)(pixels)
        for weights in ("imagenet", file, str(tmp_path / "file.keras")):
            settings = transfer.Config(backbone="EfficientNetB0", weights=weights)
            model = training.build_model(settings, SIZE, 2)
            images, base = model.get_layer("preprocessing")(pixels), model.get_layer(BASE)
            np.testing.assert_allclose(stem(base)(images), expected, atol=1e-5, err_msg=weights)
        # As a warm start does.
        normalization(base).adapt_mean.assign([0.0, 0.0, 0.0])
        assert not np.allclose(stem(base)(images), expected, atol=0.1)

    def test_images_are_augmented_anew_where_features_are_not_kept(self) -> None:
        settings = transfer.Config(backbone="MobileNetV2", weights="none", cache=False)
        model = training.build_model(settings, SIZE, 2)
        images = noise(4, 0).images.map(lambda image, _: image)
        (phase,) = training.phases(settings, model, TrainingData(images, 4, 4, 2))
        assert phase.frozen is None
        assert phase.augment is not None
        assert [each.path for each in model.trainable_variables] == ["logits/kernel", "logits/bias"]


@pytest.mark.parametrize(("batch", "parts", "refused"), [(4, 4, True), (1, 1, True), (4, 2, False)])
def test_batch_normalization_is_not_trained_on_one_image(
    batch: int, parts: int, refused: bool
) -> None:
    class WithNorm:
        Config = Config

        def build_model(self, config: Any, image_size: int, num_classes: int) -> keras.Model:
            images = keras.Input((image_size, image_size, 3), dtype="uint8")
            x = keras.layers.BatchNormalization()(keras.layers.Rescaling(1 / 255)(images))
            head = keras.layers.Dense(num_classes)(keras.layers.Flatten()(x))
            return keras.Model(images, head, name="with_norm")

        def phases(self, config: Any, model: keras.Model, data: TrainingData) -> Any:
            yield Phase(1, keras.optimizers.SGD(0.1), None)

    def train() -> None:
        fitted(
            WithNorm(),
            Config(),
            noise(8, 0),
            noise(4, 1),
            batch_size=batch,
            epochs=1,
            gradient_accumulation=parts,
        )

    if refused:
        with pytest.raises(fit.BatchNormError, match=rf"gradient_accumulation \(now {parts}\)"):
            train()
    else:
        train()
