"""An estimate of the memory that a training step takes, by its model alone."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator
from typing import Any

import keras
from keras import layers

from trainer_module.models.inference import batch_statistics

Shape = tuple[int | None, ...]

# A step takes up to so many times the estimate of `measure`; measured: 1.2 to 2.2 times.
MOST = 2.5
COMFORTABLE = 1 / MOST  # of the memory: the share that the estimate of a step may fill
_LEAST = 0.8  # of what the outputs of all layers add up to; see `measure`
_AT_ONCE = 3  # outputs about as large as the largest that a network without gradients holds
_SLOTS = 3  # a weight, its gradient and what the optimizer keeps of it, in float32


@dataclasses.dataclass(frozen=True)
class Footprint:
    """Bytes: of the weights with all that goes with them, and of one image on its way through."""

    fixed: int
    image: int

    def of(self, images: int) -> int:
        """Estimate the bytes of a training step that holds so many images at once."""
        return self.fixed + images * self.image

    def images(self, room: float) -> int:
        """Return how many images a step can hold in so many bytes."""
        return max(0, int((room - self.fixed) // max(1, self.image)))


def measure(model: keras.Model, bytes_each: int = 4, size: int | None = None) -> Footprint:
    """Add up what a step has to keep of `model`, whose trainable weights are those of the step.

    That is the output of every layer from the first trainable one on, which the gradient needs, in
    numbers of `bytes_each`, or where that is more what runs before it. It is a lower bound: layers
    have intermediate results of their own, so that a step takes up to MOST times as much
    (docs/results.md, tests/benchmarks/memory.py).

    `size` is the side of the images that a model of any size is trained with, in pixels.
    """
    weights = sum(math.prod(weight.shape) for weight in model.weights)
    kept, largest, trains = 0, 0, False
    for layer, output in _outputs(model, size):
        trains = trains or bool(layer.trainable_weights)
        numbers = _numbers(layer, output)
        kept += numbers * trains
        largest = max(largest, numbers)
    image = bytes_each * max(_LEAST * kept, _AT_ONCE * largest)
    return Footprint(fixed=4 * _SLOTS * weights, image=int(image))


def parts(
    model: keras.Model,
    images: int,
    room: float,
    bytes_each: int = 4,
    size: int | None = None,
) -> int:
    """Return the fewest parts in which a step's `images` fit into `room` bytes, by the estimate.

    One where `model` trains batch normalization, for which parts are not the same as the whole.
    `room` may be infinite.
    """
    if math.isinf(room) or next(batch_statistics(model), None):
        return 1
    fitting = max(1, measure(model, bytes_each, size).images(room * COMFORTABLE))
    return math.ceil(images / min(fitting, images))


def _outputs(model: keras.Model, size: int | None) -> Iterator[tuple[keras.Layer, Any]]:
    """Yield every layer, those of inner models too, and its symbolic output for `size`."""
    (images,) = model.inputs
    if size and None in images.shape[1:3]:
        yield from _resized(model, (None, size, size, images.shape[3]))
        return
    for layer in model.layers:
        if hasattr(layer, "layers"):
            yield from _outputs(layer, None)
        elif not isinstance(layer, layers.InputLayer):
            yield layer, layer.output


def _resized(model: keras.Model, shape: Shape) -> Iterator[tuple[keras.Layer, Any]]:
    found: list[tuple[keras.Layer, Any]] = []

    def call(layer: keras.Layer, *inputs: Any, **options: Any) -> Any:
        output = layer(*inputs, **options)
        inner = _resized(layer, inputs[0].shape) if hasattr(layer, "layers") else [(layer, output)]
        found.extend(inner)
        return output

    keras.models.clone_model(
        model,
        input_tensors=keras.Input(batch_shape=shape, dtype=model.inputs[0].dtype),
        clone_function=lambda layer: layer,
        call_function=call,
    )
    yield from found


def _numbers(layer: keras.Layer, output: Any) -> int:
    """Count the numbers of a layer's output for one image, with an attention's table of scores."""
    count = sum(_size(each.shape) for each in keras.tree.flatten(output))
    if isinstance(layer, layers.MultiHeadAttention):
        tokens = _size(output.shape[:2])
        # Scores and what softmax makes of them, then what dropout does, and with which of them.
        tables = 4 if layer.dropout else 2
        # Queries, keys and values.
        count += layer.num_heads * tokens * (tables * tokens + 3 * layer.key_dim)
    if isinstance(layer, layers.Dense) and layer.activation is not keras.activations.linear:
        count *= 2
    return count


def _size(shape: Shape) -> int:
    return math.prod(side or 1 for side in shape[1:])
