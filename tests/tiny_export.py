"""A SavedModel with the signatures of a trained one, made in seconds instead of trained.

It tells images apart by their mean colour: the classes are the colour channels.
"""

from __future__ import annotations

import json
from pathlib import Path

from components.features import IMAGE

CLASSES = ["red", "green", "blue"]
SIZE = 8  # pixels on a side that images are resized to


def export_colour_model(directory: Path, sharpness: float = 1.0) -> None:
    """Write the model to `directory`.

    Signatures: serving_default(image_bytes: string [N]) and serving_examples(examples: string [N]),
    both to {"probabilities": float32 [N, 3], "label": string [N]}. `sharpness` scales the logits,
    so that two versions can be told apart by their probabilities.
    """
    import keras
    import numpy as np
    import tensorflow as tf

    model = keras.Sequential(
        [
            keras.layers.Input((SIZE, SIZE, 3)),
            keras.layers.GlobalAveragePooling2D(),
            keras.layers.Dense(len(CLASSES)),
        ]
    )
    model.layers[-1].set_weights([np.eye(3) * sharpness / 255, np.zeros(3)])

    def decode(encoded: tf.Tensor) -> tf.Tensor:
        image = tf.io.decode_image(encoded, channels=3, expand_animations=False)
        return tf.image.resize(image, (SIZE, SIZE))

    def classify(image_bytes: tf.Tensor) -> dict[str, tf.Tensor]:
        images = tf.map_fn(decode, image_bytes, fn_output_signature=tf.float32)
        probabilities = tf.nn.softmax(model(tf.reshape(images, (-1, SIZE, SIZE, 3))))
        label = tf.gather(tf.constant(CLASSES), tf.argmax(probabilities, -1))
        return {"probabilities": probabilities, "label": label}

    def classify_examples(examples: tf.Tensor) -> dict[str, tf.Tensor]:
        features = tf.io.parse_example(examples, {IMAGE: tf.io.FixedLenFeature([], tf.string)})
        return classify(features[IMAGE])

    archive = keras.export.ExportArchive()
    archive.track(model)
    for name, function, argument in (
        ("serving_default", classify, "image_bytes"),
        ("serving_examples", classify_examples, "examples"),
    ):
        spec = tf.TensorSpec([None], tf.string, name=argument)
        archive.add_endpoint(name, function, input_signature=[spec])
    archive.write_out(str(directory), verbose=False)
    extra = directory / "assets.extra"
    extra.mkdir()
    (extra / "classes.json").write_text(json.dumps(CLASSES))
