"""What both protocols do: find the version, keep the limits, run the model, count it."""

from __future__ import annotations

import contextlib
import dataclasses
import logging
import threading
import time
from collections.abc import Collection, Iterable, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np

from components.image_example_gen import formats
from components.image_example_gen.files import Unusable
from components.model_server.errors import ServingError, invalid
from components.model_server.manager import Manager
from components.model_server.metrics import Metrics
from components.model_server.model import LoadedModel
from components.model_server.tensors import Arrays

log = logging.getLogger("perennial.serving")

_KEPT = (formats.JPEG, formats.PNG)
# Other features of an Example are texts that may begin like anything.
_IMAGES = (*_KEPT, b"GIF8", b"RIFF", b"\xff\n", b"\0\0\0\x0cJXL ")


@dataclasses.dataclass(frozen=True)
class Limits:
    """What one client may ask of the server, so that the others get their share.

    request_bytes: size of a request, and of the tensors it describes.
    pixels: of all images in a request together, before they are resized.
    resized_pixels: of all of them afterwards, for each becomes as large as the model's input.
    concurrency: predictions at a time; one more is told to come back (RESOURCE_EXHAUSTED, 429).
    request_seconds: longest time to answer, also for a client that gives no deadline or a later.
    receive_seconds: longest time for a client to send a request, or to take its answer, over REST.
    idle_seconds: after which a gRPC connection without calls is closed.
    connections: REST connections at a time.
    """

    request_bytes: int = 16 * 1024 * 1024
    pixels: int = 100_000_000
    resized_pixels: int = 16_000_000
    concurrency: int = 32
    request_seconds: float = 30.0
    receive_seconds: float = 10.0
    idle_seconds: float = 60.0
    connections: int = 512


class Target(NamedTuple):
    """The version a request is for: number, else label, else the newest."""

    model: str
    version: int | None = None
    label: str = ""


class Service:
    """Runs predictions for all front ends. Methods may be called from any thread."""

    def __init__(self, manager: Manager, limits: Limits) -> None:
        """Serve what `manager` has loaded."""
        self.manager = manager
        self.limits = limits
        self.metrics = Metrics()
        self._places = threading.BoundedSemaphore(limits.concurrency)

    @contextlib.contextmanager
    def place(self) -> Iterator[None]:
        """Take one of the places for predictions.

        Raises:
            ServingError: RESOURCE_EXHAUSTED; none is free.
        """
        if not self._places.acquire(blocking=False):
            raise ServingError(
                "RESOURCE_EXHAUSTED",
                f"{self.limits.concurrency} predictions are running; try again later",
            )
        try:
            yield
        finally:
            self._places.release()

    @contextlib.contextmanager
    def counted(self, target: Target, api: str, entrypoint: str) -> Iterator[None]:
        """Count the request that is answered inside, and turn any failure into a ServingError."""
        start = time.monotonic()
        code = "OK"
        try:
            yield
        except ServingError as error:
            code = error.code
            raise
        except Exception as error:
            code = "INTERNAL"
            log.exception("%s of %s failed", api, target.model)
            raise ServingError(code, f"{type(error).__name__} in the server") from error
        finally:
            # An unknown name is the client's text: a label each would fill the memory.
            model = target.model if target.model in self.manager.labels() else ""
            self.metrics.count(model, code)
            if code == "OK":
                seconds = time.monotonic() - start
                self.metrics.request_latency(model, api, entrypoint, seconds)

    def predict(
        self,
        target: Target,
        loaded: LoadedModel,
        inputs: Arrays,
        signature: str,
        output_filter: Collection[str],
        deadline: float,
    ) -> Arrays:
        """Run a version that the caller holds; `deadline` is on the monotonic clock.

        Raises:
            ServingError: why there is no answer.
        """
        check_images(inputs, self.limits, loaded.image_size)
        left = deadline - time.monotonic()
        if left <= 0:
            raise ServingError("DEADLINE_EXCEEDED", "the deadline passed before the model ran")
        start = time.monotonic()
        outputs = loaded.predict(inputs, signature, output_filter, left)
        self.metrics.runtime_latency(target.model, time.monotonic() - start)
        return outputs


def check_images(inputs: Arrays, limits: Limits, image_size: int) -> None:
    """Refuse images that would take too much memory, or that no model here decodes.

    Only their headers are read. `image_size` is the side of the model's input, in pixels.

    Raises:
        ServingError: INVALID_ARGUMENT; the images of the request have too many pixels, or one of
            them is neither JPEG nor PNG.
    """
    total = count = 0
    for image in _images(inputs):
        count += 1
        total += _pixels(image, count)
        if total > limits.pixels:
            raise invalid(f"the images in the request have more than {limits.pixels} pixels")
    if count > 1 and count * image_size**2 > limits.resized_pixels:
        most = max(1, limits.resized_pixels // image_size**2)
        raise invalid(f"the request has {count} images; this model takes {most} at a time")


def _images(inputs: Arrays) -> Iterable[bytes]:
    """What the strings of a request hold that may be an image."""
    for array in inputs.values():
        if array.dtype == object:
            for value in array.ravel():
                if value.startswith(_KEPT):
                    yield value
                else:
                    yield from _images_of_example(value)


def _images_of_example(value: bytes) -> Iterable[bytes]:
    from google.protobuf.message import DecodeError
    from tensorflow.core.example.example_pb2 import Example

    try:
        features = Example.FromString(value).features.feature
    except DecodeError:
        features = {}
    if not features:
        yield value
    for feature in features.values():
        yield from (text for text in feature.bytes_list.value if text.startswith(_IMAGES))


def _pixels(image: bytes, number: int) -> int:
    """How many an image has; 0 for some other text, of which the model knows what it is."""
    try:
        header = formats.header(image)
    except Unusable as error:
        raise invalid(f"image {number} of the request cannot be read: {error}") from error
    if header:
        return header.width * header.height
    if name := formats.known(image):
        raise invalid(f"image {number} of the request is {name}: {formats.ADVICE}")
    return 0


def top_classes(outputs: Arrays, classes: Sequence[str], most: int) -> list[dict[str, Any]]:
    """Name the likeliest classes of the first image: {"label": str, "probability": float}.

    Raises:
        ServingError: FAILED_PRECONDITION; the model has no output "probabilities".
    """
    if "probabilities" not in outputs:
        raise ServingError("FAILED_PRECONDITION", "the model has no output named probabilities")
    row = outputs["probabilities"][0]
    names = classes or [f"class {index}" for index in range(len(row))]
    order = np.argsort(-row, kind="stable")[:most]
    return [{"label": names[i], "probability": float(row[i])} for i in order]
