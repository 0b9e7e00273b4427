"""What both protocols do: find the version, keep the limits, run the model, count it."""

from __future__ import annotations

import contextlib
import dataclasses
import logging
import threading
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from typing import NamedTuple

from google.protobuf.message import DecodeError
from prometheus_client import CollectorRegistry, Counter, Histogram, disable_created_metrics
from prometheus_client.exposition import generate_latest
from tensorflow.core.example.example_pb2 import Example
from tensorflow.core.protobuf import error_codes_pb2
from tensorflow_serving.apis.get_model_metadata_pb2 import SignatureDefMap
from tensorflow_serving.apis.get_model_status_pb2 import GetModelStatusResponse, ModelVersionStatus

from components.image_example_gen import formats
from components.image_example_gen.files import Unusable
from components.model_server.errors import ServingError, invalid
from components.model_server.manager import Manager, Version
from components.model_server.model import LoadedModel
from components.model_server.tensors import Arrays
from components.servable import JPEG, PNG

log = logging.getLogger("perennial.serving")

SIGNATURES = "signature_def"  # the only kind of metadata there is
# The names of TensorFlow Serving, which the alert rules have.
REQUEST_COUNT = ":tensorflow:serving:request_count"
REQUEST_LATENCY = ":tensorflow:serving:request_latency"
RUNTIME_LATENCY = ":tensorflow:serving:runtime_latency"

# Microseconds, TensorFlow Serving's own: 10 us to about 20 minutes.
_BOUNDS = tuple(10 * 1.8**exponent for exponent in range(32))
# Other features of an Example are texts that may begin like anything.
_IMAGES = (JPEG, PNG, b"GIF8", b"RIFF", b"\xff\n", b"\0\0\0\x0cJXL ")


@dataclasses.dataclass(frozen=True)
class Limits:
    """The limits of what one client may use, so that the others get their share.

    request_bytes: size of a request, and of the tensors it describes.
    pixels: of all images in a request together, before they are resized.
    resized_pixels: of all of them afterwards, for each becomes as large as the model's input.
    concurrency: predictions at a time; one more is refused (RESOURCE_EXHAUSTED, 429).
    request_seconds: longest time to answer, also for a client that gives no deadline or a later.
    receive_seconds: longest time for a client to send a request, or to take its answer, over REST.
    idle_seconds: after which a gRPC connection without calls is closed.
    connections: REST connections at a time; each may hold a request in memory.
    """

    request_bytes: int = 16 * 1024 * 1024
    pixels: int = 100_000_000
    resized_pixels: int = 16_000_000
    concurrency: int = 32
    request_seconds: float = 30.0
    receive_seconds: float = 10.0
    idle_seconds: float = 60.0
    connections: int = 128


class Target(NamedTuple):
    """The version a request is for: number, else label, else the newest."""

    model: str
    version: int | None = None
    label: str = ""


class Metrics:
    """Counters and latency histograms, in microseconds, of one server, for any thread."""

    def __init__(self) -> None:
        disable_created_metrics()
        self._registry = registry = CollectorRegistry()
        self.requests = Counter(
            REQUEST_COUNT, "Requests by status.", ["model_name", "status"], registry=registry
        )
        self.latency, self.runtime = (
            Histogram(name, "Microseconds.", labels, registry=registry, buckets=_BOUNDS)
            for name, labels in (
                (REQUEST_LATENCY, ["model_name", "API", "entrypoint"]),
                (RUNTIME_LATENCY, ["model_name", "API", "runtime"]),
            )
        )

    def page(self) -> str:
        """Return everything in the text format of Prometheus."""
        text = generate_latest(self._registry).decode()
        # The library gives counters a suffix, and TensorFlow Serving does not.
        return text.replace(f"{REQUEST_COUNT}_total", REQUEST_COUNT)


class Service:
    """The predictions of all front ends. Methods may be called from any thread."""

    def __init__(self, manager: Manager, limits: Limits) -> None:
        self.manager = manager
        self.limits = limits
        self.metrics = Metrics()
        self._places = threading.BoundedSemaphore(limits.concurrency)

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
            model = target.model if target.model in self.manager.names() else ""
            self.metrics.requests.labels(model, code).inc()
            if code == "OK":
                microseconds = (time.monotonic() - start) * 1e6
                self.metrics.latency.labels(model, api, entrypoint).observe(microseconds)

    def predict(
        self,
        target: Target,
        signature: str,
        read: Callable[[LoadedModel], Arrays],
        deadline: float,
        output_filter: Collection[str] = (),
    ) -> tuple[int, Arrays]:
        """Run a version on what `read` makes of the request for it.

        Args:
            target: the version.
            signature: of the model.
            read: makes the inputs, once the version is found.
            deadline: on the monotonic clock.
            output_filter: names of the outputs; empty for all.

        Returns:
            The number of the version, and its outputs.

        Raises:
            ServingError: there is no answer; RESOURCE_EXHAUSTED where all places are taken.
        """
        if not self._places.acquire(blocking=False):
            raise ServingError(
                "RESOURCE_EXHAUSTED",
                f"{self.limits.concurrency} predictions are running; try again later",
            )
        try:
            number, loaded = self.manager.find(*target)
            inputs = read(loaded)
            check_images(inputs, self.limits, loaded.image_size)
            start = time.monotonic()
            if start >= deadline:
                raise ServingError("DEADLINE_EXCEEDED", "the deadline passed before the model ran")
            outputs = loaded.predict(inputs, signature, output_filter, deadline - start)
            labels = target.model, "Predict", "TF1"
            self.metrics.runtime.labels(*labels).observe((time.monotonic() - start) * 1e6)
            return number, outputs
        finally:
            self._places.release()


def signature_map(loaded: LoadedModel) -> SignatureDefMap:
    """Return the signatures of a version, as both protocols answer."""
    return SignatureDefMap(signature_def=loaded.signatures)


def status_response(versions: Sequence[Version]) -> GetModelStatusResponse:
    """Return the states of versions, as both protocols answer."""
    response = GetModelStatusResponse()
    for version in versions:
        state = ModelVersionStatus.State.Value(version.state)
        added = response.model_version_status.add(version=version.number, state=state)
        added.status.SetInParent()  # present also where all is well
        if version.error:
            added.status.error_code = error_codes_pb2.Code.Value(version.error.code)
            added.status.error_message = version.error.message
    return response


def check_images(inputs: Arrays, limits: Limits, image_size: int) -> None:
    """Refuse images that would take too much memory, or that no exported model decodes.

    Only their headers are read. `image_size` is the side of the model's input, in pixels.

    Raises:
        ServingError: INVALID_ARGUMENT; the images of the request have too many pixels, or one of
            them is neither JPEG nor PNG.
    """
    total = count = 0
    for count, image in enumerate(_images(inputs), 1):
        total += _pixels(image, count)
        if total > limits.pixels:
            raise invalid(f"the images in the request have more than {limits.pixels} pixels")
    if count > 1 and count * image_size**2 > limits.resized_pixels:
        most = max(1, limits.resized_pixels // image_size**2)
        raise invalid(f"the request has {count} images; this model takes {most} at a time")


def _images(inputs: Arrays) -> Iterable[bytes]:
    """Yield the strings of a request that may be images, also from within tf.Examples."""
    for value in (v for array in inputs.values() if array.dtype == object for v in array.ravel()):
        features = {}
        if not value.startswith((JPEG, PNG)):
            with contextlib.suppress(DecodeError):
                features = Example.FromString(value).features.feature
        if not features:
            yield value
        for feature in features.values():
            yield from (text for text in feature.bytes_list.value if text.startswith(_IMAGES))


def _pixels(image: bytes, number: int) -> int:
    """Return the pixels of an image; 0 for another text, which the model may know."""
    try:
        header = formats.header(image)
    except Unusable as error:
        raise invalid(f"image {number} of the request cannot be read: {error}") from error
    if header:
        return header.width * header.height
    if name := formats.known(image):
        raise invalid(f"image {number} of the request is {name}: {formats.ADVICE}")
    return 0
