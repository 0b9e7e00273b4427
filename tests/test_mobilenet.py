"""MobileNetV2: what is frozen stays so, features are computed once, wrong weights are refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf

from trainer_module import fit, frozen_features, recipes
from trainer_module.input_pipeline import Split
from trainer_module.recipes import mobilenet
from trainer_module.recipes.base import TrainingData
from trainer_module.recipes.mobilenet import BASE, Config
from trainer_module.weights import WeightsError

SIZE = 32
RANDOM: dict[str, Any] = {"alpha": 0.35, "weights": "none"}


def split(count: int, seed: int) -> Split:
    """Noise that is brighter in class 1."""
    random = np.random.default_rng(seed)
    labels = np.arange(count) % 2
    images = random.integers(0, 120, (count, SIZE, SIZE, 3), np.uint8)
    images[labels == 1] += 100
    return Split(tf.data.Dataset.from_tensor_slices((images, labels)), labels, 2)


def awaken(model: keras.Model) -> None:
    """Give batch normalization the statistics of some images: random features are all 0 else."""
    base = model.get_layer(BASE)
    norms = [layer for layer in base.layers if isinstance(layer, keras.layers.BatchNormalization)]
    before = [(norm.momentum, norm.trainable) for norm in norms]
    for norm in norms:
        norm.momentum, norm.trainable = 0.0, True
    images = next(iter(split(16, 3).images.batch(16)))[0]
    base(tf.cast(images, tf.float32) / 127.5 - 1, training=True)
    for norm, settings in zip(norms, before, strict=True):
        norm.momentum, norm.trainable = settings


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

        keras.utils.set_random_seed(0)
        config = Config(
            **RANDOM,
            head_epochs=head_epochs,
            learning_rate=0.01,
            views=2,
            fine_tune_from=100,
            fine_tune_learning_rate=1e-3,
        )
        # Evaluated on what it is trained on, so that the last epoch is usually the best.
        outcome = fit.fit(
            recipes.get("mobilenet"),
            config,
            train=split(16, 0),
            evaluation=split(16, 0),
            image_size=SIZE,
            num_classes=2,
            batch_size=8,
            epochs=3,
            seed=0,
            how=fit.How(prepare=remember),
        )
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


def test_phase_two_changes_upper_layers_but_no_batch_normalization(
    trained: dict[str, dict[str, list[np.ndarray]]],
) -> None:
    base = mobilenet.build_model(Config(**RANDOM), SIZE, 2).get_layer(BASE)
    norms = {x.name for x in base.layers if isinstance(x, keras.layers.BatchNormalization)}
    assert len(norms) == 52
    upper = {layer.name for layer in base.layers[100:] if layer.weights}
    assert changed(trained["built"], trained["all"]) == upper - norms | {"logits"}


def test_features_and_head_together_are_the_model() -> None:
    model = mobilenet.build_model(Config(**RANDOM), SIZE, 2)
    images = split(4, 0).images.map(lambda image, _: image)
    phases = mobilenet.phases(Config(**RANDOM), model, TrainingData(images, 4, 4, 2))
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
    fit.fit(
        recipes.get("mobilenet"),
        config,
        train=split(8, 0),
        evaluation=split(4, 1),
        image_size=SIZE,
        num_classes=2,
        batch_size=4,
        epochs=4,
        seed=0,
        how=fit.How(prepare=awaken),
    )
    of_training, of_evaluation = computed
    assert len(of_evaluation) == 4
    assert len(of_training) == 3 * 8
    first, second, third = np.split(of_training, 3)
    assert not np.allclose(first, second)
    assert not np.allclose(second, third)


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
            mobilenet.build_model(Config(alpha=0.35, weights=path), SIZE, 2) for _ in range(2)
        )
        for first, second in zip(
            one.get_layer(BASE).get_weights(), two.get_layer(BASE).get_weights(), strict=True
        ):
            np.testing.assert_array_equal(first, second)

    @pytest.mark.parametrize("name", ["model.keras", "model.weights.h5"])
    def test_those_of_another_width_are_refused(self, name: str, tmp_path: Path) -> None:
        path = self.saved(tmp_path, name, alpha=0.5)
        with pytest.raises(WeightsError, match=r"cannot be loaded.*of alpha 0\.35"):
            mobilenet.build_model(Config(alpha=0.35, weights=path), SIZE, 2)

    def test_a_missing_file_is_refused(self) -> None:
        with pytest.raises(WeightsError, match=r"none\.h5 cannot be loaded"):
            mobilenet.build_model(Config(alpha=0.35, weights="/none.h5"), SIZE, 2)
