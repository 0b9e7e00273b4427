"""Warm start: which model a training begins from, and what it takes over from it."""

from __future__ import annotations

from pathlib import Path

import keras
import numpy as np
import pytest
from ml_metadata import MetadataStore
from ml_metadata.proto import metadata_store_pb2 as protos
from tfx.types import standard_artifacts

from components.warm_start_resolver.strategy import WarmStartStrategy
from tests.test_baseline_resolver import blessing, model
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
        assert "2 of 3 classes are known to it, 1 of its own are dropped" in told

    @pytest.mark.parametrize("other", [network(2, width=5), keras.Sequential([keras.Input((3,))])])
    def test_another_architecture_is_refused_and_changes_nothing(
        self, tmp_path: Path, other: keras.Model
    ) -> None:
        _, serving = saved(tmp_path, ["cat", "dog"])
        other = keras.models.clone_model(other)
        other.add(keras.layers.Dense(2))
        before = other.get_weights()
        with pytest.raises(WarmStartError, match=r"cannot be trained further.*train\.warm_start"):
            warm_start.load(other, ["cat", "dog"], serving)
        for old, weight in zip(before, other.get_weights(), strict=True):
            np.testing.assert_array_equal(old, weight)

    def test_a_model_without_its_weights_is_refused(self, tmp_path: Path) -> None:
        with pytest.raises(WarmStartError, match="it cannot be loaded"):
            warm_start.load(network(2), ["cat", "dog"], str(tmp_path / "Format-Serving"))

    def test_pickled_objects_are_not_loaded(self, tmp_path: Path) -> None:
        _, serving = saved(tmp_path, ["cat", "dog"])
        (file,) = tmp_path.rglob("*.npz")
        with np.load(file) as arrays:
            harmful = {**arrays, "weights/0": np.array([print], dtype=object)}
        np.savez(file, **harmful)
        with pytest.raises(WarmStartError, match="allow_pickle=False"):
            warm_start.load(network(2), ["cat", "dog"], serving)


class Store:
    """Metadata in memory: models made from examples."""

    def __init__(self) -> None:
        self.store = MetadataStore(protos.ConnectionConfig(fake_database={}))
        self.types = {
            name: self.store.put_artifact_type(protos.ArtifactType(name=name))
            for name in ("Examples", "Model")
        }
        self.trainer = self.store.put_execution_type(protos.ExecutionType(name="Trainer"))

    def examples(self) -> standard_artifacts.Examples:
        artifact = standard_artifacts.Examples()
        artifact.id = self.put("Examples")
        return artifact

    def put(self, name: str) -> int:
        [number] = self.store.put_artifacts([protos.Artifact(type_id=self.types[name])])
        return int(number)

    def train(self, examples: standard_artifacts.Examples) -> int:
        made = self.put("Model")
        [execution] = self.store.put_executions([protos.Execution(type_id=self.trainer)])
        self.store.put_events(
            [
                protos.Event(execution_id=execution, artifact_id=artifact, type=kind)
                for artifact, kind in (
                    (examples.id, protos.Event.INPUT),
                    (made, protos.Event.OUTPUT),
                )
            ]
        )
        return made

    def resolve(
        self, examples: standard_artifacts.Examples, verdicts: dict[int, bool]
    ) -> list[int]:
        resolved = WarmStartStrategy().resolve_artifacts(
            self.store,
            {
                "examples": [examples],
                "model": [model(number) for number in verdicts],
                "model_blessing": [blessing(number, ok) for number, ok in verdicts.items()],
            },
        )
        return [artifact.id for artifact in resolved["model"]]


class TestResolver:
    def test_begins_from_the_latest_blessed_model_of_other_data(self) -> None:
        store = Store()
        old, older, new = store.examples(), store.examples(), store.examples()
        first, second, rejected = store.train(older), store.train(old), store.train(old)
        assert store.resolve(new, {}) == []
        verdicts = {first: True, second: True, rejected: False}
        assert store.resolve(new, verdicts) == [second]

    def test_a_rerun_on_the_same_data_finds_what_the_first_run_found(self) -> None:
        store = Store()
        old, new = store.examples(), store.examples()
        first = store.train(old)
        before = store.resolve(new, {first: True})
        second = store.train(new)
        assert store.resolve(new, {first: True, second: True}) == before == [first]
