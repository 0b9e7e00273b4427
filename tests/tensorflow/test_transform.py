"""Preprocessing: pixels and labels that Transform materialises, and its graph gives again."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

from components import features
from tests.kit.pictures import ENCODINGS, IDS, encode, picture
from tests.kit.transformed import Transformed, content_hash, run_transform
from trainer_module import transform

SIZE = 12
CLASSES = ["zebra", "ant", "ibex"]  # neither sorted nor by frequency


def load(
    encoded: bytes, size: int = SIZE, interpolation: str = "bilinear", **options: Any
) -> np.ndarray:
    return transform.load_image(tf.constant(encoded), size, interpolation, **options).numpy()


@pytest.fixture(scope="module")
def encoded() -> list[bytes]:
    return [encode(picture().convert(mode), name) for name, mode in ENCODINGS]


@pytest.fixture(scope="module")
def transformed(tmp_path_factory: pytest.TempPathFactory, encoded: list[bytes]) -> Transformed:
    labels = ["ant", "ant", "zebra", "unheard of", *["ibex"] * (len(encoded) - 4)]
    return run_transform(
        tmp_path_factory.mktemp("transform"),
        {"train": list(zip(encoded, labels, strict=True)), "eval": [(encoded[0], "zebra")]},
        CLASSES,
        image_size=SIZE,
    )


@pytest.fixture(scope="module")
def rows(transformed: Transformed, encoded: list[bytes]) -> list[dict[str, Any]]:
    """Return the transformed training example of each of `encoded`."""
    spec = transformed.output.transformed_feature_spec()
    records = tf.data.TFRecordDataset(transformed.files("train"))
    found = {}
    for record in records:
        row = tf.io.parse_single_example(record, spec)
        found[row[features.SHA256].numpy()] = {key: value.numpy() for key, value in row.items()}
    return [found[content_hash(image)] for image in encoded]


class TestMaterialised:
    @pytest.mark.parametrize("index", range(len(ENCODINGS)), ids=IDS)
    def test_pixels_are_raw_bytes_equal_to_those_that_serving_computes(
        self,
        index: int,
        encoded: list[bytes],
        rows: list[dict[str, Any]],
        transformed: Transformed,
    ) -> None:
        stored = rows[index][transform.IMAGE_KEY]
        pixels = np.frombuffer(stored, np.uint8).reshape(SIZE, SIZE, 3)
        np.testing.assert_array_equal(pixels, load(encoded[index]))
        np.testing.assert_array_equal(pixels, transform.decode_pixels([stored], SIZE)[0])
        served = transform.prepare(transformed.output, SIZE, [encoded[0], encoded[index]])
        np.testing.assert_array_equal(pixels, served[1])

    def test_labels_are_positions_in_the_given_list(self, rows: list[dict[str, Any]]) -> None:
        assert [row[transform.LABEL_KEY] for row in rows[:5]] == [1, 1, 0, -1, 2]

    def test_holds_nothing_but_pixels_their_frame_label_and_hash(
        self, rows: list[dict[str, Any]]
    ) -> None:
        sides = {transform.HEIGHT_KEY: 23, transform.WIDTH_KEY: 31}
        assert set(rows[0]) == {transform.IMAGE_KEY, transform.LABEL_KEY, features.SHA256, *sides}
        assert {side: rows[0][side] for side in sides} == sides

    def test_one_undecodable_image_fails_the_batch(
        self, transformed: Transformed, encoded: list[bytes]
    ) -> None:
        with pytest.raises(tf.errors.InvalidArgumentError):
            transform.prepare(transformed.output, SIZE, [encoded[0], b"no image"])


class TestPixels:
    def test_survive_a_round_trip_whatever_their_bytes(self) -> None:
        images = np.stack(
            [np.zeros((4, 4, 3)), np.full((4, 4, 3), 255), np.arange(48).reshape(4, 4, 3)]
        ).astype(np.uint8)
        stored = [transform.encode_pixels(tf.constant(image)) for image in images]
        assert stored[2] == bytes(range(48))
        np.testing.assert_array_equal(transform.decode_pixels(stored, 4), images)

    def test_of_the_wanted_size_are_left_alone(self) -> None:
        image = picture(SIZE, SIZE)
        for interpolation in ("area", "bicubic", "bilinear", "lanczos3", "lanczos5", "nearest"):
            np.testing.assert_array_equal(
                load(encode(image), interpolation=interpolation), np.asarray(image)
            )

    def test_gray_is_repeated_over_the_channels(self) -> None:
        image = picture(SIZE, SIZE).convert("L")
        np.testing.assert_array_equal(
            load(encode(image)), np.stack([np.asarray(image)] * 3, axis=-1)
        )

    def test_what_is_transparent_is_white(self) -> None:
        clear = picture(SIZE, SIZE)
        clear.putalpha(0)
        np.testing.assert_array_equal(load(encode(clear)), np.full((SIZE, SIZE, 3), 255))

    def test_are_averaged_where_an_image_shrinks(self) -> None:
        lines = np.zeros((96, 96), np.uint8)
        lines[:, ::8] = 255
        for interpolation in ("area", "bicubic", "bilinear"):
            shrunk = load(encode(Image.fromarray(lines)), size=12, interpolation=interpolation)
            assert np.abs(shrunk[:, 1:-1].astype(int) - 32).max() <= 16

    def test_saturate_where_interpolation_overshoots(self) -> None:
        step = Image.fromarray(np.repeat([[0] * 4 + [255] * 4], 8, axis=0).astype(np.uint8))
        row = load(encode(step), size=24, interpolation="bicubic")[0, :, 0].astype(int)
        assert (np.diff(row) >= 0).all()

    def test_unknown_resize_is_refused(self) -> None:
        with pytest.raises(ValueError, match="method"):
            load(encode(picture()), interpolation="cubic-ish")


class TestAspect:
    @pytest.mark.parametrize(("width", "height"), [(20, 8), (8, 20), (9, 20)])
    def test_crop_keeps_the_central_square(self, width: int, height: int) -> None:
        image = picture(width, height)
        side = min(width, height)
        left, top = (width - side) // 2, (height - side) // 2
        square = image.crop((left, top, left + side, top + side))
        np.testing.assert_array_equal(
            load(encode(image), size=side, resize_mode="crop"), np.asarray(square)
        )

    def test_stretch_keeps_the_whole_image(self) -> None:
        image = np.zeros((8, 32), np.uint8)
        image[:, :8] = 255
        squeezed = load(encode(Image.fromarray(image)), size=8)
        assert squeezed[:, :2].min() > 128
        assert squeezed[:, 3:].max() < 128

    @pytest.mark.parametrize("interpolation", ["area", "bilinear"])
    def test_pad_keeps_the_ratio_and_adds_black(self, interpolation: str) -> None:
        padded = load(encode(Image.new("L", (32, 16), 255)), 8, interpolation, resize_mode="pad")
        np.testing.assert_array_equal(padded[2:6], np.full((4, 8, 3), 255))
        assert not padded[:2].any()
        assert not padded[6:].any()

    def test_pad_leaves_something_of_a_panorama(self) -> None:
        assert load(encode(Image.new("L", (400, 1), 255)), 8, resize_mode="pad").any()

    def test_crop_fraction_cuts_the_same_off_every_side(self) -> None:
        image = np.zeros((16, 16), np.uint8)
        image[4:12, 4:12] = 255
        cut = load(encode(Image.fromarray(image)), size=8, crop_fraction=0.5)
        np.testing.assert_array_equal(cut, np.full((8, 8, 3), 255))


class TestResize:
    def test_area_does_not_repeat_pixels_where_it_enlarges(self) -> None:
        ramp = np.repeat([[0, 80, 160, 240]], 4, axis=0).astype(np.uint8)
        row = load(encode(Image.fromarray(ramp)), size=16, interpolation="area")[0, :, 0]
        assert len(set(row.tolist())) > 8

    def test_without_antialias_pixels_are_skipped(self) -> None:
        stripes = Image.fromarray((np.indices((64, 64))[1] % 8 // 7 * 255).astype(np.uint8))
        smooth, rough = (
            load(encode(stripes), size=8, antialias=antialias) for antialias in (True, False)
        )
        assert 16 < smooth[4, 4, 0] < 64
        assert rough[4, 4, 0] in (0, 255)


@pytest.mark.parametrize(
    ("resize_mode", "crop_fraction", "expected"),
    [
        ("stretch", 1.0, [30, 40]),
        ("crop", 1.0, [30, 30]),
        ("pad", 1.0, [40, 40]),
        ("stretch", 0.5, [15, 20]),
        ("crop", 0.5, [15, 15]),
    ],
)
def test_the_frame_is_what_of_an_image_becomes_a_square(
    resize_mode: str, crop_fraction: float, expected: list[int]
) -> None:
    found = transform.shown(tf.zeros([30, 40, 3], tf.uint8), resize_mode, crop_fraction)
    assert found.dtype == tf.int64
    assert found.numpy().tolist() == expected
