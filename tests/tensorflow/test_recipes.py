"""Recipes: what all of them must do, then the vision transformer's own rules."""

from __future__ import annotations

import contextlib
import subprocess
import sys
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pydantic
import pytest
import tensorflow as tf

from tests.kit.mobilenet import awaken
from trainer_module import augmentation, recipes, warm_start
from trainer_module.models.vit import Patches, small_vit
from trainer_module.recipes import vit
from trainer_module.recipes.base import Phase, TrainingData
from trainer_module.training import vit as training

# For every recipe, the smallest model that has all of its parts, for images of `size_of` it.
TINY: dict[str, dict[str, Any]] = {
    "bit": {"variant": "tiny", "crop": False, "learning_rate": 10.0},
    "fixres": {
        "base": "bit",
        "settings": {"variant": "tiny", "crop": False, "learning_rate": 10.0},
        "low": 7,
        "high": 8,
    },
    "mobilenet": {"alpha": 0.35, "weights": "none", "head_epochs": 3},
    "transfer": {"backbone": "MobileNetV3Small", "weights": "none", "head_epochs": 3},
    "vit_finetune": {"variant": "tiny/4", "learning_rate": 0.1},
    "vit": {
        "patch_size": 4,
        "dim": 4,
        "depth": 2,
        "heads": 2,
        "key_dim": 3,
        "mlp_dim": 5,
        "head_dims": [6],
    },
}
SIZE = 8
CLASSES = 3
STEPS = 4


def size_of(recipe: str) -> int:
    return 32 if recipe in ("mobilenet", "transfer") else SIZE  # these take no smaller ones


def pictures(size: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (6, size, size, 3), dtype=np.uint8)


@pytest.fixture(scope="module")
def images() -> np.ndarray:
    return pictures(SIZE)


def seed(*values: int) -> tf.Tensor:
    return tf.constant(values, tf.int64)


def training_data(images: np.ndarray) -> TrainingData:
    """Give `STEPS` batches an epoch of the images over and over, for 5 epochs."""
    repeated = tf.data.Dataset.from_tensor_slices(images)
    return TrainingData(repeated, STEPS * len(images), len(images), 5)


class TestRegistry:
    def test_every_recipe_has_a_tiny_config_to_test_it_with(self) -> None:
        assert set(TINY) == set(recipes.names())

    def test_unknown_name_suggests_the_nearest_and_lists_all(self) -> None:
        with pytest.raises(ValueError, match=r"'vitt'; .*'vit'.*: .*, vit_finetune"):
            recipes.get("vitt")
        with pytest.raises(ValueError, match="'base'"):
            recipes.get("base")

    def test_importing_all_recipes_imports_no_framework(self) -> None:
        code = (
            "import sys; from trainer_module import recipes;"
            "[recipes.get(name) for name in recipes.names()];"
            "print({'keras', 'tensorflow', 'tfx', 'apache_beam'} & set(sys.modules))"
        )
        result = subprocess.run(
            [sys.executable, "-c", code], capture_output=True, text=True, check=True
        )
        assert result.stdout.strip() == "set()"


@pytest.mark.parametrize("name", sorted(TINY))
class TestEveryRecipe:
    @pytest.fixture
    def images(self, name: str) -> np.ndarray:
        return pictures(size_of(name))

    def config(self, name: str) -> pydantic.BaseModel:
        return recipes.get(name).Config(**TINY[name])

    def model(self, name: str, images: np.ndarray) -> tuple[keras.Model, list[Phase]]:
        """Make a model, ready by its first phase, and all phases."""
        keras.utils.set_random_seed(0)
        recipe, config = recipes.get(name), self.config(name)
        model = recipe.build_model(config, size_of(name), CLASSES)
        phases = recipe.phases(config, model, training_data(images))
        made = [next(phases)]
        with contextlib.suppress(StopIteration):
            while True:
                made.append(phases.send({"val_accuracy": 0.5, "val_loss": 1.0}))
        return model, made

    def test_config_is_frozen_closed_and_survives_json(self, name: str) -> None:
        config = self.config(name)
        assert type(config)(**config.model_dump(mode="json")) == config
        with pytest.raises(pydantic.ValidationError):
            type(config)(**TINY[name], no_such_field=1)
        with pytest.raises(pydantic.ValidationError):
            setattr(config, next(iter(TINY[name])), 1)

    def test_model_takes_pixels_and_gives_float32_logits(
        self, name: str, images: np.ndarray
    ) -> None:
        model, _ = self.model(name, images)
        logits = model(images)
        assert logits.shape == (len(images), CLASSES)
        assert logits.dtype == tf.float32
        assert not np.allclose(np.sum(logits, axis=1), 1), "these look like probabilities"

    def test_model_survives_saving_without_unsafe_parts(
        self, name: str, images: np.ndarray, tmp_path: Path
    ) -> None:
        model, _ = self.model(name, images)
        model.save(tmp_path / "model.keras")
        loaded = keras.saving.load_model(tmp_path / "model.keras", safe_mode=True)
        np.testing.assert_array_equal(model(images), loaded(images))

    def test_a_warm_start_keeps_what_is_known_of_classes_that_stay(
        self, name: str, images: np.ndarray, tmp_path: Path
    ) -> None:
        earlier, phases = self.model(name, images)
        # What is kept of fixres may be the model of its second stage.
        earlier = phases[-1].model or earlier
        random = np.random.default_rng(0)
        earlier.set_weights([random.uniform(0.1, 1, each.shape) for each in earlier.get_weights()])
        serving = str(tmp_path / "Format-Serving")
        warm_start.save(earlier, ["ant", "bee", "cat"], serving)
        model = recipes.get(name).build_model(self.config(name), size_of(name), 4)
        warm_start.load(model, ["bee", "cow", "ant", "dog"], serving)
        if name == "fixres":
            earlier, model = earlier.layers[-1], model.layers[-1]
            features = np.array([random.uniform(0, 1, (2, model.layers[-1].kernel.shape[0]))])[0]
            logits = [net.layers[-1](features) for net in (earlier, model)]
        else:
            logits = [net(images) for net in (earlier, model)]
        np.testing.assert_allclose(logits[1].numpy()[:, [2, 0]], logits[0][:, :2], rtol=1e-4)

    def test_phases_last_the_epochs_asked_for(self, name: str, images: np.ndarray) -> None:
        _, phases = self.model(name, images)
        assert sum(phase.epochs for phase in phases) == 5

    def test_augmentation_follows_its_seed_and_keeps_shape_type_and_labels(
        self, name: str, images: np.ndarray
    ) -> None:
        _, phases = self.model(name, images)
        labels = np.arange(len(images))
        for phase in phases:
            if phase.augment is None:
                continue
            first, kept = phase.augment(tf.constant(images), tf.constant(labels), seed(1, 2))
            again, _ = phase.augment(tf.constant(images), tf.constant(labels), seed(1, 2))
            other, _ = phase.augment(tf.constant(images), tf.constant(labels), seed(1, 3))
            assert (first.shape[0], first.shape[3]) == (len(images), 3)
            assert first.dtype == tf.uint8
            np.testing.assert_array_equal(kept, labels)
            np.testing.assert_array_equal(first, again)
            assert np.any(np.not_equal(first, other))

    def test_one_step_changes_the_trainable_weights(self, name: str, images: np.ndarray) -> None:
        model, phases = self.model(name, images)
        model.compile(
            phases[0].optimizer, keras.losses.SparseCategoricalCrossentropy(from_logits=True)
        )
        if name in ("mobilenet", "transfer"):
            awaken(model)
        before = [weight.numpy() for weight in model.trainable_weights]
        for _ in range(STEPS):  # some begin with a rate or a head of zero
            model.train_on_batch(images, np.arange(len(images)) % CLASSES)
        for weight, old in zip(model.trainable_weights, before, strict=True):
            assert np.any(weight.numpy() != old), f"{weight.path} did not train"


@pytest.mark.parametrize(
    ("name", "settings", "sizes", "message"),
    [
        ("bit", {}, (128, 128), r"train_size 128 .*image_size 128; .*transform\.train_size"),
        (
            "bit",
            {"crop": False},
            (128, 160),
            r"train_size 160 .*image_size 128; .*transform\.train_size",
        ),
        ("bit", {"schedule": (5, 5, 7)}, (128, 160), r"schedule \(5, 5, 7\) "),
        ("mobilenet", {}, (31, 31), r"image_size 31 .*\b32\b"),
        ("mobilenet", {}, (160, 200), "train_size 200 .*image_size 160"),
        ("mobilenet", {"alpha": 0.4}, (160, 160), r"alpha 0\.4 .*imagenet .*0\.35"),
        (
            "transfer",
            {"backbone": "ResNet50v2"},
            (224, 224),
            "backbone 'ResNet50v2' .* ResNet50V2[?]",
        ),
        ("transfer", {"backbone": "Xception"}, (70, 70), r"image_size 70 .*Xception; .*\b71 "),
        ("transfer", {"alpha": 0.5}, (224, 224), r"alpha 0\.5 .*MobileNet, MobileNetV2"),
        (
            "bit",
            {"crop_size": 384},
            (384, 384),
            r"train_size 384 .*crop_size 384; .*transform\.train_size",
        ),
        ("bit", {"crop_size": 224, "crop": False}, (384, 384), "crop_size 224 .*crop to true"),
        (
            "vit",
            {"resize": 70},
            (32, 32),
            r"resize 70 .*patch_size 6; .*train\.hyperparameters\.resize",
        ),
        (
            "vit_finetune",
            {"crop": False},
            (384, 512),
            r"train_size 512 .*image_size 384; .*train\.hyperparameters\.crop",
        ),
        ("vit", {}, (70, 70), r"image_size 70 .*patch_size 6; .*transform\.image_size"),
        ("vit", {}, (72, 80), "train_size 80 .*image_size 72"),
        ("vit_finetune", {}, (100, 100), r"image_size 100 .*16; .*\b96$"),
        (
            "vit_finetune",
            {"weights": {"source": "folder"}},
            (96, 96),
            r"weights\.source 'folder' .*\.npz",
        ),
    ],
)
def test_settings_and_sizes_that_make_no_sense_are_refused(
    name: str, settings: dict[str, Any], sizes: tuple[int, int], message: str
) -> None:
    recipe = recipes.get(name)
    with pytest.raises(ValueError, match=message):
        recipe.check(recipe.Config.model_validate(settings), *sizes)


class TestVit:
    def test_parameters_of_the_article_s_model(self) -> None:
        dim, key, mlp, tokens, classes = 64, 4 * 64, 128, (72 // 6) ** 2, 10
        norm = 2 * dim
        attention = 3 * (dim * key + key) + key * dim + dim
        block = 2 * norm + attention + (dim * mlp + mlp) + (mlp * dim + dim)
        head = (tokens * dim + 1) * 2048 + 2049 * 1024 + 1025 * classes
        model = training.build_model(vit.Config(), 72, classes)
        trainable = sum(int(np.prod(weight.shape)) for weight in model.trainable_weights)
        assert trainable == (6 * 6 * 3 + 1) * dim + tokens * dim + 8 * block + norm + head

    def test_patches_are_cut_row_by_row(self, images: np.ndarray) -> None:
        patches = Patches(4)(images)
        assert patches.shape == Patches(4).compute_output_shape(images.shape) == (6, 4, 48)
        np.testing.assert_array_equal(patches[:, 1], images[:, :4, 4:].reshape(6, -1))
        np.testing.assert_array_equal(patches[:, 2], images[:, 4:, :4].reshape(6, -1))

    @pytest.mark.parametrize(
        ("resize", "size", "count"), [(None, 24, 4), (72, 32, 12), (12, 32, 2)]
    )
    def test_patches_are_those_of_the_resized_image(
        self, resize: int | None, size: int, count: int
    ) -> None:
        config = vit.Config(resize=resize, depth=1, head_dims=(4,))
        model = training.build_model(config, size, 2)
        images = np.zeros((1, size, size, 3), np.uint8)
        tokens = keras.Model(model.input, model.get_layer("patches").output)(images)
        assert tokens.shape == (1, count**2, 6 * 6 * 3)
        assert recipes.get("vit").patches(config, size) == count

    @pytest.mark.parametrize(
        ("variant", "size", "count"), [("tiny/4", 12, 3), ("B/16", 384, 24), ("B/32", 384, 12)]
    )
    def test_patches_of_a_pretrained_one_follow_its_variant(
        self, variant: str, size: int, count: int
    ) -> None:
        recipe = recipes.get("vit_finetune")
        assert recipe.patches(recipe.Config(variant=variant), size) == count
        assert recipes.get("bit").patches(recipes.get("bit").Config(), size) is None

    def test_patches_that_do_not_tile_the_image_are_refused(self) -> None:
        with pytest.raises(ValueError, match="image_size 70"):
            training.build_model(vit.Config(), 70, 2)

    def test_pixels_are_normalized_by_the_training_images(self, images: np.ndarray) -> None:
        config = vit.Config(**TINY["vit"])
        model = training.build_model(config, SIZE, CLASSES)
        list(training.phases(config, model, training_data(images)))
        normalized = model.get_layer("normalization")(images)
        np.testing.assert_allclose(np.mean(normalized, axis=(0, 1, 2)), 0, atol=1e-5)
        np.testing.assert_allclose(np.std(normalized, axis=(0, 1, 2)), 1, atol=1e-5)

    def test_cosine_rises_in_the_warm_up_and_ends_at_zero(self) -> None:
        config = vit.Config(learning_rate=0.5, schedule="cosine", warmup_epochs=2.0)
        rate = training._optimizer(config, epochs=10, steps_per_epoch=7)._learning_rate
        assert [float(rate(step)) for step in (0, 7, 14, 42, 70)] == pytest.approx(
            [0, 0.25, 0.5, 0.25, 0]
        )
        config = vit.Config(learning_rate=0.5, schedule="cosine", warmup_epochs=0.0)
        rate = training._optimizer(config, epochs=10, steps_per_epoch=7)._learning_rate
        assert [float(rate(step)) for step in (0, 35, 70)] == pytest.approx([0.5, 0.25, 0])

    def test_warm_up_longer_than_the_run_is_cut(self) -> None:
        config = vit.Config(learning_rate=0.5, schedule="cosine", warmup_epochs=5.0)
        rate = training._optimizer(config, epochs=2, steps_per_epoch=3)._learning_rate
        assert float(rate(6)) == pytest.approx(0.5)

    def test_without_any_change_there_is_no_augmentation(self) -> None:
        assert augmentation.flip_turn_scale(flip=False, rotation=0.0, zoom=0.0) is None

    def test_without_flip_an_asymmetric_image_is_never_mirrored(self, images: np.ndarray) -> None:
        augment = augmentation.flip_turn_scale(flip=False, rotation=0.0, zoom=1e-6)
        assert augment
        same, _ = augment(tf.constant(images), tf.zeros([6], tf.int64), seed(0, 0))
        np.testing.assert_array_equal(same, images)


class TestAugmentation:
    def test_flip_mirrors_some_images_and_leaves_others(self, images: np.ndarray) -> None:
        many = np.repeat(images[:1], 200, axis=0)
        flipped = augmentation.random_flip(tf.constant(many), seed(0, 1)).numpy()
        kept = (flipped == many).all(axis=(1, 2, 3))
        mirrored = (flipped == many[:, :, ::-1]).all(axis=(1, 2, 3))
        np.testing.assert_array_equal(kept, ~mirrored)
        assert 60 < kept.sum() < 140

    def test_nothing_to_turn_or_scale_leaves_pixels_as_they_are(self, images: np.ndarray) -> None:
        same = augmentation.random_move(
            tf.constant(images), seed(0, 1), flip=False, rotation=0.0, zoom=0.0
        )
        np.testing.assert_array_equal(same, images)

    def test_flip_before_a_move_mirrors_some_images(self, images: np.ndarray) -> None:
        many = np.repeat(images[:1], 200, axis=0)
        flipped = augmentation.random_move(
            tf.constant(many), seed(0, 1), flip=True, rotation=0.0, zoom=0.0
        ).numpy()
        kept = (flipped == many).all(axis=(1, 2, 3))
        mirrored = (flipped == many[:, :, ::-1]).all(axis=(1, 2, 3))
        np.testing.assert_array_equal(kept, ~mirrored)
        assert 60 < kept.sum() < 140

    def test_pixels_are_read_as_keras_reads_them(self) -> None:
        random = np.random.default_rng(0)
        images = random.integers(0, 256, (20, 13, 17, 3), np.uint8)
        # From half to twice the size, and places up to two images away.
        matrices = random.uniform(-2, 2, (6, 20)).astype(np.float32)
        matrices[[2, 5]] *= 17
        expected = keras.ops.image.affine_transform(
            images.astype(np.float32),
            np.concatenate([matrices.T, np.zeros((20, 2), np.float32)], axis=1),
            interpolation="bilinear",
            fill_mode="reflect",
        )
        found = augmentation._sampled(tf.constant(images), tf.constant(matrices))
        difference = np.abs(np.asarray(found, np.float32) - np.asarray(expected))
        assert difference.max() < 0.51

    def test_interpolation_does_not_darken(self) -> None:
        flat = tf.fill([50, SIZE, SIZE, 3], tf.constant(101, tf.uint8))
        moved = augmentation.random_move(flat, seed(0, 1), flip=True, rotation=0.1, zoom=0.3)
        np.testing.assert_array_equal(moved, flat)

    @pytest.mark.parametrize(
        ("rotation", "zoom"), [(0.02, 0.0), (0.0, 0.2)], ids=["rotation", "zoom"]
    )
    def test_points_move_no_further_than_asked(self, rotation: float, zoom: float) -> None:
        # A bright square around a point 10 px right of the centre, which is where it may go.
        image = np.zeros((1, 41, 41, 3), np.uint8)
        image[:, 19:22, 29:32] = 255
        many = tf.constant(np.repeat(image, 200, axis=0))
        moved = augmentation.random_move(
            many, seed(3, 4), flip=False, rotation=rotation, zoom=zoom
        ).numpy()[..., 0]
        mass = moved / moved.sum(axis=(1, 2), keepdims=True)
        x = (mass.sum(axis=1) * np.arange(41)).sum(axis=1) - 20
        y = (mass.sum(axis=2) * np.arange(41)).sum(axis=1) - 20
        angle = np.arctan2(y, x) / (2 * np.pi)
        scale = 10 / np.hypot(x, y)
        for value, limit in ((angle, rotation), (scale - 1, zoom)):
            assert np.abs(value).max() <= 1.1 * limit + 0.002
            assert np.ptp(value) >= limit


def test_small_vit_takes_any_number_of_head_layers() -> None:
    for head_dims in ((), (3, 4)):
        config = vit.Config(**{**TINY["vit"], "head_dims": head_dims})
        model = small_vit(config, SIZE, 2)
        heads = [layer.units for layer in model.layers if layer.name in ("head0", "head1")]
        assert tuple(heads) == head_dims
