"""Training: what is read, what is learned, what is reported, and what is refused."""

from __future__ import annotations

import itertools
import json
import logging
import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf

from components import features, progress
from components.errors import BadDataError
from tests.kit.transformed import Transformed, run_transform, serialized
from trainer_module import export, fit, input_pipeline, recipes, reports, run_fn, transform
from trainer_module.history import HISTORY_FILE
from trainer_module.input_pipeline import Replicas, Split
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


def write(path: Path, labels: Sequence[int], size: int = 2) -> Path:
    """Write transformed examples, the n-th of which has n in all of its pixels."""
    options = tf.io.TFRecordOptions("GZIP" if path.suffix == ".gz" else "")
    with tf.io.TFRecordWriter(str(path), options) as writer:
        for index, label in enumerate(labels):
            row = {
                transform.IMAGE_KEY: bytes([index]) * size**2 * 3,
                transform.LABEL_KEY: label,
                features.SHA256: b"ignored",
            }
            writer.write(serialized(row))
    return path


def read(path: Path, split: str = "training") -> Split:
    return input_pipeline.read([f"{path}*"], 2, CLASSES, split)


def order(dataset: tf.data.Dataset) -> list[list[int]]:
    return [batch[0][:, 0, 0, 0].tolist() for batch in dataset.as_numpy_iterator()]


class TestReading:
    @pytest.mark.parametrize("name", ["split.gz", "split"])
    def test_plain_and_gzipped_records(self, name: str, tmp_path: Path) -> None:
        split = read(write(tmp_path / name, [0, 1, 1]))
        assert split.size == 3
        assert split.counts.tolist() == [1, 2]
        pixels, labels = zip(*split.images.as_numpy_iterator(), strict=True)
        np.testing.assert_array_equal(
            pixels, np.arange(3)[:, None, None, None] * np.ones((2, 2, 3))
        )
        assert [image.dtype for image in pixels] == [np.uint8] * 3
        assert list(labels) == [0, 1, 1]

    def test_reads_again_what_does_not_fit_in_memory(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(input_pipeline, "_capacity", lambda image_size: 1)
        path = write(tmp_path / "split", [0, 1])
        split = read(path)
        assert len(list(split.images)) == 2
        path.unlink()
        with pytest.raises(tf.errors.NotFoundError):
            list(split.images)

    def test_keeps_on_disk_what_does_not_fit_in_memory(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(input_pipeline, "memory_limit", lambda: 64)
        path, cache = write(tmp_path / "split", [0, 1, 1]), tmp_path / "cache"
        cache.mkdir()
        split = input_pipeline.read([str(path)], 2, CLASSES, "training", cache_dir=str(cache))
        path.unlink()
        assert [int(label) for _, label in split.images] == [0, 1, 1]
        assert any(cache.iterdir())

    def test_a_container_s_limit_counts_too(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        limit = tmp_path / "memory.max"
        monkeypatch.setattr(input_pipeline, "MEMORY_LIMITS", [str(limit)])
        without = input_pipeline.memory_limit()
        limit.write_text("4096\n")
        assert input_pipeline.memory_limit() == 4096
        limit.write_text("max\n")
        assert input_pipeline.memory_limit() == without

    def test_keeps_in_memory_what_fits(self, tmp_path: Path) -> None:
        path = write(tmp_path / "split", [0, 1])
        split = read(path)
        assert len(list(split.images)) == 2
        path.unlink()
        assert len(list(split.images)) == 2

    def test_another_image_size_than_transform_s_is_refused(self, tmp_path: Path) -> None:
        path = write(tmp_path / "split", [0, 1], size=4)
        with pytest.raises(tf.errors.InvalidArgumentError, match="reshape"):
            list(read(path).images)

    def test_an_empty_split_is_bad_data(self, tmp_path: Path) -> None:
        with pytest.raises(BadDataError, match="the evaluation split has no images; add"):
            read(tmp_path / "absent", "evaluation")
        with pytest.raises(BadDataError, match="the training split has no images; add"):
            read(write(tmp_path / "empty.gz", []))

    @pytest.mark.parametrize("label", [-1, 2])
    def test_a_class_that_the_schema_does_not_list_is_bad_data(
        self, label: int, tmp_path: Path
    ) -> None:
        with pytest.raises(BadDataError, match="1 images of the training split are of a class"):
            read(write(tmp_path / "split", [0, label, 1]))

    def test_one_class_only_is_bad_data(self, tmp_path: Path) -> None:
        split = input_pipeline.read(
            [str(write(tmp_path / "split", [0, 0]))], 2, ["cat"], "training"
        )
        with pytest.raises(BadDataError, match="at least two classes, the data has 1: cat"):
            input_pipeline.check_trainable(split, ["cat"])

    def test_a_class_without_training_images_is_bad_data(self, tmp_path: Path) -> None:
        split = read(write(tmp_path / "split", [0, 0]))
        with pytest.raises(BadDataError, match="no image of 1 of 2 classes: stripe; add"):
            input_pipeline.check_trainable(split, CLASSES)


class TestBatches:
    @pytest.fixture
    def split(self, tmp_path: Path) -> Split:
        return read(write(tmp_path / "split", [0, 1] * 5))

    @staticmethod
    def epoch(
        split: Split, batch_size: int = 4, seed: int = 0, epoch: int = 0, **options: Any
    ) -> list[list[int]]:
        epochs = range(epoch, epoch + 1)
        return order(
            input_pipeline.training_batches(split, batch_size, seed, None, epochs=epochs, **options)
        )

    def test_an_epoch_of_training_holds_every_image_once(self, split: Split) -> None:
        for epoch in range(3):
            batches = self.epoch(split, epoch=epoch)
            assert [len(batch) for batch in batches] == [4, 4, 2]
            assert sorted(itertools.chain(*batches)) == list(range(10))

    def test_order_is_the_seed_s_and_another_every_epoch(self, split: Split) -> None:
        assert self.epoch(split, seed=1) == self.epoch(split, seed=1)
        assert self.epoch(split, seed=1) != self.epoch(split, seed=2)
        orders = {str(self.epoch(split, seed=1, epoch=epoch)) for epoch in range(3)}
        assert len(orders) == 3

    def test_any_step_of_any_epoch_can_be_begun_with(self, split: Split) -> None:
        def augment(x: tf.Tensor, y: tf.Tensor, seed: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
            return tf.cast(x, tf.int64) + 1000 * seed[0] + 100 * seed[1], y

        def batches(**options: Any) -> list[list[int]]:
            return order(input_pipeline.training_batches(split, 3, 7, augment, **options))

        both = batches(epochs=range(5, 7))
        assert batches(epochs=range(5, 7), first_step=2) == both[2:]
        assert batches(epochs=range(6, 7)) == both[4:]

    @pytest.mark.parametrize("program", [None, 0, 3])
    def test_order_does_not_follow_the_program_s_seed(
        self, split: Split, program: int | None
    ) -> None:
        before = self.epoch(split)
        if program is not None:
            tf.random.set_seed(program)
        assert self.epoch(split) == before

    def test_every_step_augments_with_a_seed_of_its_own(self, split: Split) -> None:
        def augment(x: tf.Tensor, y: tf.Tensor, seed: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
            return tf.cast(tf.zeros_like(x), tf.int64) + seed[0] * 100 + seed[1], y

        batches = input_pipeline.training_batches(split, 4, 7, augment, epochs=range(2))
        seeds = [batch[0] for batch in order(batches)]
        assert len(set(seeds)) == 6

    @pytest.mark.parametrize("size", [3, 4, 9])
    def test_replicas_share_every_batch_and_none_is_without_an_image(
        self, split: Split, size: int
    ) -> None:
        replicas = [
            list(
                input_pipeline.training_batches(
                    split,
                    size,
                    1,
                    None,
                    epochs=range(1),
                    replicas=Replicas(total=4, first=first, local=2),
                ).as_numpy_iterator()
            )
            for first in (0, 2)
        ]
        whole = self.epoch(split, size, 1)
        for step, batch in enumerate(whole):
            parts = [each[2 * step + local] for each in replicas for local in (0, 1)]
            seen = [
                int(image[0, 0, 0])
                for images, _, weights, _ in parts
                for image, weight in zip(images, weights, strict=True)
                if weight
            ]
            assert sorted(seen) == sorted(batch)
            assert all(len(images) >= 1 for images, *_ in parts)
            assert {float(total) for *_, total in parts} == {len(batch)}

    def test_class_weights_make_classes_equal_and_average_to_one(self, tmp_path: Path) -> None:
        split = read(write(tmp_path / "split", [0] * 9 + [1]))
        batches = input_pipeline.training_batches(
            split, 4, 0, None, epochs=range(1), balance="class_weight"
        )
        weights = np.zeros(2)
        for _, labels, each, _ in batches.as_numpy_iterator():
            np.add.at(weights, labels, each)
        np.testing.assert_allclose(weights, [5, 5], rtol=1e-6)

    def test_balanced_sampling_shows_as_many_images_of_each_class(self, tmp_path: Path) -> None:
        split = read(write(tmp_path / "split", [0] * 9 + [1] * 2))
        epochs = [
            list(itertools.chain(*self.epoch(split, epoch=epoch, balance="sampling")))
            for epoch in range(8)
        ]
        assert input_pipeline.epoch_size(split, "sampling") == 12
        for seen in epochs:
            assert sum(image < 9 for image in seen) == sum(image >= 9 for image in seen) == 6
        assert set(itertools.chain(*epochs)) == set(range(11)), "some image is never shown"

    def test_evaluation_holds_every_image_once_in_order(self, split: Split) -> None:
        batches = input_pipeline.evaluation_batches(split, 4)
        assert order(batches) == [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9]]


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
            match=r"the loss is \w+ in epoch \d.* at learning rate 1e\+30: "
            r"lower train\.hyperparameters\.learning_rate, or raise train\.batch_size \(now 16\)",
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
