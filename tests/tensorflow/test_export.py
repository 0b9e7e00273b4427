"""The exported SavedModel, called as a server calls it: in a session."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path

import keras
import numpy as np
import pytest
import tensorflow as tf

from components import features
from tests.kit.pictures import ENCODINGS, IDS, encode, picture
from tests.kit.transformed import Transformed, raw, run_transform, serialized
from trainer_module import export, transform

SIZE = 4
# One class for each value of an image, so that a model can answer with the pixels it was given.
CLASSES = [f"pixel {index} é" for index in range(SIZE * SIZE * 3)]


def example(image: bytes | None = None, label: str | None = None) -> bytes:
    given = {features.IMAGE: image, features.LABEL_TEXT: label and label.encode()}
    return serialized({name: value for name, value in given.items() if value is not None})


def softmax(values: np.ndarray) -> np.ndarray:
    powers = np.exp(values.astype(np.float64))
    return powers / powers.sum(axis=-1, keepdims=True)


@pytest.fixture(scope="module")
def images() -> list[bytes]:
    return [encode(picture().convert(mode), name) for name, mode in ENCODINGS]


@pytest.fixture(scope="module")
def transformed(tmp_path_factory: pytest.TempPathFactory, images: list[bytes]) -> Transformed:
    return run_transform(
        tmp_path_factory.mktemp("transform"),
        {"train": [(image, CLASSES[i]) for i, image in enumerate(images)]},
        CLASSES,
        image_size=SIZE,
    )


@pytest.fixture(scope="module")
def model() -> keras.Model:
    """Pixels to logits pixel / 64: one level more makes a probability 1.6 % larger."""
    return keras.Sequential(
        [
            keras.Input((SIZE, SIZE, 3), dtype="uint8"),
            keras.layers.Normalization(mean=0.0, variance=64.0**2),
            keras.layers.Flatten(),
            keras.layers.Dense(len(CLASSES), kernel_initializer="identity"),
        ]
    )


@pytest.fixture(scope="module")
def exported(
    tmp_path_factory: pytest.TempPathFactory, transformed: Transformed, model: keras.Model
) -> str:
    target = str(tmp_path_factory.mktemp("export") / "model")
    export.export(model, transformed.output, SIZE, CLASSES, target)
    return target


@pytest.fixture(scope="module")
def expected(transformed: Transformed, images: list[bytes]) -> np.ndarray:
    """Probabilities for `images`, from the pixels that the trainer reads."""
    stored = {}
    for record in tf.data.TFRecordDataset(transformed.files("train")):
        row = tf.io.parse_single_example(record, transformed.output.transformed_feature_spec())
        stored[row[transform.LABEL_KEY].numpy()] = row[transform.IMAGE_KEY].numpy()
    pixels = [np.frombuffer(stored[index], np.uint8) for index in range(len(images))]
    return softmax(np.stack(pixels) / 64)


class TestServing:
    @pytest.mark.parametrize("index", range(len(ENCODINGS)), ids=IDS)
    def test_sees_the_pixels_that_training_saw(
        self, index: int, exported: str, images: list[bytes], expected: np.ndarray
    ) -> None:
        image = images[index]
        by_bytes = export.run_in_session(exported, export.IMAGES, [image])
        by_example = export.run_in_session(exported, export.EXAMPLES, [example(image)])
        np.testing.assert_allclose(by_bytes["probabilities"], expected[[index]], rtol=1e-5)
        np.testing.assert_array_equal(by_bytes["probabilities"], by_example["probabilities"])
        np.testing.assert_array_equal(by_bytes["label"], by_example["label"])

    def test_answers_a_batch_of_mixed_formats_with_class_names(
        self, exported: str, images: list[bytes], expected: np.ndarray
    ) -> None:
        outputs = export.run_in_session(exported, export.IMAGES, images)
        assert set(outputs) == {"probabilities", "label"}
        assert outputs["probabilities"].dtype == np.float32
        np.testing.assert_allclose(outputs["probabilities"], expected, rtol=1e-5)
        best = expected.argmax(axis=1)
        assert [label.decode() for label in outputs["label"]] == [CLASSES[i] for i in best]

    def test_class_names_lie_beside_the_model(self, exported: str) -> None:
        text = Path(exported, export.CLASSES_FILE).read_text(encoding="utf-8")
        assert json.loads(text) == CLASSES

    def test_one_undecodable_image_fails_the_batch(
        self, exported: str, images: list[bytes]
    ) -> None:
        with pytest.raises(tf.errors.InvalidArgumentError):
            export.run_in_session(exported, export.IMAGES, [images[0], b"no image"])

    def test_an_example_without_image_is_refused(self, exported: str) -> None:
        with pytest.raises(tf.errors.InvalidArgumentError, match=features.IMAGE):
            export.run_in_session(exported, export.EXAMPLES, [example(label=CLASSES[0])])

    def test_needs_no_file_outside_its_folder(
        self, exported: str, transformed: Transformed, images: list[bytes], tmp_path: Path
    ) -> None:
        moved = str(tmp_path / "model")
        shutil.copytree(exported, moved)
        graph = transformed.graph.rename(tmp_path / "graph")
        try:
            outputs = export.run_in_session(moved, export.IMAGES, images[:1])
        finally:
            graph.rename(transformed.graph)
        assert outputs["probabilities"].shape == (1, len(CLASSES))


class TestLabels:
    def test_are_ids_of_class_names_and_minus_one_for_others(self, exported: str) -> None:
        examples = [example(label=name) for name in (CLASSES[7], "unheard of", CLASSES[0])]
        in_session = export.run_in_session(exported, export.LABELS, examples)
        assert in_session["label"].tolist() == [7, -1, 0]
        assert in_session["label"].dtype == np.int64
        loaded = tf.saved_model.load(exported).signatures[export.LABELS]
        assert loaded(tf.constant(examples))["label"].numpy().tolist() == [7, -1, 0]

    def test_come_from_whole_examples_too(self, exported: str, images: list[bytes]) -> None:
        examples = [serialized(raw(images[0], CLASSES[5]))]
        assert export.run_in_session(exported, export.LABELS, examples)["label"].tolist() == [5]


class TestEmbeddings:
    def test_are_what_the_last_layer_is_given(
        self, exported: str, transformed: Transformed, images: list[bytes]
    ) -> None:
        pixels = transform.prepare(transformed.output, SIZE, images)
        expected = np.asarray(pixels, np.float32).reshape(len(images), -1) / 64
        found = export.run_in_session(exported, export.EMBEDDINGS, images)
        assert list(found) == ["embedding"]
        np.testing.assert_allclose(found["embedding"], expected, atol=1e-5)

    def test_of_a_model_that_ends_in_another_are_those_of_that_one(
        self, model: keras.Model
    ) -> None:
        inputs = keras.Input((SIZE, SIZE, 3), dtype="uint8")
        outer = keras.Model(inputs, model(keras.layers.Identity()(inputs)))
        pixels = np.arange(SIZE * SIZE * 3, dtype=np.uint8).reshape(1, SIZE, SIZE, 3)
        found = [export.penultimate(each).predict_on_batch(pixels) for each in (model, outer)]
        np.testing.assert_allclose(found[0], found[1])
        assert found[0].shape == (1, SIZE * SIZE * 3)


def save_directly(model: keras.Model, predict: Callable[..., dict], target: str) -> None:
    model.predict_images = tf.function(predict)
    tf.saved_model.save(model, target, signatures=signatures(model.predict_images))


def save_in_module(model: keras.Model, predict: Callable[..., dict], target: str) -> None:
    module = tf.Module()
    module.model = model
    module.predict = tf.function(predict)
    tf.saved_model.save(module, target, signatures=signatures(module.predict))


def signatures(predict: Callable[..., dict]) -> dict[str, object]:
    images = tf.TensorSpec([None], tf.string, "image_bytes")

    @tf.function
    def predict_examples(examples: tf.Tensor) -> dict[str, tf.Tensor]:
        spec = {features.IMAGE: tf.io.FixedLenFeature([], tf.string)}
        return predict(tf.io.parse_example(examples, spec)[features.IMAGE])

    return {
        export.IMAGES: predict.get_concrete_function(images),  # type: ignore[attr-defined]
        export.EXAMPLES: predict_examples.get_concrete_function(
            tf.TensorSpec([None], tf.string, "examples")
        ),
    }


class TestVerify:
    def test_accepts_the_export(
        self, exported: str, images: list[bytes], expected: np.ndarray
    ) -> None:
        export.verify(exported, images, expected)

    @pytest.mark.parametrize("save", [save_directly, save_in_module])
    def test_refuses_an_export_that_only_works_outside_sessions(
        self, save: Callable[..., None], images: list[bytes], expected: np.ndarray, tmp_path: Path
    ) -> None:
        """The known-bad exports of Keras 3 models: if these pass, `verify` proves nothing."""
        model = keras.Sequential(
            [
                keras.Input((SIZE, SIZE, 3)),
                keras.layers.Rescaling(1 / 64),
                keras.layers.Flatten(),
                keras.layers.Dense(len(CLASSES), kernel_initializer="identity"),
            ]
        )

        def predict(image_bytes: tf.Tensor) -> dict[str, tf.Tensor]:
            pixels = tf.map_fn(
                lambda image: transform.load_image(image, SIZE, "bilinear"),
                image_bytes,
                fn_output_signature=tf.TensorSpec([SIZE, SIZE, 3], tf.uint8),
            )
            return {"probabilities": tf.nn.softmax(model(tf.cast(pixels, tf.float32)))}

        target = str(tmp_path / "model")
        save(model, predict, target)

        loaded = tf.saved_model.load(target).signatures[export.IMAGES](tf.constant(images))
        np.testing.assert_allclose(loaded["probabilities"], expected, rtol=1e-5)
        with pytest.raises(
            export.ExportError,
            match=r"^signature 'serving_default' .* session.* not find variable",
        ):
            export.verify(target, images, expected)

    def test_refuses_other_probabilities(
        self, exported: str, images: list[bytes], expected: np.ndarray
    ) -> None:
        with pytest.raises(export.ExportError, match=r"^signature '\w+' .* 0\.\d+ "):
            export.verify(exported, images[::-1], expected)

    def test_refuses_a_missing_signature(
        self, images: list[bytes], expected: np.ndarray, tmp_path: Path
    ) -> None:
        module = tf.Module()
        module.call = tf.function(tf.identity, [tf.TensorSpec([None], tf.string)])
        target = str(tmp_path / "model")
        tf.saved_model.save(module, target, signatures={"other": module.call})
        with pytest.raises(export.ExportError, match=r"session.* KeyError: 'serving_default'"):
            export.verify(target, images, expected)


def test_softmax_and_not_logits_are_served_whatever_the_model(
    transformed: Transformed, images: Sequence[bytes], tmp_path: Path
) -> None:
    head = keras.layers.Dense(len(CLASSES), kernel_initializer="ones", use_bias=False)
    pixels = keras.Input((SIZE, SIZE, 3), dtype="uint8")
    model = keras.Model(pixels, head(keras.layers.Flatten()(keras.ops.cast(pixels, "float32"))))
    export.export(model, transformed.output, SIZE, CLASSES, str(tmp_path / "model"))
    outputs = export.run_in_session(str(tmp_path / "model"), export.IMAGES, images[:2])
    np.testing.assert_allclose(outputs["probabilities"], 1 / len(CLASSES), rtol=1e-5)
