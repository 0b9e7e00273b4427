"""Reading transformed examples and making batches of them for training."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tensorflow as tf

from components import features
from components.errors import BadDataError
from tests.kit.transformed import serialized
from trainer_module import input_pipeline, transform
from trainer_module.input_pipeline import Replicas, Split

CLASSES = ["ring", "stripe"]


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
        with pytest.raises(BadDataError, match=r"^the evaluation split "):
            read(tmp_path / "absent", "evaluation")
        with pytest.raises(BadDataError, match=r"^the training split "):
            read(write(tmp_path / "empty.gz", []))

    @pytest.mark.parametrize("label", [-1, 2])
    def test_a_class_that_the_schema_does_not_list_is_bad_data(
        self, label: int, tmp_path: Path
    ) -> None:
        with pytest.raises(BadDataError, match=r"^1 .*training split .*\bschema\b"):
            read(write(tmp_path / "split", [0, label, 1]))

    def test_one_class_only_is_bad_data(self, tmp_path: Path) -> None:
        split = input_pipeline.read(
            [str(write(tmp_path / "split", [0, 0]))], 2, ["cat"], "training"
        )
        with pytest.raises(BadDataError, match=r" two .* 1: cat;"):
            input_pipeline.check_trainable(split, ["cat"])

    def test_a_class_without_training_images_is_bad_data(self, tmp_path: Path) -> None:
        split = read(write(tmp_path / "split", [0, 0]))
        with pytest.raises(BadDataError, match=r"^the training split .* 1 of 2 .*: stripe;"):
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
