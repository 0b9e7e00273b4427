"""How much memory a training takes at least, told by its model alone."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator

import keras
from keras import layers

from trainer_module.models.inference import batch_statistics

COMFORTABLE = 0.4  # of the memory: what by `measure` is to be filled at most, so that it fits
_LEAST = 0.85  # of what the outputs of all layers add up to; see `measure`
_SLOTS = 3  # a weight, its gradient and what the optimizer keeps of it, in float32


@dataclasses.dataclass(frozen=True)
class Footprint:
    """Bytes: of the weights with all that goes with them, and of one image on its way through."""

    fixed: int
    image: int

    def of(self, images: int) -> int:
        """Bytes of a training step that holds so many images at once."""
        return self.fixed + images * self.image

    def images(self, room: float) -> int:
        """How many images a step can hold in so many bytes."""
        return max(0, int((room - self.fixed) // max(1, self.image)))


def measure(model: keras.Model, bytes_each: int = 4) -> Footprint:
    """Add up what a step has to keep of `model`, whose trainable weights are those of the step.

    That is the output of every layer from the first trainable one on, which the gradient needs, in
    numbers of `bytes_each`. Some are written over, and layers have intermediate results of their
    own. Measured on a CPU, of what the outputs add up to: 0.90 (bit tiny at 256 px, 32 images),
    1.27 (vit_finetune S/16, 384 px, 4), 1.39 (vit, 144 px, 64), 1.73 (fixres, 392 px, 8) and 1.93
    (mobilenet, 160 px, 32).
    """
    weights = sum(math.prod(weight.shape) for weight in model.weights)
    kept, trains = 0, False
    for layer in _leaves(model):
        trains = trains or bool(layer.trainable_weights)
        if trains:
            kept += _numbers(layer)
    return Footprint(fixed=4 * _SLOTS * weights, image=int(_LEAST * bytes_each * kept))


def parts(model: keras.Model, images: int, room: float, bytes_each: int = 4) -> int:
    """In how few parts a step's `images` fit into `room` bytes, as far as can be told.

    One where `model` trains batch normalization, for which parts are not the same as the whole.
    `room` may be infinite.
    """
    if math.isinf(room) or next(batch_statistics(model), None):
        return 1
    fitting = max(1, measure(model, bytes_each).images(room * COMFORTABLE))
    return math.ceil(images / min(fitting, images))


def _leaves(model: keras.Model) -> Iterator[keras.Layer]:
    for layer in model.layers:
        if hasattr(layer, "layers"):
            yield from _leaves(layer)
        elif not isinstance(layer, layers.InputLayer):
            yield layer


def _numbers(layer: keras.Layer) -> int:
    """How many numbers a layer gives for one image, with an attention's table of scores."""
    output = layer.output
    count = sum(_size(each.shape) for each in keras.tree.flatten(output))
    if isinstance(layer, layers.MultiHeadAttention):
        tokens = _size(output.shape[:2])
        # Scores and what softmax makes of them; queries, keys and values.
        count += 2 * layer.num_heads * tokens**2 + 3 * layer.num_heads * layer.key_dim * tokens
    return count


def _size(shape: tuple[int | None, ...]) -> int:
    return math.prod(side or 1 for side in shape[1:])
