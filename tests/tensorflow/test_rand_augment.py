"""RandAugment: each operation against Pillow's, and how they are drawn."""

from __future__ import annotations

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image, ImageOps

from trainer_module import rand_augment
from trainer_module.rand_augment import cutout, posterize, solarize

SEED = tf.constant([3, 4], tf.int64)


@pytest.fixture(scope="module")
def photo() -> np.ndarray:
    """Smooth, of few values, and of other ones in each channel: uint8 [24, 32, 3]."""
    rows, columns = np.mgrid[:24, :32]
    channels = [60 + 3 * rows, 40 + 4 * columns, 100 + rows + columns]
    return np.stack(channels, axis=-1).astype(np.uint8)


@pytest.mark.parametrize("name", ["autocontrast", "equalize"])
def test_histograms_become_pillow_s(name: str, photo: np.ndarray) -> None:
    ours = getattr(rand_augment, name)(tf.constant(photo))
    pillow = getattr(ImageOps, name)(Image.fromarray(photo))
    assert ours.dtype == tf.uint8
    np.testing.assert_allclose(ours.numpy().astype(int), np.asarray(pillow).astype(int), atol=1)


@pytest.mark.parametrize("bits", [1, 4, 8])
def test_posterize_is_pillow_s(bits: int, photo: np.ndarray) -> None:
    pillow = np.asarray(ImageOps.posterize(Image.fromarray(photo), bits))
    np.testing.assert_array_equal(posterize(tf.constant(photo), bits), pillow)


@pytest.mark.parametrize("threshold", [0, 100, 256])
def test_solarize_is_pillow_s(threshold: int, photo: np.ndarray) -> None:
    pillow = np.asarray(ImageOps.solarize(Image.fromarray(photo), threshold))
    np.testing.assert_array_equal(solarize(tf.constant(photo), threshold), pillow)


def test_an_even_image_stays_as_it_is() -> None:
    even = tf.fill([8, 8, 3], tf.constant(7, tf.uint8))
    np.testing.assert_array_equal(rand_augment.autocontrast(even), even)
    np.testing.assert_array_equal(rand_augment.equalize(even), even)


def test_cutout_greys_a_square_within_the_image() -> None:
    black = tf.zeros([32, 32, 3], tf.uint8)
    sides = set()
    for seed in range(20):
        grey = cutout(black, tf.constant([0, seed], tf.int64), 0.25).numpy()
        assert set(np.unique(grey)) == {0, rand_augment.GREY}
        rows, columns, _ = np.nonzero(grey)
        sides |= {np.ptp(rows) + 1, np.ptp(columns) + 1}
    assert max(sides) == 2 * 8 - 1
    assert min(sides) >= 8


def operations(level: float, sign: float = 1.0) -> list[rand_augment.Change]:
    return rand_augment._changes(level, tf.constant(sign), SEED)


def test_there_are_those_of_the_source() -> None:
    assert len(operations(1.0)) == 16


def test_enhancements_blend_with_their_opposite(photo: np.ndarray) -> None:
    color, contrast, brightness, sharpness = operations(0.5)[7:11]  # a factor of 1 keeps
    for keep in (color, contrast, brightness, sharpness):
        np.testing.assert_allclose(keep(tf.constant(photo)), photo, atol=1)
    color, contrast, brightness, sharpness = operations(-1 / 18)[7:11]  # a factor of 0
    grey = color(tf.constant(photo)).numpy()
    np.testing.assert_array_equal(grey[..., 0], grey[..., 2])
    assert len(np.unique(contrast(tf.constant(photo)))) == 1
    assert not brightness(tf.constant(photo)).numpy().any()
    smooth = sharpness(tf.constant(photo)).numpy()
    np.testing.assert_array_equal(smooth[0], photo[0])


@pytest.mark.parametrize("sign", [-1.0, 1.0])
def test_movements_go_where_the_sign_points_and_leave_grey(sign: float) -> None:
    white = tf.fill([32, 32, 3], tf.constant(255, tf.uint8))
    changes = operations(1.0, sign)
    for move in (changes[3], *changes[11:15]):
        moved = move(white).numpy()
        assert set(np.unique(moved)) == {rand_augment.GREY, 255}
    translated = changes[13](white).numpy()[0, :, 0] == 255
    assert translated.sum() == 32 - round(32 * 100 / 224)
    assert translated[0] == (sign > 0)


def test_a_rotation_is_about_the_centre() -> None:
    image = np.zeros((33, 33, 3), np.uint8)
    image[16, 16] = 200
    turned = operations(1.0)[3](tf.constant(image)).numpy()
    assert turned[16, 16, 0] == 200


def test_images_are_changed_apart_and_by_the_seed_alone(photo: np.ndarray) -> None:
    images = tf.constant(np.stack([photo] * 16))

    @tf.function
    def change(seed: tf.Tensor) -> tf.Tensor:
        return rand_augment.rand_augment(images, seed, operations=2, magnitude=10)

    first, again, other = change(SEED), change(SEED), change(SEED + 1)
    assert (first.dtype, first.shape) == (tf.uint8, images.shape)
    np.testing.assert_array_equal(first, again)
    assert not np.array_equal(first, other)
    assert len({image.tobytes() for image in first.numpy()}) > 8
