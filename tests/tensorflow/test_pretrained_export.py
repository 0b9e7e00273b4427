"""From images to the exported model: what training, evaluation and serving see of an image."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tensorflow as tf

from tests.kit.transformed import Transformed, run_transform
from tests.kit.weights import Backbone
from trainer_module import devices, export, input_pipeline, run_fn, transform, weights

CLASSES = ["left", "right"]
IMAGE_SIZE, TRAIN_SIZE = 36, 40


def encoded(label: str, index: int) -> bytes:
    """Return a PNG of 50 x 44 pixels, noise with a brighter left or right half."""
    pixels = np.random.default_rng(index).integers(0, 120, (50, 44, 3), dtype=np.uint8)
    columns = slice(0, 22) if label == CLASSES[0] else slice(22, 44)
    pixels[:, columns] += 80
    return bytes(tf.io.encode_png(pixels).numpy())


def images(count: int, start: int) -> list[tuple[bytes, str]]:
    return [(encoded(CLASSES[i % 2], start + i), CLASSES[i % 2]) for i in range(count)]


@pytest.fixture(scope="module")
def transformed(tmp_path_factory: pytest.TempPathFactory) -> Transformed:
    return run_transform(
        tmp_path_factory.mktemp("transform"),
        {"train": images(12, 0), "eval": images(5, 100)},
        CLASSES,
        image_size=IMAGE_SIZE,
        train_size=TRAIN_SIZE,
    )


def trained(transformed: Transformed, output: Path, **settings: Any) -> dict[str, Any]:
    """Run run_fn; returns the history."""
    run_fn.run_fn(transformed.fn_args(output, batch_size=4, **settings))
    history: dict[str, Any] = json.loads((output / "run" / "history.json").read_text())
    return history


def served(output: Path, image: bytes) -> np.ndarray:
    return export.run_in_session(str(output / "serving"), export.IMAGES, [image])["probabilities"]


def loaded(image: bytes, size: int) -> np.ndarray:
    return transform.load_image(tf.constant(image), size, "bilinear").numpy()


@pytest.mark.parametrize(
    ("split", "start", "key", "size"),
    [
        ("train", 0, transform.TRAIN_IMAGE_KEY, TRAIN_SIZE),
        ("train", 0, transform.IMAGE_KEY, IMAGE_SIZE),
        ("eval", 100, transform.IMAGE_KEY, IMAGE_SIZE),
    ],
)
def test_each_size_is_resized_from_the_original(
    transformed: Transformed, split: str, start: int, key: str, size: int
) -> None:
    found = input_pipeline.read(transformed.files(split), size, CLASSES, split, key)
    wanted = {loaded(image, size).tobytes() for image, _ in images(found.size, start)}
    assert {pixels.numpy().tobytes() for pixels, _ in found.images} == wanted


def test_bit_trains_on_crops_and_serves_the_whole_image(
    transformed: Transformed, tmp_path: Path
) -> None:
    history = trained(
        transformed,
        tmp_path,
        recipe="bit",
        epochs=2,
        hyperparameters={"variant": "tiny", "learning_rate": 5.0, "patience": 0},
    )
    assert len(history["epochs"]) == 2
    # run_fn has compared the export with the model on evaluation's pixels, in a session too.
    assert served(tmp_path, encoded("left", 7)).shape == (1, 2)


def test_what_xla_cannot_compile_is_told_with_what_to_change(
    transformed: Transformed, tmp_path: Path
) -> None:
    with pytest.raises(
        devices.DeviceError,
        match=r"MaxPool gradient ops.*train\.jit_compile .*train\.deterministic ",
    ):
        trained(
            transformed,
            tmp_path,
            recipe="bit",
            epochs=1,
            jit_compile=True,
            hyperparameters={"variant": "tiny"},
        )


def test_fixres_exports_the_stage_that_it_keeps(transformed: Transformed, tmp_path: Path) -> None:
    """In float32, though trained in mixed precision."""
    history = trained(
        transformed,
        tmp_path,
        recipe="fixres",
        epochs=2,
        train_size=None,
        precision="bfloat16",
        hyperparameters={
            "base": "bit",
            "settings": {
                "variant": "tiny",
                "crop": False,
                "flip": False,
                "learning_rate": 1e-9,
                "patience": 0,
            },
            "low": 24,
            "high": 32,
            "flip": False,
            "second_epochs": 1,
            "second_learning_rate": 0.01,
        },
    )
    assert history["best_epoch"] == 2
    pixels = loaded(encoded("left", 7), IMAGE_SIZE)
    framed = pixels.copy()
    framed[:2] = framed[-2:] = framed[:, :2] = framed[:, -2:] = 255
    plain, changed, other = (
        served(tmp_path, tf.io.encode_png(image).numpy())
        for image in (pixels, framed, 255 - pixels)
    )
    # The centre of 32 pixels is all that the second stage's model sees.
    np.testing.assert_array_equal(plain, changed)
    assert (plain != other).any()


@pytest.mark.parametrize("trainable", [True, False])
def test_saved_model_backbone_is_exported_with_the_weights_it_was_trained_to(
    transformed: Transformed, tmp_path: Path, trainable: bool
) -> None:
    module = tmp_path / "module"
    tf.saved_model.save(Backbone(), str(module))
    source = {"source": str(module), "sha256": weights.digest(module), "trainable": trainable}
    trained(
        transformed,
        tmp_path,
        recipe="bit",
        epochs=3,
        hyperparameters={"weights": source, "learning_rate": 100.0, "patience": 0},
    )
    variables = dict(tf.train.list_variables(str(tmp_path / "serving" / "variables" / "variables")))
    kernels = [
        tf.train.load_variable(str(tmp_path / "serving" / "variables" / "variables"), name)
        for name, shape in variables.items()
        if shape == [3, 3, 3, 8]
    ]
    assert kernels
    for kernel in kernels:
        assert np.array_equal(kernel, Backbone().kernel.numpy()) != trainable
