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
from components.decoding import decode

IMAGE_KEY = "image"  # bytes: size * size * 3 pixel values, row by row, RGB
TRAIN_IMAGE_KEY = "train_image"  # the same at another size, to be cropped at random in training
# Int64, pixels of the original that the squares show: they are stretched from that.
HEIGHT_KEY, WIDTH_KEY = "height", "width"
LABEL_KEY = "label"  # int64, position in the class list; -1 for a class that is not in it

RESIZE_POLICY = (
    "interpolation",
    "antialias",
    "resize_mode",
    "crop_fraction",
)  # of the configuration


def preprocessing_fn(
    inputs: Mapping[str, tf.Tensor], custom_config: Mapping[str, Any]
) -> dict[str, tf.Tensor]:
    """Decode, resize and label a batch of raw examples.

    Args:
        inputs: the features of `components.features`, dense, shape [N] or [N, 1].
        custom_config: `image_size` (pixels, both sides), `train_size` (the same for training, or
            None for equal), `interpolation`, `antialias`, `resize_mode` and `crop_fraction` (see
            `resize_image`), `classes` (class names; a label is the position in this list).

    Returns:
        `IMAGE_KEY` and, with a `train_size`, `TRAIN_IMAGE_KEY`: string [N], `HEIGHT_KEY`,
        `WIDTH_KEY` and `LABEL_KEY`: int64 [N], and the content hash: string [N].

    Raises: tf.errors.InvalidArgumentError: when run, on bytes that are not an image; it fails the
    batch.
    """
    sizes = {IMAGE_KEY: int(custom_config["image_size"])}
    if custom_config["train_size"]:
        sizes[TRAIN_IMAGE_KEY] = int(custom_config["train_size"])
    policy = {name: custom_config[name] for name in RESIZE_POLICY}

    def pixels(encoded: tf.Tensor) -> dict[str, tf.Tensor]:
        image = decode(encoded).pixels
        height, width = tf.unstack(shown(image, policy["resize_mode"], policy["crop_fraction"]))
        squares = {
            key: encode_pixels(resize_image(image, size, **policy)) for key, size in sizes.items()
        }
        return {**squares, HEIGHT_KEY: height, WIDTH_KEY: width}

    images = tf.map_fn(
        pixels,
        _flat(inputs, features.IMAGE),
        fn_output_signature={
            **dict.fromkeys(sizes, tf.string),
            **dict.fromkeys((HEIGHT_KEY, WIDTH_KEY), tf.int64),
        },
    )
    return {
        **images,
        LABEL_KEY: _label_ids(_flat(inputs, features.LABEL_TEXT), custom_config["classes"]),
        features.SHA256: _flat(inputs, features.SHA256),
    }


def load_image(encoded: tf.Tensor, size: int, interpolation: str, **policy: Any) -> tf.Tensor:
    """Decode, then resize: see `components.decoding` and `resize_image`."""
    return resize_image(decode(encoded).pixels, size, interpolation, **policy)


def resize_image(
    image: tf.Tensor,
    size: int,
    interpolation: str,
    *,
    antialias: bool = True,
    resize_mode: str = "stretch",
    crop_fraction: float = 1.0,
) -> tf.Tensor:
    """Bring uint8 [H, W, 3] to uint8 [size, size, 3].

    Args:
        image: pixels.
        size: pixels, both sides.
        interpolation: a method of `tf.image.resize`. "area" averages what it shrinks, at hardly
            any cost, and is bilinear where it enlarges, for which TensorFlow's own repeats pixels.
        antialias: widen the method's kernel where it shrinks; "area" needs none.
        resize_mode: "stretch" changes the aspect ratio, "crop" keeps the central square only, "pad"
            keeps all and adds black on two sides.
        crop_fraction: keep the central part of each side after that, in (0, 1].
    """
    if resize_mode == "crop":
        side = tf.reduce_min(tf.shape(image)[:2])
        image = _central(image, tf.stack([side, side]))
    if crop_fraction < 1:
        image = _central(image, _scaled(tf.shape(image)[:2], crop_fraction))
    target = tf.constant([size, size])
    if resize_mode == "pad":
        shape = tf.shape(image)[:2]
        target = _scaled(shape, size / tf.reduce_max(shape))
    if interpolation == "area":
        image = tf.image.resize(image, tf.minimum(target, tf.shape(image)[:2]), method="area")
        image = tf.image.resize(image, target, method="bilinear")
    else:
        image = tf.image.resize(image, target, method=interpolation, antialias=antialias)
    # The cast saturates because bicubic and Lanczos overshoot at edges.
    image = tf.saturate_cast(tf.round(image), tf.uint8)
    return tf.ensure_shape(tf.image.resize_with_crop_or_pad(image, size, size), [size, size, 3])


def shown(image: tf.Tensor, resize_mode: str, crop_fraction: float) -> tf.Tensor:
    """Height and width, int64 [2], of the part of an image that `resize_image` makes a square."""
    shape = tf.shape(image)[:2]
    if resize_mode == "crop":
        shape = tf.fill([2], tf.reduce_min(shape))
    if resize_mode == "pad":
        shape = tf.fill([2], tf.reduce_max(shape))
    return tf.cast(_scaled(shape, crop_fraction), tf.int64)


def _central(image: tf.Tensor, shape: tf.Tensor) -> tf.Tensor:
    top, left = tf.unstack((tf.shape(image)[:2] - shape) // 2)
    return image[top : top + shape[0], left : left + shape[1]]


def _scaled(shape: tf.Tensor, factor: Any) -> tf.Tensor:
    scaled = tf.round(tf.cast(shape, tf.float64) * tf.cast(factor, tf.float64))
    # The short side of a panorama must not vanish.
    return tf.maximum(tf.cast(scaled, tf.int32), 1)


def encode_pixels(image: tf.Tensor) -> tf.Tensor:
    """Pack one uint8 [H, W, 3] image into a scalar string of H * W * 3 bytes."""
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
    return tf.reshape(inputs[name], [-1])
