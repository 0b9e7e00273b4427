"""Batches of features: what `input_pipeline` gives of images, from within a compiled function."""

from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np
import pytest
import tensorflow as tf

from trainer_module import devices, frozen_features
from trainer_module.frozen_features import Batches
from trainer_module.input_pipeline import Split

VIEWS = 2
# Of the batches: (image, view), label, weight, images of the batch.
Seen = list[list[tuple[int, int, int, float, float]]]


def split(labels: list[int]) -> Split:
    images = np.arange(len(labels), dtype=np.uint8)[:, None, None, None]
    return Split(
        tf.data.Dataset.from_tensor_slices((images, np.array(labels))),
        np.array(labels),
        max(labels) + 1,
    )


def batches(data: Split, balance: str = "none", seed: int = 7) -> Batches:
    # The feature of an image tells which one it is, and in which view.
    features = [[image, view] for view in range(VIEWS) for image in range(data.size)]
    strategy = tf.distribute.get_strategy()
    return Batches(
        tf.constant(features, tf.float32),
        data,
        4,
        seed,
        balance=balance,
        strategy=strategy,
        replicas=devices.replicas(strategy),
    )


def seen(given: Batches, epochs: range, first_step: int = 0) -> Seen:
    @tf.function
    def take() -> Any:
        return next(given)

    elements = []
    for epoch in epochs:
        given.epoch(epoch, first_step)
        elements += [[np.asarray(each) for each in take()] for _ in range(first_step, 3)]
    return [
        [
            (int(image), int(view), int(label), float(weight), float(total))
            for (image, view), label, weight in zip(features, labels, weights, strict=True)
        ]
        for features, labels, weights, total in elements
    ]


def test_an_epoch_holds_every_image_once_in_one_view_and_the_next_in_the_next() -> None:
    data = split([0, 1] * 5)
    found = seen(batches(data), range(3))
    assert [len(batch) for batch in found] == [4, 4, 2] * 3
    orders = []
    for epoch in range(3):
        rows = [row for batch in found[3 * epoch : 3 * epoch + 3] for row in batch]
        assert sorted(image for image, *_ in rows) == list(range(10))
        assert {view for _, view, *_ in rows} == {epoch % 2}
        orders.append([image for image, *_ in rows])
    assert orders[0] != orders[2]
    rows = [row for batch in found for row in batch]
    assert all(label == data.labels[image] and weight == 1 for image, _, label, weight, _ in rows)
    assert all(total == len(batch) for batch in found for *_, total in batch)


def test_any_step_of_any_epoch_can_be_begun_with() -> None:
    data = split([0, 1] * 5)
    both = seen(batches(data), range(5, 7))
    assert seen(batches(data), range(5, 6), first_step=2) == both[2:3]
    assert seen(batches(data), range(6, 7)) == both[3:]


def test_order_is_the_seed_s() -> None:
    data = split([0, 1] * 5)
    assert seen(batches(data, seed=1), range(1)) == seen(batches(data, seed=1), range(1))
    assert seen(batches(data, seed=1), range(1)) != seen(batches(data, seed=2), range(1))


def test_class_weights_make_classes_equal_and_average_to_one() -> None:
    found = seen(batches(split([0] * 9 + [1]), balance="class_weight"), range(1))
    weights = np.zeros(2)
    for batch in found:
        for _, _, label, weight, _ in batch:
            weights[label] += weight
    np.testing.assert_allclose(weights, [5, 5], rtol=1e-6)


def test_balanced_sampling_shows_as_many_images_of_each_class() -> None:
    found = seen(batches(split([0] * 9 + [1] * 2), balance="sampling"), range(8))
    every: Counter[int] = Counter()
    for epoch in range(8):
        images = Counter(row[0] for batch in found[3 * epoch : 3 * epoch + 3] for row in batch)
        assert sum(images.values()) == 12
        assert images[9] + images[10] == 6
        every += images
    assert set(every) == set(range(11)), "some image is never shown"


@pytest.mark.parametrize("views", [1, 3])
def test_the_first_view_is_of_the_images_as_they_are(views: int) -> None:
    data = split([0, 1, 0])
    done: list[int] = []

    def augment(
        images: tf.Tensor, labels: tf.Tensor, seed: tf.Tensor
    ) -> tuple[tf.Tensor, tf.Tensor]:
        return images + tf.cast(100 + seed[0] % 50, tf.uint8), labels

    features = frozen_features.compute(
        lambda images: tf.cast(images[:, 0, 0], tf.float32),
        data,
        2,
        0,
        augment,
        views=views,
        on_batch=done.append,
    )
    first, *others = np.split(np.asarray(features)[:, 0], views)
    assert first.tolist() == [0, 1, 2]
    changes = {tuple(np.subtract(other, first)) for other in others}
    assert len(changes) == views - 1
    assert all(min(change) >= 100 for change in changes)
    assert done == [2, 3] * views
