"""Where a model looked: maps that point at what the answer depends on, for each kind of network."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
from keras import layers
from PIL import Image

from pipeline.report import pictures
from tests.kit.pictures import encode
from tests.kit.transformed import content_hash, run_transform
from trainer_module import attention, recipes
from trainer_module.models.views import seen_through
from trainer_module.models.vision_transformer import VARIANTS, vision_transformer

SIZE = 16


def of_colour(size: int | None = SIZE) -> keras.Model:
    """Class 0 is red and class 1 is green, wherever that is."""
    images = keras.Input((size, size, 3), dtype="uint8")
    x = layers.AveragePooling2D(4)(layers.Rescaling(1 / 255)(images))
    x = layers.GlobalAveragePooling2D()(x)
    model = keras.Model(images, layers.Dense(2, name="head")(x))
    model.layers[-1].set_weights([np.array([[90, 0], [0, 90], [0, 0]]), np.zeros(2)])
    return model


def corner(colour: int, side: int = SIZE) -> np.ndarray:
    """Black but for the lower left quarter."""
    image = np.zeros((side, side, 3), np.uint8)
    image[side // 2 :, : side // 2, colour] = 200
    return image


def test_a_convolutional_network_looks_where_its_class_is() -> None:
    maps = attention.looked(of_colour())
    assert maps
    images = np.stack([corner(0), corner(1), corner(0)[:, ::-1]])
    found, logits = maps(images)
    assert logits.argmax(1).tolist() == [0, 1, 0]
    assert found.shape == (3, 4, 4)
    expected = np.zeros((4, 4))
    expected[2:, :2] = found[0].max()
    np.testing.assert_allclose(found[0], expected)
    np.testing.assert_allclose(found[1], expected)
    np.testing.assert_allclose(found[2], expected[:, ::-1])


def test_of_a_centre_that_was_cut_out_the_map_is_that_of_the_whole() -> None:
    maps = attention.looked(seen_through(of_colour(), SIZE, crop=True))
    assert maps
    found, _ = maps(corner(0, 2 * SIZE)[None])
    assert found.shape == (1, 56, 56)
    rows, columns = np.nonzero(found[0] > 0.5 * found[0].max())
    box = (rows.min(), rows.max(), columns.min(), columns.max())
    assert box == pytest.approx((28, 41, 14, 27), abs=1)
    shrunk = attention.looked(seen_through(of_colour(), SIZE, crop=False))
    assert shrunk
    assert shrunk(corner(0, 2 * SIZE)[None])[0].shape == (1, 4, 4)


def random_vit() -> keras.Model:
    model = vision_transformer(VARIANTS["tiny/4"], image_size=SIZE, num_classes=3)
    random = np.random.default_rng(0)
    for weight in model.weights:
        weight.assign(random.normal(0, 0.5, weight.shape))
    return model


def test_rollout_follows_the_attention_from_block_to_block() -> None:
    model = random_vit()
    maps = attention.looked(model)
    assert maps
    images = np.random.default_rng(1).integers(0, 256, (2, SIZE, SIZE, 3), np.uint8)
    found, logits = maps(images)
    np.testing.assert_allclose(logits, model(images), rtol=1e-4, atol=1e-4)
    assert found.shape == (2, 4, 4)
    # By hand: softmax of queries and keys of each head, half of each token kept.
    flow = np.eye(17)
    for block in ("block0", "block1"):
        layer = model.get_layer(f"{block}_attention")
        inputs = keras.Model(model.input, model.get_layer(f"{block}_norm1").output)(images[:1])
        (query, query_bias, key, key_bias), x = layer.get_weights()[:4], np.asarray(inputs)[0]
        queries = np.einsum("td,dhk->htk", x, query) + query_bias[:, None]
        keys = np.einsum("td,dhk->htk", x, key) + key_bias[:, None]
        scores = np.einsum("htk,hsk->hts", queries, keys) / np.sqrt(query.shape[2])
        scores = np.exp(scores - scores.max(-1, keepdims=True))
        scores /= scores.sum(-1, keepdims=True)
        flow = (0.5 * scores.mean(0) + 0.5 * np.eye(17)) @ flow
    expected = flow[0, 1:] - flow[0, 1:].min()
    np.testing.assert_allclose(found[0].ravel(), expected, rtol=1e-3, atol=1e-6)


def test_a_transformer_that_attends_to_all_alike_looks_nowhere() -> None:
    model = random_vit()
    for block in ("block0", "block1"):
        layer = model.get_layer(f"{block}_attention")
        values = layer.get_weights()
        layer.set_weights([*(0 * each for each in values[:4]), *values[4:]])
    maps = attention.looked(model)
    assert maps
    np.testing.assert_allclose(maps(corner(0)[None])[0], 0, atol=1e-7)


@pytest.mark.parametrize(
    ("name", "settings", "size", "grid"),
    [
        ("bit", {"variant": "tiny"}, 64, 2),
        ("mobilenet", {"alpha": 0.35, "weights": "none"}, 64, 2),
        ("vit", {"depth": 1, "dim": 4, "head_dims": [4]}, 24, 4),
        ("vit", {"depth": 1, "dim": 4, "head_dims": [4], "resize": 36}, 24, 6),
        ("vit_finetune", {"variant": "tiny/4"}, 24, 6),
        (
            "fixres",
            {"base": "bit", "settings": {"variant": "tiny", "crop": False}, "low": 32},
            48,
            1,
        ),
    ],
)
def test_every_recipe_s_network_can_be_looked_into(
    name: str, settings: dict[str, Any], size: int, grid: int
) -> None:
    recipe = recipes.get(name)
    if name == "fixres":
        settings = {**settings, "high": 48}
    model = recipe.build_model(recipe.Config(**settings), size, 3)
    maps = attention.looked(model)
    assert maps
    images = np.random.default_rng(0).integers(0, 256, (2, size, size, 3), np.uint8)
    found, logits = maps(images)
    assert found.shape == (2, grid, grid)
    assert found.min() >= 0
    # Not closer: vit is not adapted to the images, and its activations are large.
    np.testing.assert_allclose(logits, model(images), rtol=1e-2, atol=1e-2)


def test_a_network_without_either_is_left_out() -> None:
    images = keras.Input((SIZE, SIZE, 3), dtype="uint8")
    flat = layers.Flatten()(layers.Rescaling(1 / 255)(images))
    assert attention.looked(keras.Model(images, layers.Dense(2)(flat))) is None


class TestMistakes:
    @pytest.fixture
    def patterns(self, tmp_path: Path) -> list[str]:
        """Two right images, and two that are green but called red, the second more clearly so."""
        faint = corner(1) // 40
        self.wrong = [encode(Image.fromarray(image)) for image in (faint, corner(1))]
        right = [encode(Image.fromarray(image)) for image in (corner(0), corner(0) // 2)]
        images = [(image, "red") for image in (*right, *self.wrong)]
        made = run_transform(tmp_path, {"eval": images}, ["red", "green"], image_size=SIZE)
        return made.files("eval")

    def test_the_most_confident_come_first_by_their_digests(self, patterns: list[str]) -> None:
        content = attention.of_mistakes(of_colour(), patterns, SIZE, 3)
        assert content
        with np.load(io.BytesIO(content), allow_pickle=False) as arrays:
            expected = [content_hash(image).decode() for image in self.wrong[::-1]]
            assert arrays["digests"].tolist() == expected
            assert arrays["maps"].dtype == np.uint8
            assert arrays["maps"].shape == (2, 4, 4)
            assert arrays["maps"].max(axis=(1, 2)).tolist() == [255, 255]

    def test_there_is_nothing_to_show_without_a_mistake(self, patterns: list[str]) -> None:
        model = of_colour()
        model.layers[-1].set_weights([np.zeros((3, 2)), np.array([1.0, 0.0])])
        assert attention.of_mistakes(model, patterns, SIZE, 3) is None


class TestPicture:
    @pytest.mark.parametrize(
        ("resize_mode", "crop_fraction", "bright"),
        [
            ("stretch", 1.0, (0, 40, 0, 60)),
            ("crop", 1.0, (0, 40, 10, 50)),
            ("stretch", 0.5, (10, 30, 15, 45)),
            ("pad", 1.0, (0, 40, 0, 60)),
        ],
    )
    def test_the_light_falls_on_what_the_network_was_given(
        self, resize_mode: str, crop_fraction: float, bright: tuple[int, ...]
    ) -> None:
        white = pictures.encode(np.full((40, 60, 3), 200, np.uint8))
        looked = np.full((4, 4), 255, np.uint8)
        lit = pictures.heated(white, looked, resize_mode=resize_mode, crop_fraction=crop_fraction)
        pixels = np.asarray(Image.open(io.BytesIO(lit)))[..., 0]
        top, bottom, left, right = bright
        expected = np.full((40, 60), 50)
        expected[top:bottom, left:right] = 200
        np.testing.assert_array_equal(pixels, expected)

    def test_a_half_that_was_not_looked_at_is_dark(self) -> None:
        white = pictures.encode(np.full((40, 40, 3), 200, np.uint8))
        looked = np.zeros((2, 2), np.uint8)
        looked[:, 1] = 255
        lit = pictures.heated(white, looked, resize_mode="stretch", crop_fraction=1.0)
        pixels = np.asarray(Image.open(io.BytesIO(lit)))[..., 0]
        assert pixels[:, :5].max() < 60
        assert pixels[:, -5:].min() > 190
