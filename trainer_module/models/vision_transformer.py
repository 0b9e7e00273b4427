"""The published vision transformers, ViT-Ti/S/B/L, and their weights in the authors' .npz files."""

from __future__ import annotations

import dataclasses
import math
import re
from pathlib import Path
from typing import Any

import keras
import numpy as np
from keras import layers, ops

from trainer_module import weights
from trainer_module.models.vit import Patches, PositionEmbedding
from trainer_module.weights import WeightsError

Shape = tuple[int | None, ...]
POSITIONS = "Transformer/posembed_input/pos_embedding"


@dataclasses.dataclass(frozen=True)
class Variant:
    """Sizes of one published model; `patch_size` in pixels, `dim` is the length of a token."""

    patch_size: int
    dim: int
    depth: int
    heads: int
    mlp_dim: int


VARIANTS = {
    "Ti/16": Variant(16, 192, 12, 3, 768),
    "S/16": Variant(16, 384, 12, 6, 1536),
    "B/16": Variant(16, 768, 12, 12, 3072),
    "B/32": Variant(32, 768, 12, 12, 3072),
    "L/16": Variant(16, 1024, 24, 16, 4096),
    "L/32": Variant(32, 1024, 24, 16, 4096),
    "tiny/4": Variant(4, 24, 2, 3, 48),  # for tests on a CPU; there are no weights of it
}


@keras.saving.register_keras_serializable(package="perennial")
class ClassToken(layers.Layer):
    """Put one learned vector before tokens: [B, T, D] to [B, T + 1, D]."""

    def build(self, input_shape: Shape) -> None:
        """Make the vector [1, 1, D]."""
        self.token = self.add_weight(name="token", shape=(1, 1, input_shape[-1]))

    def call(self, tokens: Any) -> Any:
        """Put it there."""
        first = ops.broadcast_to(self.token, (ops.shape(tokens)[0], 1, tokens.shape[-1]))
        return ops.concatenate([ops.cast(first, tokens.dtype), tokens], axis=1)

    def compute_output_shape(self, input_shape: Shape) -> Shape:
        """Return the shape of what `call` returns."""
        batch, tokens, dim = input_shape
        assert tokens
        return batch, tokens + 1, dim


@keras.saving.register_keras_serializable(package="perennial")
def gelu_tanh(x: Any) -> Any:
    """GELU in its tanh approximation, which the published weights were trained with."""
    return ops.gelu(x, approximate=True)


def vision_transformer(
    variant: Variant,
    *,
    image_size: int,
    num_classes: int,
    dropout: float = 0.0,
    stochastic_depth: float = 0.0,
) -> keras.Model:
    """Build the model: pixels, uint8 [B, image_size, image_size, 3], to logits [B, num_classes].

    The head is all zeros. `image_size` must be a multiple of the patch size. In training the last
    block's branches are left out for a share `stochastic_depth` of the images, those of the blocks
    before it for less.
    """
    images = keras.Input((image_size, image_size, 3), dtype="uint8", name="image")
    x = layers.Rescaling(1 / 127.5, -1, name="rescaling")(images)
    x = Patches(variant.patch_size, name="patches")(x)
    x = layers.Dense(variant.dim, name="embedding")(x)
    x = ClassToken(name="cls")(x)
    x = PositionEmbedding(name="position")(x)
    x = layers.Dropout(dropout, name="drop")(x)
    for index in range(variant.depth):
        dropped = stochastic_depth * index / max(1, variant.depth - 1)
        x = _block(x, f"block{index}", variant, dropout, dropped)
    x = layers.LayerNormalization(epsilon=1e-6, name="norm")(x)[:, 0]
    # In float32 under mixed precision too: the loss and the served probabilities need it.
    head = layers.Dense(num_classes, kernel_initializer="zeros", dtype="float32", name="head")
    return keras.Model(images, head(x), name="vision_transformer")


def _block(x: Any, name: str, variant: Variant, dropout: float, dropped: float) -> Any:
    def branch(y: Any, part: str) -> Any:
        # One draw an image, for all of its tokens.
        shape = (None, 1, 1)
        return layers.Dropout(dropped, shape, name=f"{name}_depth{part}")(y) if dropped else y

    y = layers.LayerNormalization(epsilon=1e-6, name=f"{name}_norm1")(x)
    attention = layers.MultiHeadAttention(
        variant.heads, variant.dim // variant.heads, name=f"{name}_attention"
    )
    y = layers.Dropout(dropout, name=f"{name}_drop1")(attention(y, y))
    x = layers.Add(name=f"{name}_add1")([x, branch(y, "1")])
    y = layers.LayerNormalization(epsilon=1e-6, name=f"{name}_norm2")(x)
    y = layers.Dense(variant.mlp_dim, activation=gelu_tanh, name=f"{name}_mlp0")(y)
    y = layers.Dropout(dropout, name=f"{name}_drop2")(y)
    y = layers.Dense(variant.dim, name=f"{name}_mlp1")(y)
    y = layers.Dropout(dropout, name=f"{name}_drop3")(y)
    return layers.Add(name=f"{name}_add2")([x, branch(y, "2")])


def load_npz(model: keras.Model, path: Path) -> None:
    """Set all weights of a `vision_transformer` but its head's to the arrays of an official file.

    Position embeddings of another image size are resized. The file's head, and the layer before it
    that some files carry, are left out. Raises WeightsError, with nothing assigned, unless every
    other array belongs to one weight and every other weight to one array.
    """
    arrays = {
        name: array
        for name, array in weights.load_npz(path).items()
        if not name.startswith(("head/", "pre_logits/"))
    }
    variables = {
        npz_name(variable.path): variable
        for variable in model.weights
        if not variable.path.startswith("head/")
    }
    kernel = arrays.get("embedding/kernel")
    if kernel is not None and kernel.ndim == 4:
        # It was a convolution; patches are flat here, in the same order.
        arrays["embedding/kernel"] = kernel.reshape(-1, kernel.shape[-1])
    if POSITIONS in arrays:
        table, tokens = arrays[POSITIONS], variables[POSITIONS].shape[0]
        if table.ndim != 3 or table.shape[0] != 1:
            raise WeightsError(f"{path}: {POSITIONS} has shape {table.shape}, not (1, tokens, dim)")
        arrays[POSITIONS] = resize_positions(table[0], tokens)
    weights.assign(arrays, variables, path)


def resize_positions(table: np.ndarray, tokens: int) -> np.ndarray:
    """Position embeddings for another number of tokens: float [T, D] to [tokens, D].

    The first, the class token's, is kept. The others are a square, resized bilinearly with its
    corners in place. Raises WeightsError where either is not one more than a square number.
    """
    old, new = (math.isqrt(count - 1) for count in (len(table), tokens))
    if (old**2, new**2) != (len(table) - 1, tokens - 1):
        raise WeightsError(
            f"{len(table)} position embeddings cannot be resized to {tokens}: both must be a "
            "square number and one for the class token"
        )
    if old == new:
        return table
    places = np.linspace(0, old - 1, new)
    lower = np.clip(np.floor(places).astype(int), 0, max(old - 2, 0))
    share = places - lower
    mix = np.zeros((new, old))
    mix[np.arange(new), lower] = 1 - share
    mix[np.arange(new), np.minimum(lower + 1, old - 1)] += share
    grid = table[1:].reshape(old, old, -1)
    resized = np.einsum("ai,bj,ijd->abd", mix, mix, grid).reshape(new * new, -1)
    return np.concatenate([table[:1], resized.astype(table.dtype)])


_PARTS = {
    "norm1": "LayerNorm_0",
    "attention": "MultiHeadDotProductAttention_1",
    "norm2": "LayerNorm_2",
    "mlp0": "MlpBlock_3/Dense_0",
    "mlp1": "MlpBlock_3/Dense_1",
}
_WHOLE = {
    "cls/token": "cls",
    "position/table": POSITIONS,
    "norm/gamma": "Transformer/encoder_norm/scale",
    "norm/beta": "Transformer/encoder_norm/bias",
}


def npz_name(path: str) -> str:
    """Return the official name of the array for a variable.

    "block0_attention/query/kernel" is
    "Transformer/encoderblock_0/MultiHeadDotProductAttention_1/query/kernel".
    """
    if path in _WHOLE:
        return _WHOLE[path]
    match = re.fullmatch(r"block(\d+)_(\w+?)/(.+)", path)
    if match is None:
        return path
    index, part, rest = match.groups()
    rest = rest.replace("attention_output", "out")
    rest = {"gamma": "scale", "beta": "bias"}.get(rest, rest)
    return f"Transformer/encoderblock_{index}/{_PARTS[part]}/{rest}"
