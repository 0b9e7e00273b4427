"""Vision transformer for small images: no class token, a wide head over all tokens."""

from __future__ import annotations

from typing import Any

import keras
from keras import layers, ops

from trainer_module.recipes.vit import Config

Shape = tuple[int | None, ...]


@keras.saving.register_keras_serializable(package="perennial")
class Patches(layers.Layer):
    """Cut [B, H, W, C] into flat square patches [B, H * W / size**2, size**2 * C], row by row.

    Height and width must be known and multiples of `size`.
    """

    def __init__(self, size: int, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.size = size

    def call(self, images: Any) -> Any:
        """Cut `images` up."""
        _, height, width, channels = images.shape
        rows, columns = height // self.size, width // self.size
        grid = ops.reshape(images, (-1, rows, self.size, columns, self.size, channels))
        grid = ops.transpose(grid, (0, 1, 3, 2, 4, 5))
        return ops.reshape(grid, (-1, rows * columns, self.size**2 * channels))

    def compute_output_shape(self, input_shape: Shape) -> Shape:
        """Return the shape of what `call` returns."""
        batch, height, width, channels = input_shape
        assert height
        assert width
        assert channels
        tokens = height // self.size * (width // self.size)
        return batch, tokens, self.size**2 * channels

    def get_config(self) -> dict[str, Any]:
        """Return the constructor's arguments."""
        return {**super().get_config(), "size": self.size}


@keras.saving.register_keras_serializable(package="perennial")
class PositionEmbedding(layers.Layer):
    """Add one learned vector for each position to tokens [B, T, D]."""

    def build(self, input_shape: Shape) -> None:
        """Make the table [T, D]."""
        self.table = self.add_weight(name="table", shape=input_shape[1:], initializer="uniform")

    def call(self, tokens: Any) -> Any:
        """Add the table."""
        return tokens + self.table


@keras.saving.register_keras_serializable(package="perennial")
class AdaptedNormalization(layers.Normalization):
    """Keras's own goes on with the statistics of before where its weights are set from outside."""

    def call(self, inputs: Any) -> Any:
        """Subtract the means and divide by the deviations that the weights now hold."""
        deviation = ops.maximum(ops.sqrt(self.adapt_variance), keras.config.epsilon())
        return (ops.cast(inputs, self.compute_dtype) - self.adapt_mean) / deviation


def small_vit(config: Config, image_size: int, num_classes: int) -> keras.Model:
    """Build the model: pixels, uint8 [B, image_size, image_size, 3], to logits [B, num_classes].

    Its layer "normalization" must be adapted to images before use. With `config.resize` it takes
    images of any size, and resizes them bilinearly after they are normalized.
    """
    side = None if config.resize else image_size
    images = keras.Input((side, side, 3), dtype="uint8", name="image")
    # In float32 under mixed precision too: its statistics cannot be measured in less.
    x = AdaptedNormalization(dtype="float32", name="normalization")(images)
    if size := config.resize:
        x = layers.Resizing(size, size, dtype="float32", name="resizing")(x)
    x = Patches(config.patch_size, name="patches")(x)
    x = layers.Dense(config.dim, name="projection")(x)
    x = PositionEmbedding(name="position")(x)
    for index in range(config.depth):
        x = _encoder_block(x, f"block{index}", config)
    x = layers.LayerNormalization(epsilon=1e-6, name="norm")(x)
    x = layers.Flatten(name="flatten")(x)
    x = layers.Dropout(config.head_dropout, name="drop")(x)
    for index, units in enumerate(config.head_dims):
        x = layers.Dense(units, activation="gelu", name=f"head{index}")(x)
        x = layers.Dropout(config.head_dropout, name=f"head{index}_drop")(x)
    # In float32 under mixed precision too: the loss and the served probabilities need it.
    logits = layers.Dense(num_classes, dtype="float32", name="logits")(x)
    return keras.Model(images, logits, name="small_vit")


def _encoder_block(x: Any, name: str, config: Config) -> Any:
    normed = layers.LayerNormalization(epsilon=1e-6, name=f"{name}_norm1")(x)
    attention = layers.MultiHeadAttention(
        config.heads, config.key_dim, dropout=config.dropout, name=f"{name}_attention"
    )
    x = layers.Add(name=f"{name}_add1")([x, attention(normed, normed)])
    y = layers.LayerNormalization(epsilon=1e-6, name=f"{name}_norm2")(x)
    for index, units in enumerate((config.mlp_dim, config.dim)):
        y = layers.Dense(units, activation="gelu", name=f"{name}_mlp{index}")(y)
        y = layers.Dropout(config.dropout, name=f"{name}_mlp{index}_drop")(y)
    return layers.Add(name=f"{name}_add2")([x, y])
