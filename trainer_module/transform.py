"""The one preprocessing of every image, used in training, evaluation and serving alike.

Transform runs `preprocessing_fn` over the examples and saves it as a graph, which the exported
model embeds. `decode_pixels` turns its output back into pixels in all three places.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import tensorflow as tf
import tensorflow_transform as tft

from components import features

IMAGE_KEY = "image"  # bytes: size * size * 3 pixel values, row by row, RGB
LABEL_KEY = "label"  # int64, position in the class list; -1 for a class that is not in it


def preprocessing_fn(
    inputs: Mapping[str, tf.Tensor], custom_config: Mapping[str, Any]
) -> dict[str, tf.Tensor]:
    """Decode, resize and label a batch of raw examples.

    Args:
        inputs: the features of `components.features`, dense, shape [N] or [N, 1].
        custom_config: `image_size` (pixels, both sides), `resize` (a method of `tf.image.resize`),
            `center_crop` (cut the largest central square first instead of squeezing the image into
            one), `classes` (class names; a label is the position in this list).

    Returns:
        `IMAGE_KEY`: string [N], `LABEL_KEY`: int64 [N] and the content hash: string [N].

    Raises:
        ValueError: a sparse feature, or an unknown `resize`.
        tf.errors.InvalidArgumentError: when run, on bytes that are no image; it fails the batch.
    """
    size = int(custom_config["image_size"])
    resize = custom_config["resize"]
    crop = custom_config["center_crop"]

    def pixels(encoded: tf.Tensor) -> tf.Tensor:
        return encode_pixels(load_image(encoded, size, resize, center_crop=crop))

    return {
        IMAGE_KEY: tf.map_fn(pixels, _flat(inputs, features.IMAGE), fn_output_signature=tf.string),
        LABEL_KEY: _label_ids(_flat(inputs, features.LABEL_TEXT), custom_config["classes"]),
        features.SHA256: _flat(inputs, features.SHA256),
    }


def load_image(encoded: tf.Tensor, size: int, resize: str, *, center_crop: bool) -> tf.Tensor:
    """Pixels, uint8 [size, size, 3], of one encoded JPEG, PNG, GIF (first frame), BMP or WebP.

    Gray is repeated over the three channels and alpha is dropped. EXIF orientation is not applied.
    """
    image = tf.io.decode_image(encoded, channels=3, expand_animations=False)
    image.set_shape([None, None, 3])
    if center_crop:
        side = tf.minimum(tf.shape(image)[0], tf.shape(image)[1])
        image = tf.image.resize_with_crop_or_pad(image, side, side)
    # Without antialiasing a photo shrunk to a tenth keeps one pixel in a hundred.
    image = tf.image.resize(image, [size, size], method=resize, antialias=True)
    # The cast saturates because bicubic and Lanczos overshoot at edges.
    return tf.saturate_cast(tf.round(image), tf.uint8)


def encode_pixels(image: tf.Tensor) -> tf.Tensor:
    """The values of one uint8 [H, W, 3] image as a scalar string of H * W * 3 bytes."""
    # A serialized tensor ends in its values, and no other op turns pixels into bytes losslessly.
    return tf.strings.substr(tf.io.serialize_tensor(image), -tf.size(image), tf.size(image))


def decode_pixels(pixels: tf.Tensor, size: int) -> tf.Tensor:
    """Undo `encode_pixels`: string [...] to uint8 [..., size, size, 3]. Fails for another size."""
    shape = tf.concat([tf.shape(pixels), [size, size, 3]], axis=0)
    return tf.reshape(tf.io.decode_raw(pixels, tf.uint8), shape)


def prepare(
    transform_output: tft.TFTransformOutput, size: int, images: Sequence[bytes]
) -> tf.Tensor:
    """Pixels, uint8 [N, size, size, 3], of encoded images, by Transform's saved graph."""
    shape = transform_output.raw_feature_spec()[features.IMAGE].shape
    prepared = transform_output.transform_raw_features(
        {features.IMAGE: tf.reshape(tf.constant(images), [-1, *shape])}, drop_unused_features=True
    )
    return decode_pixels(prepared[IMAGE_KEY], size)


def _label_ids(names: tf.Tensor, classes: Sequence[str]) -> tf.Tensor:
    def table() -> tf.lookup.StaticHashTable:
        ids = tf.range(len(classes), dtype=tf.int64)
        initializer = tf.lookup.KeyValueTensorInitializer(list(classes), ids)
        return tf.lookup.StaticHashTable(initializer, default_value=-1)

    return tft.make_and_track_object(table).lookup(names)


def _flat(inputs: Mapping[str, tf.Tensor], name: str) -> tf.Tensor:
    tensor = inputs[name]
    if isinstance(tensor, tf.SparseTensor):
        raise ValueError(
            f"feature {name!r} has no fixed shape in the schema, so examples may lack it; "
            "let SchemaGen infer shapes, or give it `shape { dim { size: 1 } }` in the schema file"
        )
    return tf.reshape(tensor, [-1])
