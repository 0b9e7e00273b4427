"""Where a model looked: activation of convolutional networks, attention of transformers."""

from __future__ import annotations

import io
import math
from collections.abc import Callable, Sequence

import keras
import numpy as np
import tensorflow as tf
from keras import layers

from components import features
from trainer_module import input_pipeline, transform
from trainer_module.models.views import SquareView
from trainer_module.models.vision_transformer import ClassToken

FILE = "attention.npz"
MOST = 24  # images: as many mistakes as the report shows
_GRID = 56  # cells a side, of maps that cover a part of the image only

Maps = Callable[[np.ndarray], tuple[np.ndarray, np.ndarray]]


def of_mistakes(
    model: keras.Model, patterns: Sequence[str], image_size: int, batch_size: int
) -> bytes | None:
    """Where `model` looked in the images that it is most confidently wrong about.

    Args:
        model: pixels to logits.
        patterns: of files of transformed examples.
        image_size: pixels of a side.
        batch_size: images at once.

    Returns:
        An .npz file: digests [N], the SHA-256 of the original images, and maps, uint8 [N, h, w],
        255 where the network looked most. None for a network without such a map, or one
        without a mistake.
    """
    maps = looked(model)
    if maps is None:
        return None
    found: list[tuple[float, bytes, np.ndarray]] = []
    for pixels, labels, digests in _examples(patterns, image_size, batch_size):
        probabilities = tf.nn.softmax(model(pixels, training=False)).numpy()
        chosen = probabilities.argmax(axis=1)
        found += [
            (float(probabilities[row, chosen[row]]), digests[row].numpy(), pixels[row].numpy())
            for row in np.flatnonzero(chosen != labels.numpy())
        ]
        # Stable, as the order of equally confident ones in the report.
        found = sorted(found, key=lambda each: -each[0])[:MOST]
    if not found:
        return None
    shown = [maps(pixels[None])[0][0] for _, _, pixels in found]
    scaled = [255 * each / max(float(each.max()), 1e-9) for each in shown]
    buffer = io.BytesIO()
    np.savez(
        buffer,
        digests=np.array([digest.decode() for _, digest, _ in found]),
        maps=np.stack(scaled).round().astype(np.uint8),
    )
    return buffer.getvalue()


def looked(model: keras.Model) -> Maps | None:
    """Make a function of images, uint8 [N, H, W, 3], to maps float32 [N, h, w] >= 0, and logits.

    The maps cover the image that `model` is given, and are those of the class that it chooses.
    None for a network without attention, and without an average of all places before its head.
    """
    net, view = _inside(model)
    of_net = _rollout(net) or _activation(net)
    if of_net is None or view is None:
        return of_net

    def through(images: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        maps, logits = of_net(np.asarray(view(images)))
        return (_in_the_centre(maps, view.size / images.shape[1]) if view.crop else maps), logits

    return through


def _inside(model: keras.Model) -> tuple[keras.Model, SquareView | None]:
    """Return the network behind a view, and the view."""
    if isinstance(model.layers[-1], keras.Model):
        view = next((each for each in model.layers if isinstance(each, SquareView)), None)
        return model.layers[-1], view
    return model, None


def _activation(net: keras.Model) -> Maps | None:
    """Compute the class activation map (arXiv 1512.04150).

    It is what Grad-CAM (arXiv 1610.02391) comes to where a linear head follows the average of the
    last feature map, as in all convolutional networks here.
    """
    pools = [each for each in net.layers if isinstance(each, layers.GlobalAveragePooling2D)]
    head = net.layers[-1]
    if not (pools and isinstance(head, layers.Dense)):
        return None
    probe = keras.Model(net.input, [pools[-1].input, net.output])
    if probe.outputs[0].shape[-1] != head.kernel.shape[0]:
        return None

    def maps(images: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        values, logits = (np.asarray(each, np.float32) for each in probe(images, training=False))
        kernel = np.asarray(head.kernel, np.float32)[:, logits.argmax(axis=1)]
        return np.maximum(np.einsum("nhwk,kn->nhw", values, kernel), 0), logits

    return maps


def _rollout(net: keras.Model) -> Maps | None:
    """Attention rollout (arXiv 2005.00928): the mean over heads, and half of each token kept.

    The head takes the class token, or all tokens alike where there is none.
    """
    attentions = [each for each in net.layers if isinstance(each, layers.MultiHeadAttention)]
    if not attentions:
        return None
    inputs = [keras.tree.flatten(each.input)[0] for each in attentions]
    probe = keras.Model(net.input, [*inputs, net.output])
    with_class = any(isinstance(each, ClassToken) for each in net.layers)

    def maps(images: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        *tokens, logits = probe(images, training=False)
        seen = np.eye(int(tokens[0].shape[1]))[None]
        for attention, values in zip(attentions, tokens, strict=True):
            _, scores = attention(values, values, return_attention_scores=True, training=False)
            mixed = np.asarray(scores, np.float64).mean(axis=1)
            seen = (0.5 * mixed + 0.5 * np.eye(mixed.shape[-1])) @ seen
        rows = seen[:, 0, 1:] if with_class else seen.mean(axis=1)
        side = math.isqrt(rows.shape[1])
        rows = rows - rows.min(axis=1, keepdims=True)  # a token sees a little of each
        return rows.reshape(-1, side, side).astype(np.float32), np.asarray(logits)

    return maps


def _in_the_centre(maps: np.ndarray, share: float) -> np.ndarray:
    """Pad maps of the central `share` of each side to maps of the whole."""
    side = max(1, round(_GRID * share))
    start = (_GRID - side) // 2
    whole = np.zeros((len(maps), _GRID, _GRID), np.float32)
    resized = tf.image.resize(maps[..., None], [side, side])[..., 0]
    whole[:, start : start + side, start : start + side] = resized
    return whole


def _examples(patterns: Sequence[str], image_size: int, batch_size: int) -> tf.data.Dataset:
    """Pixels, labels and digests."""
    spec = {
        transform.IMAGE_KEY: tf.io.FixedLenFeature([], tf.string),
        transform.LABEL_KEY: tf.io.FixedLenFeature([], tf.int64),
        features.SHA256: tf.io.FixedLenFeature([], tf.string),
    }

    def parse(records: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
        batch = tf.io.parse_example(records, spec)
        pixels = transform.decode_pixels(batch[transform.IMAGE_KEY], image_size)
        return pixels, batch[transform.LABEL_KEY], batch[features.SHA256]

    return input_pipeline.records(patterns).batch(batch_size).map(parse).prefetch(1)
