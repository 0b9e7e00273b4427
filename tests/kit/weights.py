"""Weights in the form of the published files."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import tensorflow as tf

from trainer_module import weights
from trainer_module.models import vision_transformer as vit
from trainer_module.weights import WeightSpec

Arrays = dict[str, np.ndarray]


def bit_arrays(classes: int = 7, number: Callable[[int], str] = lambda _: "") -> Arrays:
    """Random arrays for the tiny variant, named as the official files name those of larger ones."""
    random = np.random.default_rng(0)
    arrays: Arrays = {}
    convolutions = iter(range(100))

    def conv(place: str, *shape: int) -> None:
        name = f"resnet/{place}/standardized_conv2d{number(next(convolutions))}/kernel"
        arrays[name] = random.normal(0, 1, shape).astype(np.float32)

    def norm(place: str, channels: int) -> None:
        for part in ("gamma", "beta"):
            arrays[f"resnet/{place}group_norm/{part}"] = random.normal(0.5, 1, channels)

    channels, middle = 16, 16
    conv("root_block", 7, 7, 3, channels)
    for block in range(1, 5):
        unit = f"block{block}/unit01"
        norm(f"{unit}/a/", channels)
        conv(f"{unit}/a", 1, 1, channels, middle)
        conv(f"{unit}/a/proj", 1, 1, channels, 4 * middle)
        norm(f"{unit}/b/", middle)
        conv(f"{unit}/b", 3, 3, middle, middle)
        norm(f"{unit}/c/", middle)
        conv(f"{unit}/c", 1, 1, middle, 4 * middle)
        channels, middle = 4 * middle, 2 * middle
    norm("", channels)
    arrays["resnet/head/conv2d/kernel"] = random.normal(0, 1, (1, 1, channels, classes))
    arrays["resnet/head/conv2d/bias"] = random.normal(0, 1, classes)
    return arrays


def save_arrays(path: Path, arrays: Arrays) -> WeightSpec:
    np.savez(path, allow_pickle=False, **arrays)
    return WeightSpec(source=str(path), sha256=hashlib.sha256(path.read_bytes()).hexdigest())


class Backbone(tf.Module):
    """Like a TF-Hub image module: pixels from 0 to 1, to 8 features."""

    def __init__(self) -> None:
        super().__init__()
        kernel = np.random.default_rng(0).normal(0, 1, (3, 3, 3, 8))
        self.kernel = tf.Variable(kernel.astype(np.float32), name="kernel")
        self.scale = tf.Variable(2.0, trainable=False, name="scale")

    @tf.function(input_signature=[tf.TensorSpec([None, None, None, 3], tf.float32)])
    def __call__(self, x: tf.Tensor) -> tf.Tensor:
        features = tf.nn.conv2d(x, self.kernel, 2, "SAME")
        return tf.reduce_mean(tf.nn.relu(features), [1, 2]) * self.scale


def saved_model(path: Path, **changes: object) -> WeightSpec:
    tf.saved_model.save(Backbone(), str(path))
    return WeightSpec(source=str(path), sha256=weights.digest(path)).model_copy(update=changes)


class Shaped:
    """An array of which only the shape is needed."""

    def __init__(self, *shape: int) -> None:
        self.shape = shape


def vit_arrays(
    variant: vit.Variant, side: int, classes: int = 5, *, shapes_only: bool = False
) -> Arrays:
    """Arrays named and shaped as in the official files, for `side` patches a side."""
    random = np.random.default_rng(0)
    dim, heads, mlp = variant.dim, variant.heads, variant.mlp_dim
    each = dim // heads
    shapes: dict[str, tuple[int, ...]] = {
        "cls": (1, 1, dim),
        "embedding/kernel": (variant.patch_size, variant.patch_size, 3, dim),
        "embedding/bias": (dim,),
        "Transformer/posembed_input/pos_embedding": (1, side**2 + 1, dim),
        "Transformer/encoder_norm/scale": (dim,),
        "Transformer/encoder_norm/bias": (dim,),
        "head/kernel": (dim, classes),
        "head/bias": (classes,),
    }
    for index in range(variant.depth):
        block = f"Transformer/encoderblock_{index}"
        attention = f"{block}/MultiHeadDotProductAttention_1"
        for norm in ("LayerNorm_0", "LayerNorm_2"):
            shapes |= {f"{block}/{norm}/scale": (dim,), f"{block}/{norm}/bias": (dim,)}
        for part in ("query", "key", "value"):
            shapes[f"{attention}/{part}/kernel"] = (dim, heads, each)
            shapes[f"{attention}/{part}/bias"] = (heads, each)
        shapes |= {f"{attention}/out/kernel": (heads, each, dim), f"{attention}/out/bias": (dim,)}
        mlp_block = f"{block}/MlpBlock_3"
        shapes |= {f"{mlp_block}/Dense_0/kernel": (dim, mlp), f"{mlp_block}/Dense_0/bias": (mlp,)}
        shapes |= {f"{mlp_block}/Dense_1/kernel": (mlp, dim), f"{mlp_block}/Dense_1/bias": (dim,)}
    if shapes_only:
        return {name: Shaped(*shape) for name, shape in shapes.items()}  # type: ignore[misc]
    return {name: random.normal(0, 0.1, shape).astype("float32") for name, shape in shapes.items()}
