"""The part of a larger image that a model takes: all of it shrunk, or its centre."""

from __future__ import annotations

from typing import Any

import keras
from keras import layers, ops

Shape = tuple[int | None, ...]


@keras.saving.register_keras_serializable(package="perennial")
class SquareView(layers.Layer):
    """Turn uint8 [B, H, W, C], H = W, into uint8 [B, size, size, C].

    Either the centre is cut out, or the whole is shrunk, bilinearly. Images of that size pass
    unchanged.
    """

    def __init__(self, size: int, *, crop: bool, antialias: bool = True, **kwargs: Any) -> None:
        super().__init__(**{"dtype": "uint8", **kwargs})
        self.size = size
        self.crop = crop
        self.antialias = antialias

    def call(self, images: Any) -> Any:
        """Cut or shrink."""
        side = images.shape[1]
        if side == self.size:
            return images
        if self.crop:
            start = (ops.shape(images)[1] - self.size) // 2
            return images[:, start : start + self.size, start : start + self.size]
        shrunk = ops.image.resize(
            ops.cast(images, "float32"), (self.size, self.size), antialias=self.antialias
        )
        return ops.cast(ops.round(shrunk), "uint8")

    def compute_output_shape(self, input_shape: Shape) -> Shape:
        """Return the shape of what `call` returns."""
        return input_shape[0], self.size, self.size, input_shape[3]

    def get_config(self) -> dict[str, Any]:
        """Return the constructor's arguments."""
        config = {"size": self.size, "crop": self.crop, "antialias": self.antialias}
        return {**super().get_config(), **config}


def seen_through(net: keras.Model, size: int, *, crop: bool, antialias: bool = True) -> keras.Model:
    """`net`, which takes images of `size`, as a model of square uint8 images of any larger size."""
    images = keras.Input((None, None, 3), dtype="uint8", name="image")
    view = SquareView(size, crop=crop, antialias=antialias, name="view")
    return keras.Model(images, net(view(images)), name=f"{net.name}_view")
