"""Recipes whose random crops need the proportions of the original: from Transform to a model."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

from tests.kit.pictures import encode
from tests.kit.transformed import Transformed, run_transform
from trainer_module import input_pipeline, run_fn, transform
from trainer_module.input_pipeline import Framed

CLASSES = ["wide", "tall"]
SIZES = [(40, 30), (30, 40)]  # width, height


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Transformed:
    random = np.random.default_rng(0)
    images = []
    for number in range(8):
        width, height = SIZES[number % 2]
        pixels = random.integers(0, 256, (height, width, 3), np.uint8)
        images.append((encode(Image.fromarray(pixels)), CLASSES[number % 2]))
    splits = {"train": images, "eval": images[:4]}
    return run_transform(
        tmp_path_factory.mktemp("framed"), splits, CLASSES, image_size=32, train_size=40
    )


def test_images_come_with_the_sides_that_they_had(made: Transformed) -> None:
    split = input_pipeline.read(
        made.files("train"), 40, CLASSES, "training", transform.TRAIN_IMAGE_KEY, framed=True
    )
    for images, label in split.images:
        assert isinstance(images, Framed)
        assert images.pixels.shape == (40, 40, 3)
        assert images.frame.numpy().tolist() == list(SIZES[int(label)][::-1])
    # Where nothing cuts, there are pixels only.
    for batches in (
        input_pipeline.training_batches(split, 3, 0, None, epochs=range(1)),
        input_pipeline.view_batches(split, 3, 0, 0, None),
    ):
        assert next(iter(batches))[0].shape == (3, 40, 40, 3)


@pytest.mark.parametrize(
    ("recipe", "settings", "train_size"),
    [
        ("vit_finetune", {"variant": "tiny/4"}, 40),
        (
            "fixres",
            {
                "base": "bit",
                "settings": {"variant": "tiny", "crop": False},
                "low": 24,
                "high": 28,
                "second_epochs": 1,
            },
            None,
        ),
    ],
)
def test_it_is_trained_and_exported(
    made: Transformed, tmp_path: Path, recipe: str, settings: dict[str, Any], train_size: int | None
) -> None:
    run_fn.run_fn(
        made.fn_args(
            tmp_path,
            recipe=recipe,
            hyperparameters=settings,
            batch_size=4,
            epochs=2,
            train_size=train_size,
        )
    )
    history = json.loads((tmp_path / "run" / "history.json").read_text("utf-8"))
    assert len(history["epochs"]) == 2
    with np.load(io.BytesIO((tmp_path / "run" / "samples.npz").read_bytes())) as samples:
        assert samples["images"].shape[:2] == (2, 3)
    assert tf.saved_model.contains_saved_model(str(tmp_path / "serving"))
