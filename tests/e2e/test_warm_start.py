"""Warm start: what a training takes over from an earlier model."""

from __future__ import annotations

import re
from pathlib import Path

import keras
import numpy as np
import pytest

from trainer_module import warm_start
from trainer_module.warm_start import WarmStartError


def network(classes: int, width: int = 4) -> keras.Model:
    layers = [
        keras.Input((3,)),
        keras.layers.Dense(width, name="hidden"),
        keras.layers.Dropout(0.1, name="drop"),
        keras.layers.Dense(classes, name="logits"),
    ]
    return keras.Sequential(layers, name="network")


def saved(folder: Path, classes: list[str]) -> tuple[keras.Model, str]:
    serving = str(folder / "Format-Serving")
    earlier = network(len(classes))
    earlier.get_layer("logits").bias.assign(np.arange(1, len(classes) + 1))
    warm_start.save(earlier, classes, serving)
    return earlier, serving


class TestWeights:
    def test_equal_classes_take_over_everything(self, tmp_path: Path) -> None:
        earlier, serving = saved(tmp_path, ["cat", "dog"])
        new = network(2)
        warm_start.load(new, ["cat", "dog"], serving)
        for old, weight in zip(earlier.get_weights(), new.get_weights(), strict=True):
            np.testing.assert_array_equal(old, weight)

    def test_kept_classes_keep_their_head_weights_and_new_ones_begin_anew(
        self, tmp_path: Path
    ) -> None:
        earlier, serving = saved(tmp_path, ["ant", "cat", "dog"])
        new = network(3)
        before = new.get_layer("logits").kernel.numpy()
        told = warm_start.load(new, ["bee", "cat", "ant"], serving)
        kernel, bias = new.get_layer("logits").get_weights()
        old = earlier.get_layer("logits").kernel.numpy()
        np.testing.assert_array_equal(kernel[:, 0], before[:, 0])
        np.testing.assert_array_equal(kernel[:, 1], old[:, 1])
        np.testing.assert_array_equal(kernel[:, 2], old[:, 0])
        assert bias.tolist() == [0, 2, 1]
        np.testing.assert_array_equal(
            new.get_layer("hidden").kernel, earlier.get_layer("hidden").kernel
        )
        assert re.search(r"\b2 of 3 .*\b1 of ", told)

    @pytest.mark.parametrize("other", [network(2, width=5), keras.Sequential([keras.Input((3,))])])
    def test_another_architecture_is_refused_and_changes_nothing(
        self, tmp_path: Path, other: keras.Model
    ) -> None:
        _, serving = saved(tmp_path, ["cat", "dog"])
        other = keras.models.clone_model(other)
        other.add(keras.layers.Dense(2))
        before = other.get_weights()
        with pytest.raises(WarmStartError, match=rf"{tmp_path}/\S+ .*\b4 .*train\.warm_start"):
            warm_start.load(other, ["cat", "dog"], serving)
        for old, weight in zip(before, other.get_weights(), strict=True):
            np.testing.assert_array_equal(old, weight)

    def test_a_model_without_its_weights_is_refused(self, tmp_path: Path) -> None:
        with pytest.raises(
            WarmStartError, match=rf"{tmp_path}/\S+ .*No such file.*train\.warm_start"
        ):
            warm_start.load(network(2), ["cat", "dog"], str(tmp_path / "Format-Serving"))

    def test_pickled_objects_are_not_loaded(self, tmp_path: Path) -> None:
        _, serving = saved(tmp_path, ["cat", "dog"])
        (file,) = tmp_path.rglob("*.npz")
        with np.load(file) as arrays:
            harmful = {**arrays, "weights/0": np.array([print], dtype=object)}
        np.savez(file, **harmful)
        with pytest.raises(WarmStartError, match="allow_pickle=False"):
            warm_start.load(network(2), ["cat", "dog"], serving)
