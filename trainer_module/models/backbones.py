"""The classifiers of keras.applications without their heads, each with its own preprocessing."""

from __future__ import annotations

import importlib
from typing import Any

import keras
import numpy as np
from keras import layers, ops

Shape = tuple[int | None, ...]


@keras.saving.register_keras_serializable(package="perennial")
class ColourTransform(layers.Layer):
    """An affine map of each pixel: [B, H, W, 3] times `matrix` [3, 3], plus `offset` [3]."""

    def __init__(self, matrix: list[list[float]], offset: list[float], **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.matrix = matrix
        self.offset = offset

    def call(self, images: Any) -> Any:
        """Map all pixels."""
        # In float32 under mixed precision too: bfloat16 has no room for 256 values.
        pixels = ops.cast(images, "float32")
        mapped = ops.matmul(pixels, ops.convert_to_tensor(self.matrix, "float32"))
        return ops.cast(mapped + ops.convert_to_tensor(self.offset, "float32"), self.compute_dtype)

    def compute_output_shape(self, input_shape: Shape) -> Shape:
        """Return the shape of the input."""
        return input_shape

    def get_config(self) -> dict[str, Any]:
        """Return the constructor's arguments."""
        return {**super().get_config(), "matrix": self.matrix, "offset": self.offset}


def preprocessing(name: str) -> ColourTransform:
    """Make a layer of the classifier's `preprocess_input`, for pixels of 0 to 255."""
    module = getattr(keras.applications, name).__module__.rpartition(".")[2]
    prepare = importlib.import_module(f"keras.applications.{module}").preprocess_input

    def prepared(pixel: list[float]) -> np.ndarray:
        # The function changes its argument.
        return np.asarray(prepare(np.array([[[pixel]]], np.float64)), np.float64).reshape(3)

    offset = prepared([0, 0, 0])
    rows = [(prepared(row) - offset) / 255 for row in (255 * np.eye(3)).tolist()]
    return ColourTransform(np.array(rows).tolist(), offset.tolist(), name="preprocessing")
