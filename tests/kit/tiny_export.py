"""SavedModels for tests of serving, made in seconds instead of trained."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from components.features import IMAGE, LABEL_TEXT

CLASSES = ["red", "green", "blue"]
SIZE = 8  # pixels on a side that images are resized to


def export_colour_model(
    directory: Path,
    sharpness: float = 1.0,
    classes: Sequence[str] = CLASSES,
    channels: str = "rgb",
    bias: float = 0.0,
) -> None:
    """Write a model that tells images apart by their mean colour, with a trained one's signatures:

    serving_default(image_bytes: string [N]) and serving_examples(examples: string [N]), both to
    {"probabilities": float32 [N, classes], "label": string [N]}, transform_labels(examples) to
    {"label": int64 [N]}, and embeddings(image_bytes) to {"embedding": float32 [N, 3]}. `sharpness`
    scales the logits, so that versions can be told apart by their probabilities; `channels` names
    the one that speaks for each class, and `bias` is for the first.
    """
    import keras
    import numpy as np
    import tensorflow as tf

    model = keras.Sequential(
        [
            keras.layers.Input((SIZE, SIZE, 3)),
            keras.layers.GlobalAveragePooling2D(),
            keras.layers.Dense(len(classes)),
        ]
    )
    votes = np.eye(3)[:, ["rgb".index(channel) for channel in channels]]
    model.layers[-1].set_weights([votes * sharpness / 255, bias * np.eye(len(classes))[0]])

    def decode(encoded: tf.Tensor) -> tf.Tensor:
        image = tf.io.decode_image(encoded, channels=3, expand_animations=False)
        return tf.image.resize(image, (SIZE, SIZE))

    def classify(image_bytes: tf.Tensor) -> dict[str, tf.Tensor]:
        images = tf.map_fn(decode, image_bytes, fn_output_signature=tf.float32)
        probabilities = tf.nn.softmax(model(tf.reshape(images, (-1, SIZE, SIZE, 3))))
        label = tf.gather(tf.constant(classes), tf.argmax(probabilities, -1))
        return {"probabilities": probabilities, "label": label}

    def embeddings(image_bytes: tf.Tensor) -> dict[str, tf.Tensor]:
        images = tf.map_fn(decode, image_bytes, fn_output_signature=tf.float32)
        return {"embedding": tf.reduce_mean(images, axis=(1, 2))}

    def classify_examples(examples: tf.Tensor) -> dict[str, tf.Tensor]:
        features = tf.io.parse_example(examples, {IMAGE: tf.io.FixedLenFeature([], tf.string)})
        return classify(features[IMAGE])

    def label_ids(examples: tf.Tensor) -> dict[str, tf.Tensor]:
        spec = {LABEL_TEXT: tf.io.FixedLenFeature([], tf.string)}
        known = tf.io.parse_example(examples, spec)[LABEL_TEXT][:, None] == list(classes)
        found = tf.argmax(tf.cast(known, tf.int64), axis=1)
        return {"label": tf.where(tf.reduce_any(known, axis=1), found, -1)}

    archive = keras.export.ExportArchive()
    archive.track(model)
    for name, function, argument in (
        ("serving_default", classify, "image_bytes"),
        ("serving_examples", classify_examples, "examples"),
        ("transform_labels", label_ids, "examples"),
        ("embeddings", embeddings, "image_bytes"),
    ):
        spec = tf.TensorSpec([None], tf.string, name=argument)
        archive.add_endpoint(name, function, input_signature=[spec])
    archive.write_out(str(directory), verbose=False)
    extra = directory / "assets.extra"
    extra.mkdir()
    (extra / "classes.json").write_text(json.dumps(list(classes)))


def export_waiting_model(directory: Path) -> None:
    """Write a model that computes until a file exists: serving_default(path: string [1])."""
    import keras
    import tensorflow as tf

    def wait(path: tf.Tensor) -> dict[str, tf.Tensor]:
        def absent(_: tf.Tensor) -> tf.Tensor:
            return tf.equal(tf.size(tf.io.matching_files(path)), 0)

        turns = tf.while_loop(absent, lambda turn: (turn + 1,), (tf.constant(0),))
        return {"turns": tf.reshape(turns[0], [1])}

    archive = keras.export.ExportArchive()
    archive.track(keras.Sequential([keras.layers.Input((1,)), keras.layers.Dense(1)]))
    archive.add_endpoint("serving_default", wait, [tf.TensorSpec([1], tf.string, name="path")])
    archive.write_out(str(directory), verbose=False)


def export_wide_model(directory: Path) -> None:
    """Write a model that answers 12 MB: serving_default(text: string [1]) to string [1]."""
    import tensorflow as tf

    class Wide(tf.Module):
        @tf.function(input_signature=[tf.TensorSpec([1], tf.string, "text")])
        def call(self, text: tf.Tensor) -> dict[str, tf.Tensor]:
            return {"wide": tf.reshape(tf.strings.join([text] * 12_000), [1])}

    module = Wide()
    tf.saved_model.save(module, str(directory), module.call.get_concrete_function())


def write_warmup(directory: Path, values: Sequence[bytes], signature: str, argument: str) -> None:
    """Put warm-up requests, one for each value, into the SavedModel in `directory`."""
    import tensorflow as tf
    from tensorflow_serving.apis.prediction_log_pb2 import PredictionLog

    path = directory / "assets.extra" / "tf_serving_warmup_requests"
    path.parent.mkdir(exist_ok=True)
    with tf.io.TFRecordWriter(str(path)) as writer:
        for value in values:
            log = PredictionLog()
            request = log.predict_log.request
            request.model_spec.signature_name = signature
            request.inputs[argument].CopyFrom(tf.make_tensor_proto([value]))
            writer.write(log.SerializeToString())


def export_echo_model(directory: Path) -> None:
    """Write a model that hands its inputs through.

    A signature for each type is called like it, such as int32(x: int32 [...]) to {"x": int32
    [...]}; "bytes" hands strings through as x_bytes, and serving_default takes the inputs number
    (float32 [N, ...]), count (int32 [N, ...]) and text (string [N, ...]).
    """
    import tensorflow as tf

    def echo(dtype: tf.DType, name: str) -> tf.types.experimental.ConcreteFunction:
        @tf.function(input_signature=[tf.TensorSpec(None, dtype, "x")])
        def call(x: tf.Tensor) -> dict[str, tf.Tensor]:
            return {name: tf.identity(x)}

        return call.get_concrete_function()

    @tf.function(
        input_signature=[
            tf.TensorSpec(None, tf.float32, "number"),
            tf.TensorSpec(None, tf.int32, "count"),
            tf.TensorSpec(None, tf.string, "text"),
        ]
    )
    def several(number: tf.Tensor, count: tf.Tensor, text: tf.Tensor) -> dict[str, tf.Tensor]:
        return {"number": tf.identity(number), "count": count + 0, "text": tf.identity(text)}

    types = (tf.int32, tf.int64, tf.uint8, tf.float32, tf.float64, tf.bool, tf.string)
    signatures = {dtype.name: echo(dtype, "x") for dtype in types}
    signatures["bytes"] = echo(tf.string, "x_bytes")
    signatures["serving_default"] = several.get_concrete_function()
    module = tf.Module()
    module.functions = signatures
    tf.saved_model.save(module, str(directory), signatures)
