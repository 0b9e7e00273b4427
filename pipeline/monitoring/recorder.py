"""The recorder: repeats mirrored requests on the model server and stores requests with answers.

nginx mirrors requests without responses, and a REST response does not contain the model version.
So the recorder sends each request again over gRPC, for the same version or label: a version's
predictions are deterministic, and gRPC reports which version made them. This costs one more
prediction for each recorded request. If a label moves in between, the record holds the new
version's number and predictions.

The proxy is answered first. Requests beyond WAITING_BYTES are dropped and counted. The recorder
does not load TensorFlow, as it is a small container beside each model server.
"""

from __future__ import annotations

import base64
import contextlib
import dataclasses
import hashlib
import json
import logging
import queue
import re
import threading
import time
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import grpc
import numpy as np
from aiohttp import web
from google.protobuf.message import DecodeError
from prometheus_client import CollectorRegistry, Counter, Gauge, disable_created_metrics
from prometheus_client.exposition import generate_latest

from components import features, servable
from components.image_example_gen import conversion, formats
from components.image_example_gen.files import Unusable
from components.image_example_gen.options import Options
from pipeline.monitoring import gauges, messages, proxy, rows
from pipeline.monitoring.logs import Limits, Writer
from pipeline.monitoring.messages import Example, PredictionServiceStub, PredictRequest
from pipeline.monitoring.rows import Row

log = logging.getLogger("perennial.recorder")

REQUEST_BYTES = 16 * 2**20
WAITING_BYTES = 64 * 2**20
IMAGES = 64  # recorded of one request
_PREDICT_SECONDS = 10.0
_FORGET_SECONDS = 30.0  # before a missing label is tried again
_URI = re.compile(
    r"/v1/models/(?P<model>[^/:]+)(?:/versions/(?P<version>\d{1,18})|/labels/(?P<label>[^/:]+))?:predict",
    re.IGNORECASE,
)
_MALFORMED = (
    ValueError,
    LookupError,
    TypeError,
    AttributeError,
    DecodeError,
    zlib.error,
    RecursionError,
)
_CHANNEL = [
    ("grpc.max_receive_message_length", -1),
    ("grpc.max_send_message_length", -1),
    ("grpc.enable_http_proxy", 0),
]


@dataclasses.dataclass(frozen=True)
class RecordOptions:
    """What is recorded.

    images: whether to store the images themselves.
    embeddings: whether to store the penultimate layer's output, at one more prediction each.
    shadows: further labels that predict each image, such as canary.
    """

    images: bool = True
    embeddings: bool = False
    shadows: Sequence[str] = ()


@dataclasses.dataclass(frozen=True)
class Mirrored:
    """A request as the proxy mirrors it: the body and the relevant headers."""

    id: str
    time: int
    uri: str
    body: bytes
    encoding: str


class SkippedRequest(Exception):  # noqa: N818 - it is not a fault
    """A request that is not recorded; the message is its result in the metrics."""


class Recorder:
    """A thread that records mirrored requests, between `start` and `stop`."""

    def __init__(self, folder: Path, server: str, options: RecordOptions, limits: Limits) -> None:
        """Write to `folder`; `server` is the gRPC address HOST:PORT of the model server."""
        self._writer = Writer(folder, limits)
        self._folder = folder
        self._options = options
        self._channel = grpc.insecure_channel(server, options=_CHANNEL)
        self._stub = PredictionServiceStub(self._channel)
        self._waiting: queue.SimpleQueue[Mirrored | None] = queue.SimpleQueue()
        self._bytes = 0
        self._lock = threading.Lock()
        self._absent: dict[tuple[str, str], float] = {}
        disable_created_metrics()
        self._registry = CollectorRegistry()
        self._requests = Counter(
            "perennial_recorder_requests",
            "Mirrored requests by result.",
            ["result"],
            registry=self._registry,
        )
        self._images, self._no_embedding = (
            Counter(f"perennial_recorder_{name}", about, registry=self._registry)
            for name, about in (
                ("images", "Records written."),
                ("missing_embeddings", "Requests for which the server returned no embeddings."),
            )
        )
        waiting = "Bytes of the requests in the queue."
        gauge = Gauge("perennial_recorder_waiting_bytes", waiting, registry=self._registry)
        gauge.set_function(lambda: self._bytes)
        self._thread = threading.Thread(target=self._work, name="recorder", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        """Record what is in the queue, and end."""
        self._waiting.put(None)
        self._thread.join()
        self._writer.close()
        self._channel.close()

    def take(self, request: Mirrored) -> bool:
        """Add a request to the queue; return False if it is full."""
        with self._lock:
            if self._bytes + len(request.body) > WAITING_BYTES:
                self.count("full")
                return False
            self._bytes += len(request.body)
        self._waiting.put(request)
        return True

    def _work(self) -> None:
        while request := self._waiting.get():
            try:
                for row in self._rows(request):
                    self._writer.write(row)
                    self._images.inc()
                self.count("recorded")
            except SkippedRequest as reason:
                self.count(str(reason))
            except OSError as error:
                self.count("disk")
                log.warning("a request is lost: %s", error)
            except Exception:
                self.count("failed")
                log.exception("a request is lost")
            finally:
                with self._lock:
                    self._bytes -= len(request.body)

    def _rows(self, request: Mirrored) -> Iterator[Row]:
        asked, images = read_request(request)
        protocol = "grpc" if request.uri == proxy.GRPC_PATH else "rest"
        spec = asked.model_spec
        kept = images[:IMAGES]
        known = [self._image(image) for image in kept]
        answered: set[int] = set()
        # The caller's label first, so that it is not repeated as a shadow.
        for label in dict.fromkeys([spec.version_label, *self._options.shadows]):
            is_shadow = label != spec.version_label
            if is_shadow and self._is_absent(spec.name, label):
                continue
            model = PredictRequest(model_spec=spec).model_spec
            if is_shadow:
                model.Clear()
                model.name, model.version_label = spec.name, label
            answers = self._answers(model, kept)
            if is_shadow and answers[0].get("status") in ("NOT_FOUND", "INVALID_ARGUMENT"):
                self._absent[spec.name, label] = time.monotonic()
                continue
            versions = {answer["version"] for answer in answers}
            if is_shadow and versions <= answered:
                continue  # the caller's answer is that of this label
            answered |= versions
            for position, (fields, answer) in enumerate(zip(known, answers, strict=True)):
                yield Row(
                    request=request.id,
                    position=position,
                    time=request.time,
                    protocol=protocol,
                    model=spec.name,
                    label=label,
                    is_shadow=is_shadow,
                    **fields,
                    **answer,
                )

    def _is_absent(self, model: str, label: str) -> bool:
        seen = self._absent.get((model, label))
        return seen is not None and time.monotonic() - seen < _FORGET_SECONDS

    def _image(self, image: bytes) -> dict[str, Any]:
        fields: dict[str, Any] = {"size": len(image), "sha256": hashlib.sha256(image).hexdigest()}
        if self._options.images:
            fields["image"] = image
        name = "jpeg" if image.startswith(servable.JPEG) else formats.known(image)
        name = "png" if image.startswith(servable.PNG) else name
        fields["format"] = name or "unknown"
        with contextlib.suppress(Unusable):
            # An image that cannot be decoded has no statistics.
            if found := conversion.summary(image, Options.max_pixels):
                fields |= rows.pictured(found)
        return fields

    def _answers(self, spec: Any, images: Sequence[bytes]) -> list[dict[str, Any]]:
        try:
            answer = self._predict(spec, servable.IMAGES, images)
        except grpc.RpcError as error:
            if len(images) > 1 and error.code() is grpc.StatusCode.INVALID_ARGUMENT:
                # One image fails the whole request.
                return [each for image in images for each in self._answers(spec, [image])]
            status = {"status": error.code().name, "version": spec.version.value}
            return [status for _ in images]
        version = answer.model_spec.version.value
        probabilities = messages.array(answer.outputs["probabilities"])
        labels = messages.array(answer.outputs["label"])
        found: list[dict[str, Any]] = [
            {"version": version, "probabilities": row, "predicted": label.decode()}
            for row, label in zip(probabilities, labels, strict=True)
        ]
        if self._options.embeddings:
            exactly = PredictRequest().model_spec
            exactly.name, exactly.version.value = spec.name, version
            try:
                given = self._predict(exactly, servable.EMBEDDINGS, images).outputs["embedding"]
            except grpc.RpcError:
                self._no_embedding.inc()
            else:
                for fields, vector in zip(found, messages.array(given), strict=True):
                    fields["embedding"] = np.ravel(vector)
        return found

    def _predict(self, spec: Any, signature: str, images: Sequence[bytes]) -> Any:
        request = PredictRequest(model_spec=spec)
        request.model_spec.signature_name = signature
        request.inputs["image_bytes"].CopyFrom(messages.strings(list(images)))
        return self._stub.Predict(request, timeout=_PREDICT_SECONDS)

    def count(self, result: str) -> None:
        """Count a request by its result."""
        self._requests.labels(result).inc()

    def metrics(self) -> str:
        """Format the counters, and the gauges of the last monitoring, for Prometheus."""
        try:
            last = (self._folder / gauges.FILE).read_text("utf-8")
        except OSError:
            last = ""
        return generate_latest(self._registry).decode() + last


def read_request(request: Mirrored) -> tuple[PredictRequest, list[bytes]]:
    """Parse a request; return it without inputs, and its images.

    Raises SkippedRequest if it has no images or another signature.
    """
    try:
        if request.uri == proxy.GRPC_PATH:
            asked = PredictRequest.FromString(_message(request))
            values = [value for proto in asked.inputs.values() for value in proto.string_val]
            asked.ClearField("inputs")
        else:
            asked, values = _read_rest(request)
    except _MALFORMED as error:
        raise SkippedRequest("malformed") from error
    signature = asked.model_spec.signature_name or servable.IMAGES
    if signature == servable.EXAMPLES:
        values = [_of_example(value) for value in values]
    elif signature != servable.IMAGES:
        raise SkippedRequest("other-signature")
    if not values:
        raise SkippedRequest("no-image")
    return asked, values


def _message(request: Mirrored) -> bytes:
    """Unpack gRPC's frame: a byte for compression, four for the length, the message."""
    is_compressed, length = request.body[0], int.from_bytes(request.body[1:5], "big")
    message = request.body[5 : 5 + length]
    if not is_compressed:
        return message
    return _inflated(message)


def _inflated(content: bytes) -> bytes:
    """Decompress gzip or deflate. Raises ValueError beyond REQUEST_BYTES."""
    inflater = zlib.decompressobj(wbits=47)
    found = inflater.decompress(content, REQUEST_BYTES)
    if inflater.unconsumed_tail:
        raise ValueError("too large")
    return found


def _read_rest(request: Mirrored) -> tuple[PredictRequest, list[bytes]]:
    match = _URI.fullmatch(request.uri)
    if not match:
        raise ValueError("no predict")
    body = _inflated(request.body) if request.encoding in ("gzip", "deflate") else request.body
    document = json.loads(body)
    asked = PredictRequest()
    spec = asked.model_spec
    spec.name, spec.signature_name = match["model"], document.get("signature_name", "")
    if match["version"]:
        spec.version.value = int(match["version"])
    elif match["label"]:
        spec.version_label = match["label"]
    content = document["instances"] if "instances" in document else document["inputs"]
    return asked, list(_values(content))


def _values(content: Any) -> Iterator[bytes]:
    """Yield each {"b64": ...} of a request, in every form that the REST API accepts."""
    if isinstance(content, dict) and content.keys() == {"b64"}:
        yield base64.b64decode(content["b64"])
    elif isinstance(content, dict | list):
        for each in content.values() if isinstance(content, dict) else content:
            yield from _values(each)


def _of_example(value: bytes) -> bytes:
    try:
        images = Example.FromString(value).features.feature[features.IMAGE].bytes_list.value
    except DecodeError as error:
        raise SkippedRequest("malformed") from error
    if not images:
        raise SkippedRequest("no-image")
    return bytes(images[0])


def application(recorder: Recorder) -> web.Application:
    """Make the HTTP application: POST / takes a request, GET /metrics returns the metrics."""

    async def record(request: web.Request) -> web.Response:
        # Always read to the end: after a refusal the proxy would pause mirroring.
        body = bytearray()
        size = 0
        async for chunk in request.content.iter_chunked(1 << 16):
            size += len(chunk)
            if size <= REQUEST_BYTES:
                body += chunk
        headers = request.headers
        try:
            came = int(1000 * float(headers[proxy.TIME_HEADER]))
            if size > REQUEST_BYTES:
                recorder.count("too-large")
            else:
                encoding = headers.get("Grpc-Encoding") or headers.get("Content-Encoding") or ""
                uri = headers[proxy.URI_HEADER].partition("?")[0]
                recorder.take(Mirrored(headers[proxy.ID_HEADER], came, uri, bytes(body), encoding))
        except (KeyError, ValueError):
            recorder.count("malformed")
        return web.Response(status=204)

    async def metrics(_: web.Request) -> web.Response:
        return web.Response(text=recorder.metrics())

    app = web.Application(client_max_size=REQUEST_BYTES)
    app.router.add_post("/", record)
    app.router.add_get("/metrics", metrics)
    return app


def serve(recorder: Recorder, host: str, port: int) -> None:
    """Record until SIGTERM or SIGINT; then finish what waits."""
    recorder.start()
    try:
        # aiohttp would decompress a body by its Content-Encoding and hide that it did.
        web.run_app(
            application(recorder),
            host=host,
            port=port,
            access_log=None,
            print=None,
            auto_decompress=False,
        )
    finally:
        recorder.stop()
