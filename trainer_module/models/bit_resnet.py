"""BiT's ResNet-v2: weight-standardised convolutions and group normalisation (arXiv 1912.11370)."""

from __future__ import annotations

import dataclasses
from typing import Any

import keras
from keras import layers, ops

Shape = tuple[int | None, ...]


@dataclasses.dataclass(frozen=True)
class Variant:
    """An architecture: residual units in each of the blocks, channels of the root, groups."""

    units: tuple[int, ...]
    width: int
    groups: int = 32


VARIANTS = {
    "R50x1": Variant((3, 4, 6, 3), 64),
    "R50x3": Variant((3, 4, 6, 3), 64 * 3),
    "R101x1": Variant((3, 4, 23, 3), 64),
    "R101x3": Variant((3, 4, 23, 3), 64 * 3),
    "R152x2": Variant((3, 8, 36, 3), 64 * 2),
    "R152x4": Variant((3, 8, 36, 3), 64 * 4),
    # Not published: small enough to train on a CPU.
    "tiny": Variant((1, 1, 1, 1), 16, groups=8),
}


@keras.saving.register_keras_serializable(package="perennial")
class StdConv2D(layers.Layer):
    """Convolution whose kernel has mean 0 and variance 1 over its inputs, for each output channel.

    [B, H, W, C] to [B, H', W', filters], without a bias. `padding` zeros are added on each side.
    """

    def __init__(
        self, filters: int, kernel_size: int, strides: int = 1, padding: int = 0, **kwargs: Any
    ) -> None:
        super().__init__(**kwargs)
        self.filters = filters
        self.kernel_size = kernel_size
        self.strides = strides
        self.padding = padding

    def build(self, input_shape: Shape) -> None:
        """Make the kernel [kernel_size, kernel_size, C, filters]."""
        self.kernel = self.add_weight(
            name="kernel",
            shape=(self.kernel_size, self.kernel_size, input_shape[-1], self.filters),
            initializer="he_normal",
            # float16 has no room for the 1e-10 below, nor for sums of thousands of squares.
            autocast=False,
        )

    def call(self, x: Any) -> Any:
        """Standardise the kernel and convolve."""
        mean, variance = ops.moments(self.kernel, axes=(0, 1, 2), keepdims=True)
        kernel = ops.cast((self.kernel - mean) / ops.sqrt(variance + 1e-10), self.compute_dtype)
        # With a stride, "same" would pad the far side more than the near one.
        same = self.strides == 1 and self.kernel_size == 2 * self.padding + 1
        if self.padding and not same:
            sides = (self.padding, self.padding)
            x = ops.pad(x, ((0, 0), sides, sides, (0, 0)))
        return ops.conv(
            x,
            kernel,
            strides=self.strides,
            padding="same" if same else "valid",
            data_format="channels_last",
        )

    def compute_output_shape(self, input_shape: Shape) -> Shape:
        """Return the shape of what `call` returns."""
        batch, *sides, _ = input_shape
        height, width = (
            side and (side + 2 * self.padding - self.kernel_size) // self.strides + 1
            for side in sides
        )
        return batch, height, width, self.filters

    def get_config(self) -> dict[str, Any]:
        """Return the constructor's arguments."""
        own = ("filters", "kernel_size", "strides", "padding")
        return {**super().get_config(), **{name: getattr(self, name) for name in own}}


def bit_resnet(
    variant: Variant,
    *,
    image_size: int | None,
    num_classes: int,
    input_range: tuple[float, float] = (-1.0, 1.0),
) -> keras.Model:
    """Build the model: pixels, uint8 [B, image_size, image_size, 3], to logits [B, num_classes].

    Args:
        variant: one of `VARIANTS`, or another.
        image_size: pixels; None takes any.
        num_classes: outputs of the head, whose weights are zero.
        input_range: what 0 and 255 become before the first convolution.
    """
    low, high = input_range
    images = keras.Input((image_size, image_size, 3), dtype="uint8", name="image")
    x = layers.Rescaling((high - low) / 255, low, name="rescaling")(images)
    x = StdConv2D(variant.width, 7, strides=2, padding=3, name="root_conv")(x)
    # Zeros and not -inf, unlike the pooling layer's own padding: it shows where all is negative.
    x = layers.ZeroPadding2D(1, name="root_pad")(x)
    x = layers.MaxPooling2D(3, strides=2, name="root_pool")(x)
    for block, units in enumerate(variant.units, 1):
        middle = variant.width * 2 ** (block - 1)
        for unit in range(1, units + 1):
            strides = 2 if block > 1 and unit == 1 else 1
            x = _unit(x, f"block{block}_unit{unit:02}", middle, strides, variant.groups)
    x = _norm(x, "final", variant.groups)
    x = layers.GlobalAveragePooling2D(name="pool")(x)
    # In float32 under mixed precision too: the loss and the served probabilities need it.
    logits = layers.Dense(num_classes, kernel_initializer="zeros", dtype="float32", name="head")(x)
    return keras.Model(images, logits, name="bit_resnet")


def _unit(x: Any, name: str, middle: int, strides: int, groups: int) -> Any:
    """Bottleneck with pre-activation: nothing follows the addition."""
    y = _norm(x, f"{name}_a", groups)
    shortcut = x
    if strides > 1 or x.shape[-1] != 4 * middle:
        shortcut = StdConv2D(4 * middle, 1, strides=strides, name=f"{name}_proj_conv")(y)
    y = StdConv2D(middle, 1, name=f"{name}_a_conv")(y)
    y = _norm(y, f"{name}_b", groups)
    y = StdConv2D(middle, 3, strides=strides, padding=1, name=f"{name}_b_conv")(y)
    y = _norm(y, f"{name}_c", groups)
    y = StdConv2D(4 * middle, 1, name=f"{name}_c_conv")(y)
    return layers.Add(name=f"{name}_add")([shortcut, y])


def _norm(x: Any, name: str, groups: int) -> Any:
    x = layers.GroupNormalization(groups, epsilon=1e-5, name=f"{name}_norm")(x)
    return layers.Activation("relu", name=f"{name}_relu")(x)
