"""The BiT-HyperRule at its borders, and what training by it does."""

from __future__ import annotations

import logging
import re
from collections.abc import Generator
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf
from pydantic import BaseModel

from tests.kit.training import fitted, split
from trainer_module import augmentation, input_pipeline
from trainer_module.input_pipeline import Split
from trainer_module.recipes import bit
from trainer_module.recipes.base import EpochMetrics, Phase, TrainingData
from trainer_module.recipes.bit import Config, hyper_rule
from trainer_module.schedules import WarmupStaircase
from trainer_module.training import bit as training

SEED = tf.constant([3, 4], tf.int64)


def coloured(count: int, size: int, seed: int = 0) -> Split:
    """Noise whose red channel is brighter in class 1."""
    random = np.random.default_rng(seed)
    images = random.integers(0, 100, (count, size, size, 3), np.uint8)
    labels = np.arange(count) % 2
    images[labels == 1, ..., 0] += 100
    return split(images, labels)


class TestHyperRule:
    @pytest.mark.parametrize(
        ("images", "steps", "mixup"),
        [
            (1, (100, 200, 300, 400, 500), 0.0),
            (19_999, (100, 200, 300, 400, 500), 0.0),
            (20_000, (500, 3000, 6000, 9000, 10000), 0.1),
            (499_999, (500, 3000, 6000, 9000, 10000), 0.1),
            (500_000, (500, 6000, 12000, 18000, 20000), 0.1),
        ],
    )
    def test_schedule_and_mixup_follow_the_number_of_images(
        self, images: int, steps: tuple[int, ...], mixup: float
    ) -> None:
        rule = hyper_rule(Config(), images, 512)
        patience = steps[-1] // 5
        assert rule == bit.Rule(learning_rate=0.003, steps=steps, mixup=mixup, patience=patience)

    def test_another_batch_scales_the_rate_and_every_step(self) -> None:
        rule = hyper_rule(Config(), 19_999, 64)
        assert rule.learning_rate == 0.003 / 8
        assert rule.steps == (800, 1600, 2400, 3200, 4000)
        assert hyper_rule(Config(), 20_000, 1024).steps == (250, 1500, 3000, 4500, 5000)

    def test_every_value_can_be_overridden(self) -> None:
        config = Config(learning_rate=0.1, schedule=(10, 20), mixup=0.0, patience=7)
        rule = hyper_rule(config, 600_000, 256)
        assert rule == bit.Rule(learning_rate=0.05, steps=(20, 40), mixup=0.0, patience=14)
        assert hyper_rule(Config(patience=0), 10, 512).patience == 0
        assert hyper_rule(Config(mixup=0.2), 10, 512).mixup == 0.2

    def test_a_given_length_stretches_the_whole_schedule(self) -> None:
        rule = hyper_rule(Config(), 100, 64, total_steps=50)
        assert rule.steps == (10, 20, 30, 40, 50)
        assert rule.patience == 10

    @pytest.mark.parametrize(
        ("height", "width", "resolution", "sizes"),
        [
            (95, 97, "code", (160, 128)),
            (97, 95, "paper", (160, 128)),
            (96, 96, "code", (512, 480)),
            (96, 96, "paper", (448, 384)),
        ],
    )
    def test_resolution_follows_the_area_of_the_images(
        self, height: int, width: int, resolution: str, sizes: tuple[int, int]
    ) -> None:
        config = Config.model_validate({"resolution": resolution})
        train, model = sizes
        found = bit.image_sizes(config, height, width)
        assert found == {"train_size": train, "image_size": model}
        straight = config.model_copy(update={"crop": False})
        assert bit.image_sizes(straight, height, width) == {"image_size": model}


class TestWarmupStaircase:
    schedule = WarmupStaircase(3.0, (100, 200, 300, 400, 500))

    @pytest.mark.parametrize(
        ("step", "rate"),
        [
            (0, 0.0),
            (1, 0.03),
            (50, 1.5),
            (99, 2.97),
            (100, 3.0),
            (101, 3.0),
            (200, 3.0),
            (201, 0.3),
            (300, 0.3),
            (301, 0.03),
            (400, 0.03),
            (401, 0.003),
            (499, 0.003),
            (500, 0.003),
            (501, 0.003),
            (10_000, 0.003),
        ],
    )
    def test_rate_at_each_boundary_and_one_step_after(self, step: int, rate: float) -> None:
        assert float(self.schedule(step)) == pytest.approx(rate, rel=1e-6)
        assert float(self.schedule(tf.constant(step, tf.int64))) == pytest.approx(rate, rel=1e-6)

    def test_survives_a_round_trip_through_its_config(self) -> None:
        optimizer = keras.optimizers.SGD(WarmupStaircase(1.0, (2, 4, 6)))
        copy = keras.optimizers.deserialize(keras.optimizers.serialize(optimizer))
        assert copy._learning_rate.get_config() == optimizer._learning_rate.get_config()


def only_phase(
    config: Config, *, size: int = 100, batch_size: int = 10, epochs: int | None = None
) -> Phase:
    model = training.build_model(config, 32, 2)
    pixels = coloured(4, 36 if config.crop else 32).images.map(lambda image, _: image)
    (phase,) = training.phases(config, model, TrainingData(pixels, size, batch_size, epochs))
    return phase


class TestPhases:
    def test_every_derived_value_is_told(self, caplog: pytest.LogCaptureFixture) -> None:
        with caplog.at_level(logging.INFO, "perennial.progress"):
            only_phase(Config(variant="tiny"), size=30_000, batch_size=256)
        (told,) = [record.fields["text"] for record in caplog.records]  # type: ignore[attr-defined]
        assert re.findall(r"\d[\d.]*", told) == [
            *("30000", "256", "36", "32"),  # images, a step, pixels before and after the crop
            *("0.0015", "1000"),  # learning rate, steps of warm-up
            *("10", "6000", "12000", "18000"),  # a tenth of the rate after these steps
            *("20000", "170", "0.1"),  # steps, epochs at most, mixup
        ]

    def test_without_epochs_the_rule_ends_the_training(self) -> None:
        phase = only_phase(Config(variant="tiny"), size=3_000, batch_size=64)
        assert phase.optimizer._learning_rate.steps == (800, 1600, 2400, 3200, 4000)
        assert phase.epochs == 86  # of 47 steps each

    def test_the_schedule_ends_with_the_last_of_the_given_epochs(self) -> None:
        phase = only_phase(Config(variant="tiny"), epochs=5)
        assert phase.epochs == 5
        assert phase.optimizer._learning_rate.steps == (10, 20, 30, 40, 50)

    def test_crop_flip_and_mixup_can_each_be_switched_off(self) -> None:
        images, labels = next(iter(coloured(8, 36).images.batch(8)))
        off = Config(variant="tiny", crop=False, flip=False)
        assert only_phase(off).augment is None
        cropped = only_phase(Config(variant="tiny", flip=False)).augment
        assert cropped
        result, same = cropped(images, labels, SEED)
        assert result.shape == (8, 32, 32, 3)
        np.testing.assert_array_equal(same, labels)
        mixed = only_phase(Config(variant="tiny", crop=False, flip=False, mixup=0.1))
        assert mixed.augment
        assert mixed.augment(images, labels, SEED)[1].shape == (8, 2)

    def test_training_learns_with_mixup_and_keeps_the_best_epoch(self) -> None:
        config = Config(variant="tiny", learning_rate=4.0, mixup=0.1, patience=0)
        evaluation = coloured(9, 32, seed=1)
        trained = fitted("bit", config, coloured(32, 36), evaluation, batch_size=8, epochs=4)
        best = max(row["val_accuracy"] for row in trained.epochs)
        assert best == trained.best["val_accuracy"] > 0.8
        # The last batch of 9 images holds one: none is dropped.
        logits = trained.model.predict(evaluation.images.batch(8), verbose=0)
        accuracy = np.mean(logits.argmax(1) == np.arange(9) % 2)
        assert accuracy == pytest.approx(best)

    def test_a_batch_taken_in_parts_trains_alike(self) -> None:
        """How the rule's 512 images a step fit into a small memory."""
        config = Config(variant="tiny", crop=False, learning_rate=2.0, mixup=0.1)

        data = (coloured(16, 32), coloured(4, 32, seed=1))
        of_one, of_four = (
            fitted("bit", config, *data, batch_size=8, epochs=2, gradient_accumulation=parts)
            for parts in (1, 4)
        )
        weights = (of_one.model.get_weights(), of_four.model.get_weights())
        for whole, parts in zip(*weights, strict=True):
            np.testing.assert_allclose(whole, parts, rtol=1e-3, atol=1e-4)

    @pytest.mark.parametrize(
        ("patience", "warmup", "epochs"),
        [(6, 0, 4), (5, 0, 4), (1, 0, 2), (6, 8, 7), (1, 8, 5), (6, 39, 20), (0, 0, 20)],
    )
    def test_training_stops_after_steps_without_a_better_epoch_but_not_in_the_warm_up(
        self, patience: int, warmup: int, epochs: int
    ) -> None:
        recipe, data = Hopeless(patience, warmup), coloured(8, 4)
        # 2 steps an epoch.
        trained = fitted(recipe, Config(), data, data, batch_size=4, epochs=20)
        assert [row["epoch"] for row in trained.epochs] == list(range(1, epochs + 1))
        assert trained.best["epoch"] == 1

    def test_a_head_of_zeros_lives_through_its_warm_up(self) -> None:
        """Of 500 images the rule's warm-up is a hundred epochs, in which little is learned."""
        phase = only_phase(Config(variant="tiny"), size=500, batch_size=64)
        assert (phase.warmup, phase.patience) == (800, 800)
        assert phase.optimizer._learning_rate.steps[0] == phase.warmup


class Linear:
    """The network of a recipe: linear in the average of an image."""

    Config: type[BaseModel] = Config

    def check(self, config: Any, image_size: int, train_size: int) -> None:
        pass

    def build_model(self, config: Any, image_size: int, num_classes: int) -> keras.Model:
        images = keras.Input((image_size, image_size, 3), dtype="uint8")
        x = keras.layers.GlobalAveragePooling2D()(keras.layers.Rescaling(1 / 255)(images))
        return keras.Model(images, keras.layers.Dense(num_classes)(x))


class Worsening(Linear):
    """A recipe of two phases that unlearns what its first epoch knows."""

    def phases(
        self, config: Any, model: keras.Model, data: TrainingData
    ) -> Generator[Phase, EpochMetrics, None]:
        for _ in range(2):
            # Uphill.
            yield Phase(
                2, keras.optimizers.SGD(keras.optimizers.schedules.CosineDecay(-9, 99)), None
            )


@pytest.mark.parametrize(("keep", "epoch"), [("best", 1), ("last", 4)])
def test_the_result_is_the_best_epoch_or_the_last(keep: str, epoch: int) -> None:
    train, evaluation = coloured(8, 4), coloured(8, 4, seed=1)
    trained = fitted(Worsening(), Config(), train, evaluation, batch_size=4, epochs=4, keep=keep)
    losses = [row["val_loss"] for row in trained.epochs]
    assert losses[0] < losses[-1]
    assert trained.best["epoch"] == epoch
    logits = trained.model.predict(evaluation.images.batch(8), verbose=0)
    loss = keras.losses.SparseCategoricalCrossentropy(True)(evaluation.labels, logits)
    assert float(loss) == pytest.approx(losses[epoch - 1], rel=1e-4)


class Hopeless(Linear):
    """A recipe that learns nothing."""

    def __init__(self, patience: int, warmup: int) -> None:
        self.patience, self.warmup = patience, warmup

    def phases(
        self, config: Any, model: keras.Model, data: TrainingData
    ) -> Generator[Phase, EpochMetrics, None]:
        assert data.epochs
        sgd = keras.optimizers.SGD(0.0)
        yield Phase(data.epochs, sgd, None, patience=self.patience, warmup=self.warmup)


def test_the_rules_own_sizes_pass() -> None:
    for config in (Config(), Config(crop=False)):
        sizes = bit.image_sizes(config, 500, 400)
        bit.check(config, sizes["image_size"], sizes.get("train_size", sizes["image_size"]))


class TestAugmentation:
    numbered = tf.cast(tf.reshape(tf.range(8 * 6 * 6 * 3) % 251, [8, 6, 6, 3]), tf.uint8)

    def test_crops_are_exact_and_at_places_of_their_own(self) -> None:
        crops = augmentation.random_crop(tf.repeat(self.numbered[:1], 200, 0), SEED, 4)
        windows = {
            self.numbered[0, y : y + 4, x : x + 4].numpy().tobytes()
            for y in range(3)
            for x in range(3)
        }
        assert {crop.numpy().tobytes() for crop in crops} == windows

    def test_resized_crops_keep_to_the_smallest_area_and_follow_the_seed(self) -> None:
        ramp = tf.tile(tf.cast(tf.range(100), tf.uint8)[None, None, :, None], [64, 100, 1, 3])

        def widths(seed: int, min_area: float) -> np.ndarray:
            pixels = (
                augmentation.random_resized_crop(
                    ramp, tf.constant([0, seed], tf.int64), 50, min_area=min_area, antialias=True
                )
                .numpy()[:, 25, :, 0]
                .astype(int)
            )
            return pixels[:, -1] - pixels[:, 0] + 2

        assert widths(0, 0.05).min() < 40
        assert widths(0, 0.81).min() >= np.sqrt(0.81 * 3 / 4) * 100 - 3
        assert len(np.unique(widths(0, 0.05))) > 10
        np.testing.assert_array_equal(widths(1, 0.05), widths(1, 0.05))
        assert (widths(1, 0.05) != widths(2, 0.05)).any()

    def test_resized_crops_of_a_squeezed_photo_have_the_proportions_of_the_original(self) -> None:
        """Columns and rows number the places in a photo of 4 to 3."""
        height, width, size = 300, 400, 120
        rows, columns = np.meshgrid(np.arange(size), np.arange(size), indexing="ij")
        square = np.stack([rows, columns, columns], -1)[None].repeat(200, 0).astype(np.uint8)
        frame = np.array([[height, width]] * 200)

        def proportions(images: Any) -> np.ndarray:
            crops = (
                augmentation.random_resized_crop(images, SEED, 60, min_area=0.2, antialias=False)
                .numpy()
                .astype(float)
            )
            tall = (crops[:, -1, 0, 0] - crops[:, 0, 0, 0]) * height / size
            wide = (crops[:, 0, -1, 1] - crops[:, 0, 0, 1]) * width / size
            return wide / tall

        framed = proportions(input_pipeline.Framed(tf.constant(square), tf.constant(frame)))
        assert framed.min() == pytest.approx(0.75, abs=0.07)
        assert framed.max() == pytest.approx(1.33, abs=0.12)
        squeezed = proportions(tf.constant(square))
        assert squeezed.max() > 1.6

    def test_mixup_blends_with_the_reversed_batch_by_one_share(self) -> None:
        labels = tf.constant([0, 1, 2, 0, 1, 2, 0, 1], tf.int64)
        images, blended = augmentation.mixup(self.numbered, labels, SEED, alpha=0.9, num_classes=3)
        share = float(blended[0, 0])
        assert 0.01 < share < 0.99
        one_hot = np.eye(3)[labels.numpy()]
        np.testing.assert_allclose(
            blended, share * one_hot + (1 - share) * one_hot[::-1], atol=1e-6
        )
        pixels = self.numbered.numpy().astype(float)
        mixed = share * pixels + (1 - share) * pixels[::-1]
        assert np.abs(images.numpy() - mixed).max() <= 0.501

    def test_mixups_share_is_always_a_number_and_spread_as_beta(self) -> None:
        labels = tf.constant([0, 1], tf.int64)
        shares = np.array(
            [
                augmentation.mixup(
                    self.numbered[:2],
                    labels,
                    tf.constant([0, seed], tf.int64),
                    alpha=0.1,
                    num_classes=2,
                )[1][0, 0]
                for seed in range(300)
            ]
        )
        assert np.isfinite(shares).all()
        assert ((shares >= 0) & (shares <= 1)).all()
        # Beta(0.1, 0.1) has mean 0.5 and standard deviation 0.456.
        assert shares.mean() == pytest.approx(0.5, abs=0.1)
        assert shares.std() == pytest.approx(0.456, abs=0.05)


def test_training_unaugmented_sees_what_evaluation_sees() -> None:
    data = coloured(5, 32)
    phase = only_phase(Config(variant="tiny", crop=False, flip=False))
    training = input_pipeline.training_batches(data, 5, 0, phase.augment, epochs=range(1))
    evaluation = input_pipeline.evaluation_batches(data, 5)
    seen = {image.numpy().tobytes() for image in next(iter(training))[0]}
    assert seen == {image.numpy().tobytes() for image in next(iter(evaluation))[0]}
