"""What both protocols do: find the version, keep the limits, run the model, count it."""

from __future__ import annotations

import contextlib
import dataclasses
import io
import logging
import threading
import time
from collections.abc import Collection, Iterable, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np

from pipeline.serving.errors import ServingError, invalid
from pipeline.serving.manager import Manager
from pipeline.serving.metrics import Metrics
from pipeline.serving.model import LoadedModel
from pipeline.serving.tensors import Arrays

log = logging.getLogger("perennial.serving")

# The compressed formats that TensorFlow's decode_image reads, by their first bytes: JPEG, PNG, GIF,
# WebP and JPEG XL, twice. A BMP is not compressed, so that the limit on bytes is enough.
_MAGIC = (
    *(b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n", b"GIF8", b"RIFF"),
    *(b"\xff\n", b"\0\0\0\x0cJXL "),
)
# Pillow cannot read the size of a JPEG XL, so it is refused.
_FORMATS = ("JPEG", "PNG", "GIF", "WEBP")


@dataclasses.dataclass(frozen=True)
class Limits:
    """What one client may ask of the server, so that the others get their share.

    request_bytes: size of a request, and of the tensors it describes.
    pixels: of all images in a request together, before they are resized.
    concurrency: predictions at a time; one more is told to come back (RESOURCE_EXHAUSTED, 429).
    request_seconds: longest time to answer, also for a client that gives no deadline or a later.
    receive_seconds: longest time for a client to send a request, or to take its answer, over REST.
    connections: REST connections at a time.
    """

    request_bytes: int = 16 * 1024 * 1024
    pixels: int = 100_000_000
    concurrency: int = 32
    request_seconds: float = 30.0
    receive_seconds: float = 10.0
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
        check_pixels(inputs, self.limits.pixels)
        left = deadline - time.monotonic()
        if left <= 0:
            raise ServingError("DEADLINE_EXCEEDED", "the deadline passed before the model ran")
        start = time.monotonic()
        outputs = loaded.predict(inputs, signature, output_filter, left)
        self.metrics.runtime_latency(target.model, time.monotonic() - start)
        return outputs


def check_pixels(inputs: Arrays, most: int) -> None:
    """Refuse images that would take too much memory once decoded; only their headers are read.

    Raises:
        ServingError: INVALID_ARGUMENT; the images of the request have more than `most` pixels.
    """
    total = 0
    for image in _images(inputs):
        total += _pixels(image)
        if total > most:
            raise invalid(f"the images in the request have more than {most} pixels together")


def _images(inputs: Arrays) -> Iterable[bytes]:
    for array in inputs.values():
        if array.dtype == object:
            for value in array.ravel():
                if value.startswith(_MAGIC):
                    yield value
                else:
                    yield from _images_of_example(value)


def _images_of_example(value: bytes) -> Iterable[bytes]:
    from google.protobuf.message import DecodeError
    from tensorflow.core.example.example_pb2 import Example

    try:
        example = Example.FromString(value)
    except DecodeError:
        return  # some other text; the model says what it thinks of it
    for feature in example.features.feature.values():
        yield from (text for text in feature.bytes_list.value if text.startswith(_MAGIC))


def _pixels(image: bytes) -> int:
    from PIL import Image

    try:
        with Image.open(io.BytesIO(image), formats=_FORMATS) as opened:
            return opened.width * opened.height
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise invalid(f"an image in the request is too large: {error}") from error
    except Exception as error:  # whatever Pillow's parsers meet in junk
        raise invalid(f"an image in the request cannot be read: {error}") from error


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
