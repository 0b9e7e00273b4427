"""Drift: changed light, focus and mix of classes are found; other images of the same are not."""

from __future__ import annotations

import io
from collections.abc import Callable, Sequence

import numpy as np
import pyarrow as pa
import pytest
from PIL import Image, ImageEnhance, ImageFilter

from components import features
from components.image_example_gen.images import read_image
from components.image_example_gen.sources.base import Item
from components.image_example_gen.writing import Target, to_example
from pipeline.retraining import drift
from pipeline.settings.retraining import DriftConfig

Change = Callable[[Image.Image], Image.Image]


def photo(seed: int) -> Image.Image:
    """Spots of all sizes, as sharp as a photograph; most are as large as the others."""
    random = np.random.default_rng(seed)
    width, height = random.choice([(60, 40), (40, 60), (50, 50)], p=[0.7, 0.2, 0.1])
    coarse = random.normal(random.uniform(90, 150), 40, (7, 7, 3))
    fine = random.normal(0, 20, (height, width, 3))
    base = Image.fromarray(np.clip(coarse, 0, 255).astype(np.uint8)).resize((width, height))
    return Image.fromarray(np.clip(np.asarray(base) + fine, 0, 255).astype(np.uint8))


def columns(
    seeds: Sequence[int], labels: str = "abc", change: Change = lambda image: image
) -> pa.RecordBatch:
    records = []
    for seed in seeds:
        data = io.BytesIO()
        change(photo(seed)).save(data, "PNG")
        picture = read_image(data.getvalue(), 10**6)
        item = Item(str(seed), labels[seed % len(labels)], lambda: b"", 0)
        records.append(to_example(picture, item, Target(0, "", ""), 1).SerializeToString())
    return drift._columns(records)


@pytest.fixture(scope="module")
def reference() -> pa.RecordBatch:
    return columns(range(400))


def found(new: pa.RecordBatch, reference: pa.RecordBatch) -> set[str]:
    distances = drift.statistics_distances(new, reference, DriftConfig())
    assert {each.what for each in distances} == {*drift.TEXTS, *drift.NUMBERS}
    return {each.what for each in distances if each.value > each.limit}


@pytest.mark.parametrize("first", [1000, 2000, 3000])
def test_other_images_of_the_same_kind_are_no_drift(reference: pa.RecordBatch, first: int) -> None:
    assert found(columns(range(first, first + 100)), reference) == set()


@pytest.mark.parametrize(
    ("change", "feature"),
    [
        pytest.param(lambda i: ImageEnhance.Brightness(i).enhance(0.5), features.MEAN, id="dark"),
        pytest.param(lambda i: ImageEnhance.Brightness(i).enhance(1.8), features.MEAN, id="bright"),
        pytest.param(lambda i: i.filter(ImageFilter.GaussianBlur(2)), features.BYTES, id="blurred"),
    ],
)
def test_changed_images_are_drift(reference: pa.RecordBatch, change: Change, feature: str) -> None:
    assert feature in found(columns(range(1000, 1100), change=change), reference)


def test_another_mix_of_classes_is_drift(reference: pa.RecordBatch) -> None:
    assert found(columns(range(1000, 1100), labels="aaab"), reference) == {features.LABEL_TEXT}


class TestEmbeddingShift:
    def test_is_the_distance_of_means_in_deviations(self) -> None:
        random = np.random.default_rng(0)
        reference = random.normal(5, 3, (2000, 8))
        moved = random.normal(5 + 3 * 0.7, 3, (500, 8))
        assert drift.embedding_shift(moved, reference) == pytest.approx(0.7, abs=0.05)

    @pytest.mark.parametrize("images", [30, 300])
    def test_of_the_same_is_near_zero_however_few_there_are(self, images: int) -> None:
        random = np.random.default_rng(1)
        shifts = [
            drift.embedding_shift(random.normal(size=(images, 64)), random.normal(size=(900, 64)))
            for _ in range(20)
        ]
        assert max(shifts) < 0.15

    def test_a_dimension_that_never_varies_counts_little(self) -> None:
        random = np.random.default_rng(2)
        reference, new = random.normal(size=(500, 4)), random.normal(size=(500, 4))
        reference[:, 0], new[:, 0] = 1.0, 1.001
        assert drift.embedding_shift(new, reference) < 0.2
