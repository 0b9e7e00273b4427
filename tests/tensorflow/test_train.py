"""Training: what is read, what is learned, what is reported, and what is refused."""

from __future__ import annotations

import json
import logging
import math
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf

from components import progress
from tests.kit.transformed import Transformed, run_transform
from trainer_module import export, fit, input_pipeline, recipes, reports, run_fn
from trainer_module.history import HISTORY_FILE
from trainer_module.recipes.base import Module, Phase

SIZE = 8


CLASSES = ["ring", "stripe"]


TINY = {
    "patch_size": 4,
    "dim": 8,
    "depth": 1,
    "heads": 2,
    "key_dim": 4,
    "mlp_dim": 8,
    "head_dims": [16],
    "learning_rate": 0.01,
    "flip": False,
}


def encoded(label: str, index: int) -> bytes:
    """Make a PNG with a bright left or a bright right half, in noise of its own."""
    pixels = np.random.default_rng(index).integers(0, 120, (SIZE, SIZE, 3), dtype=np.uint8)
    columns = slice(0, 4) if label == CLASSES[0] else slice(4, 8)
    pixels[:, columns] += 80
    return bytes(tf.io.encode_png(pixels).numpy())


def images(count: int, start: int = 0) -> list[tuple[bytes, str]]:
    return [(encoded(CLASSES[i % 2], start + i), CLASSES[i % 2]) for i in range(count)]


@pytest.fixture(scope="module")
def transformed(tmp_path_factory: pytest.TempPathFactory) -> Transformed:
    splits = {"train": images(70), "eval": images(30, 1000)}
    return run_transform(tmp_path_factory.mktemp("transform"), splits, CLASSES, image_size=SIZE)


class TestRunFn:
    @pytest.fixture(scope="class")
    def events(self) -> list[logging.LogRecord]:
        return []

    @pytest.fixture(scope="class")
    def output(
        self,
        transformed: Transformed,
        tmp_path_factory: pytest.TempPathFactory,
        events: list[logging.LogRecord],
    ) -> Path:
        """Read what a run wrote."""
        output = tmp_path_factory.mktemp("trainer") / "execution"  # beside it go checkpoints
        output.mkdir()
        handler = logging.Handler()
        handler.emit = events.append  # type: ignore[method-assign, assignment]
        progress.LOGGER.addHandler(handler)
        level = progress.LOGGER.level
        progress.LOGGER.setLevel(logging.INFO)
        try:
            run_fn.run_fn(transformed.fn_args(output, hyperparameters=TINY, epochs=12))
        finally:
            progress.LOGGER.setLevel(level)
            progress.LOGGER.removeHandler(handler)
        return output

    @pytest.fixture(scope="class")
    def history(self, output: Path) -> dict[str, Any]:
        return json.loads((output / "run" / HISTORY_FILE).read_text())

    def test_history_tells_data_epochs_and_the_best_one(self, history: dict[str, Any]) -> None:
        assert history["images"] == {"train": 70, "eval": 30}
        assert history["seconds"] > 0
        epochs = history["epochs"]
        assert [epoch["epoch"] for epoch in epochs] == list(range(1, 13))
        best = epochs[history["best_epoch"] - 1]
        assert best["val_accuracy"] == max(epoch["val_accuracy"] for epoch in epochs)
        assert {"loss", "accuracy", "val_loss", "learning_rate", "images_per_s"} <= set(best)

    def test_learns_what_separates_the_classes(self, history: dict[str, Any]) -> None:
        assert max(epoch["val_accuracy"] for epoch in history["epochs"]) == 1.0

    def test_the_export_classifies_new_images(self, output: Path) -> None:
        test = images(20, 5000)
        predicted = export.run_in_session(
            str(output / "serving"), export.IMAGES, [image for image, _ in test]
        )
        assert [label.decode() for label in predicted["label"]] == [label for _, label in test]

    def test_the_export_has_the_weights_of_the_best_epoch(
        self, output: Path, history: dict[str, Any]
    ) -> None:
        test = images(30, 1000)
        predicted = export.run_in_session(
            str(output / "serving"), export.IMAGES, [image for image, _ in test]
        )
        labels = [CLASSES.index(label) for _, label in test]
        likelihood = predicted["probabilities"][np.arange(30), labels]
        best = history["epochs"][history["best_epoch"] - 1]
        assert -np.log(likelihood).mean() == pytest.approx(best["val_loss"], rel=1e-3)

    def test_reports_every_epoch_and_the_last_step_of_each(
        self, output: Path, events: list[Any], history: dict[str, Any]
    ) -> None:
        epochs = [event.fields for event in events if event.msg == "epoch"]
        assert [(fields["epoch"], fields["epochs"]) for fields in epochs] == [
            (epoch, 12) for epoch in range(1, 13)
        ]
        assert epochs[3]["val_loss"] == history["epochs"][3]["val_loss"]
        every = [event.fields for event in events if event.msg == "step"]
        steps = [step for step in every if step["what"] == "train"]
        assert {(step["what"], step["unit"], step["total"]) for step in steps} == {
            ("train", "steps", 12 * 5)
        }
        done = [step["done"] for step in steps]
        assert done == sorted(set(done))
        assert set(range(5, 61, 5)) <= set(done)
        for step in steps:
            assert step["images_per_s"] > 0
            assert math.isfinite(step["loss"])
            assert 0 <= step["accuracy"] <= 1
        json.dumps([event.fields for event in events])

    def test_what_tensorboard_shows_is_one_value_an_epoch(
        self, output: Path, history: dict[str, Any]
    ) -> None:
        for folder, key in (("train", "loss"), ("eval", "val_loss")):
            [file] = (output / "run" / "logs" / folder).iterdir()
            values = {
                event.step: tf.make_ndarray(value.tensor)
                for event in tf.compat.v1.train.summary_iterator(str(file))
                for value in event.summary.value
                if value.tag == "epoch_loss"
            }
            expected = {epoch["epoch"]: epoch[key] for epoch in history["epochs"]}
            assert values == pytest.approx(expected, rel=1e-6)

    def test_samples_are_a_training_image_of_each_class_and_its_augmented_versions(
        self, output: Path
    ) -> None:
        with np.load(output / "run" / reports.SAMPLES_FILE) as arrays:
            images, labels = arrays["images"], arrays["labels"]
        assert sorted(labels) == list(range(len(CLASSES)))
        assert images.shape == (len(CLASSES), 1 + reports.VARIANTS, SIZE, SIZE, 3)
        assert images.dtype == np.uint8
        for version in range(1, 1 + reports.VARIANTS):
            assert (images[:, version] != images[:, 0]).any()

    def test_nothing_is_left_of_the_checkpoints(self, output: Path) -> None:
        assert not [path for path in output.parent.rglob("*.npz*") if "checkpoints" in str(path)]

    def test_the_next_training_can_begin_from_the_model(
        self, output: Path, transformed: Transformed, tmp_path: Path, history: dict[str, Any]
    ) -> None:
        args = transformed.fn_args(
            tmp_path, hyperparameters={**TINY, "learning_rate": 1e-9}, epochs=1
        )
        args.base_model = str(output / "serving")
        run_fn.run_fn(args)
        told = json.loads((tmp_path / "run" / HISTORY_FILE).read_text())
        warm = told["epochs"][0]
        best = history["epochs"][history["best_epoch"] - 1]
        assert warm["val_loss"] == pytest.approx(best["val_loss"], rel=1e-4)
        assert (history["base_model"], told["base_model"]) == ("", args.base_model)

    def test_a_loss_that_is_no_number_stops_it_and_says_what_to_change(
        self, transformed: Transformed, tmp_path: Path
    ) -> None:
        args = transformed.fn_args(
            tmp_path, hyperparameters={**TINY, "learning_rate": 1e30}, epochs=3
        )
        with pytest.raises(
            fit.DivergedError,
            match=r"epoch \d.* 1e\+30: .*train\.hyperparameters\.learning_rate, "
            r".*train\.batch_size \(now 16\)",
        ):
            run_fn.run_fn(args)
        assert not (tmp_path / "serving").exists()


class TestFit:
    def train(self, transformed: Transformed, seed: int) -> list[np.ndarray]:
        recipe = recipes.get("vit")
        keras.utils.set_random_seed(seed)
        tf.config.experimental.enable_op_determinism()
        trained = fit.fit(
            recipe,
            recipe.Config(**{**TINY, "flip": True}),
            train=input_pipeline.read(transformed.files("train"), SIZE, CLASSES, "training"),
            evaluation=input_pipeline.read(transformed.files("eval"), SIZE, CLASSES, "evaluation"),
            image_size=SIZE,
            num_classes=2,
            batch_size=16,
            epochs=2,
            seed=seed,
        )
        weights: list[np.ndarray] = trained.model.get_weights()
        return weights

    def test_equal_seeds_give_bit_equal_weights(self, transformed: Transformed) -> None:
        first, again, other = (self.train(transformed, seed) for seed in (3, 3, 4))
        for one, two in zip(first, again, strict=True):
            np.testing.assert_array_equal(one, two)
        assert any(np.any(one != two) for one, two in zip(first, other, strict=True))

    def test_keeps_the_best_epoch_of_all_phases(self, transformed: Transformed) -> None:
        """The first of two phases learns, the second wrecks the model."""

        def build_model(config: Any, image_size: int, num_classes: int) -> keras.Model:
            layers = [
                keras.Input((image_size, image_size, 3), dtype="uint8"),
                keras.layers.Rescaling(1 / 255),
                keras.layers.Flatten(),
                keras.layers.Dense(num_classes),
            ]
            return keras.Sequential(layers)

        def phases(config: Any, model: keras.Model, *args: Any) -> Iterator[Phase]:
            yield Phase(3, keras.optimizers.Adam(0.01), None)
            model.set_weights([-weight for weight in model.get_weights()])
            yield Phase(2, keras.optimizers.SGD(1e-9), None)

        split = input_pipeline.read(transformed.files("train"), SIZE, CLASSES, "training")
        trained = fit.fit(
            Module(SimpleNamespace(build_model=build_model, phases=phases)),
            recipes.get("vit").Config(),
            train=split,
            evaluation=split,
            image_size=SIZE,
            num_classes=2,
            batch_size=16,
            epochs=5,
            seed=0,
        )
        assert [row["epoch"] for row in trained.epochs] == [1, 2, 3, 4, 5]
        assert trained.best["epoch"] <= 3
        assert trained.epochs[-1]["val_accuracy"] < trained.best["val_accuracy"]
        trained.model.compile(
            loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True),
            metrics=[keras.metrics.SparseCategoricalAccuracy()],
        )
        loss, accuracy = trained.model.evaluate(split.images.batch(70), verbose=0)
        assert loss == pytest.approx(trained.best["val_loss"], rel=1e-4)
        assert accuracy == pytest.approx(trained.best["val_accuracy"])
