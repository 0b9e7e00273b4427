"""The SavedModel that is evaluated, pushed and served: encoded images in, probabilities out.

It holds Transform's graph, so that a served image is prepared as the training images were.
"""

from __future__ import annotations

import json
from collections.abc import Sequence

import keras
import numpy as np
import tensorflow as tf
import tensorflow_transform as tft

from components import features, servable, storage
from components.wording import of_op
from trainer_module import transform

IMAGES, EXAMPLES = servable.IMAGES, servable.EXAMPLES
LABELS, EMBEDDINGS = servable.LABELS, servable.EMBEDDINGS
CLASSES_FILE, INPUT_FILE = servable.CLASSES_FILE, servable.INPUT_FILE


class ExportError(Exception):
    """The SavedModel cannot be served, or does not predict what the trained model does."""


def export(
    model: keras.Model,
    transform_output: tft.TFTransformOutput,
    image_size: int,
    classes: Sequence[str],
    export_dir: str,
) -> None:
    """Write `model`, pixels to logits, as a SavedModel with four signatures.

    - serving_default(image_bytes: string [N], encoded images) and
      serving_examples(examples: string [N], serialized tf.Examples with "image/encoded") give
      {"probabilities": float32 [N, classes], "label": string [N], the most probable class}.
    - transform_labels(examples: string [N], with "image/class/text") gives {"label": int64 [N]},
      -1 for a class that the model does not know; evaluation takes the true labels from it.
    - embeddings(image_bytes: string [N]) gives {"embedding": float32 [N, D]}, what the last layer
      is given; drift is measured in it.

    One image that cannot be decoded fails its whole batch; it takes JPEG and PNG, see
    `components.decoding`. The class names, in the order of the probabilities, are also in
    CLASSES_FILE, and the side of the model's input, in pixels, in INPUT_FILE.
    """
    prepare = transform_output.transform_features_layer()
    shapes = transform_output.raw_feature_spec()

    def prepared(name: str, values: tf.Tensor) -> dict[str, tf.Tensor]:
        return prepare({name: tf.reshape(values, [-1, *shapes[name].shape])})

    def predict(image_bytes: tf.Tensor) -> dict[str, tf.Tensor]:
        pixels = prepared(features.IMAGE, image_bytes)[transform.IMAGE_KEY]
        logits = model(transform.decode_pixels(pixels, image_size), training=False)
        best = tf.argmax(logits, axis=-1)
        return {"probabilities": tf.nn.softmax(logits), "label": tf.gather(list(classes), best)}

    def parsed(examples: tf.Tensor, name: str) -> tf.Tensor:
        return tf.io.parse_example(examples, {name: tf.io.FixedLenFeature([], tf.string)})[name]

    def predict_examples(examples: tf.Tensor) -> dict[str, tf.Tensor]:
        return predict(parsed(examples, features.IMAGE))

    embed = penultimate(model)

    def embeddings(image_bytes: tf.Tensor) -> dict[str, tf.Tensor]:
        pixels = prepared(features.IMAGE, image_bytes)[transform.IMAGE_KEY]
        outputs = embed(transform.decode_pixels(pixels, image_size), training=False)
        return {"embedding": tf.cast(outputs, tf.float32)}

    def labels(examples: tf.Tensor) -> dict[str, tf.Tensor]:
        names = parsed(examples, features.LABEL_TEXT)
        return {"label": prepared(features.LABEL_TEXT, names)[transform.LABEL_KEY]}

    # Saved by other means a Keras 3 model loads, and then finds no variables in a server's session.
    archive = keras.export.ExportArchive()
    archive.track(model)
    archive.track(embed)
    archive.track(prepare)
    for name, function, argument in (
        (IMAGES, predict, "image_bytes"),
        (EXAMPLES, predict_examples, "examples"),
        (LABELS, labels, "examples"),
        (EMBEDDINGS, embeddings, "image_bytes"),
    ):
        archive.add_endpoint(name, function, [tf.TensorSpec([None], tf.string, argument)])
    archive.write_out(export_dir, verbose=False)

    texts = {
        CLASSES_FILE: json.dumps(list(classes), ensure_ascii=False),
        INPUT_FILE: json.dumps({"image_size": image_size}),
    }
    for name, text in texts.items():
        storage.write_text(storage.join(export_dir, name), f"{text}\n", durable=False)


def penultimate(model: keras.Model) -> keras.Model:
    """Cut off the last layer of `model`, or of the model that it ends in."""
    last = model.layers[-1]
    if isinstance(last, keras.Model):
        return keras.Model(model.inputs, penultimate(last)(model.layers[-2].output))
    return keras.Model(model.inputs, last.input)


def run_in_session(
    export_dir: str, signature: str, inputs: Sequence[bytes]
) -> dict[str, np.ndarray]:
    """Call a one-input signature the way that TensorFlow Serving does: in a session.

    Raises:
        tf.errors.OpError: from the session.
        KeyError: there is no such signature.
    """
    with tf.Graph().as_default(), tf.compat.v1.Session() as session:
        loaded = tf.compat.v1.saved_model.load(session, [tf.saved_model.SERVING], export_dir)
        # A protobuf map makes up what it lacks.
        definition = dict(loaded.signature_def)[signature]
        (source,) = definition.inputs.values()
        fetches = {key: tensor.name for key, tensor in definition.outputs.items()}
        outputs: dict[str, np.ndarray] = session.run(fetches, {source.name: list(inputs)})
        return outputs


def verify(export_dir: str, images: Sequence[bytes], probabilities: np.ndarray) -> None:
    """Check that the SavedModel predicts `probabilities` [N, classes] for the encoded `images`.

    Both serving signatures are called, loaded into Python and in a session: an export can work in
    the one and fail in the other.

    Raises:
        ExportError: a signature fails, or predicts anything else.
    """
    loaded = tf.saved_model.load(export_dir)
    calls = {IMAGES: list(images), EXAMPLES: [_example(image) for image in images]}
    for signature, inputs in calls.items():
        for how in ("in a session", "loaded into Python"):
            where = f"signature {signature!r} of {export_dir}, {how},"
            try:
                if how == "in a session":
                    outputs = run_in_session(export_dir, signature, inputs)
                else:
                    outputs = loaded.signatures[signature](tf.constant(inputs))
            except (KeyError, tf.errors.OpError) as error:
                raise ExportError(
                    f"{where} fails: {type(error).__name__}: {of_op(str(error))}"
                ) from error
            served = np.asarray(outputs["probabilities"])
            if not np.allclose(served, probabilities, rtol=0, atol=1e-4):
                raise ExportError(
                    f"{where} gives probabilities that are up to "
                    f"{np.abs(served - probabilities).max():.2g} from the trained model's"
                )


def _example(image: bytes) -> bytes:
    feature = tf.train.Feature(bytes_list=tf.train.BytesList(value=[image]))
    return tf.train.Example(
        features=tf.train.Features(feature={features.IMAGE: feature})
    ).SerializeToString()
