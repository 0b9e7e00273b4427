"""The REST side: TensorFlow Serving's public URLs, and a page for people at `/`.

POST /v1/models/NAME[/versions/N|/labels/L]:predict    rows ("instances") or columns ("inputs")
GET  /v1/models/NAME[/versions/N|/labels/L]            state of the versions
GET  /v1/models/NAME[/versions/N|/labels/L]/metadata   signatures
GET  /monitoring/prometheus/metrics                    counters and latencies
GET  /healthz                                          200 once each model has an AVAILABLE version
"""

from __future__ import annotations

import asyncio
import functools
import logging
import re
import threading
import time
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
from aiohttp import web
from google.protobuf import json_format

from components.model_server.errors import ServingError, invalid
from components.model_server.manager import AVAILABLE, is_number
from components.model_server.model import DEFAULT_SIGNATURE, LoadedModel
from components.model_server.service import (
    SIGNATURES,
    Service,
    Target,
    signature_map,
    status_response,
)
from components.model_server.tensors import Arrays, from_json, parse_json, to_json

log = logging.getLogger("perennial.serving")

_MODEL = r"/v1/models/(?P<model>[^/:]+)(?:/versions/(?P<version>\d+)|/labels/(?P<label>[^/:]+))?"
_PREDICT = re.compile(_MODEL + r":(?P<method>predict|classify|regress)", re.IGNORECASE)
_STATUS = re.compile(_MODEL + r"(?P<metadata>/metadata)?", re.IGNORECASE)
_PAGE = Path(__file__).with_name("page.html")
_PAGE_CLASSES = 5
_SPARE_THREADS = 4  # which refuse predictions while all places for them are taken
VERSION_HEADER = "X-Model-Version"  # which version answered; the body has no place for it
_PAGE_HEADERS = {
    "Content-Type": "text/html; charset=utf-8",
    "Cache-Control": "no-cache",
    "X-Content-Type-Options": "nosniff",
    "Content-Security-Policy": "default-src 'none'; style-src 'unsafe-inline'; "
    "script-src 'unsafe-inline'; img-src blob:; connect-src 'self'; frame-ancestors 'none'",
}

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]
_to_dict = functools.partial(
    json_format.MessageToDict,
    always_print_fields_with_no_presence=True,
    preserving_proto_field_name=True,
)


class RestServer:
    """An HTTP server in an event loop of its own, with predictions on other threads."""

    def __init__(self, service: Service) -> None:
        self._service = service
        limits = service.limits
        threads = limits.concurrency + _SPARE_THREADS
        self._threads = ThreadPoolExecutor(threads, thread_name_prefix="rest")
        app = web.Application(middlewares=[self._guard], client_max_size=limits.request_bytes)
        app.router.add_get("/", self._page)
        app.router.add_post("/page/models/{model}", self._page_predict)
        app.router.add_get("/healthz", self._health)
        app.router.add_get("/monitoring/prometheus/metrics", self._metrics)
        app.router.add_route("*", "/{api:[vV]1/.*}", self._api)
        # aiohttp would log a traceback for each client that sends junk.
        silent = logging.getLogger("perennial.serving.http")
        silent.disabled = True
        self._runner = web.AppRunner(
            app,
            access_log=None,
            logger=silent,
            # Also the longest time for the head of a request, even if it comes byte by byte.
            keepalive_timeout=limits.receive_seconds,
            # For the rest of a body that is refused: closed at once, the answer would get lost.
            lingering_time=limits.receive_seconds,
            shutdown_timeout=limits.request_seconds,
        )
        self._loop = asyncio.new_event_loop()
        self._loop_thread = threading.Thread(
            target=self._loop.run_forever, name="rest-loop", daemon=True
        )

    def start(self, host: str, port: int) -> int:
        """Listen, and return the port (any free one for 0). Raises OSError."""
        self._loop_thread.start()
        try:
            asyncio.run_coroutine_threadsafe(self._listen(host, port), self._loop).result()
        except OSError:
            self.stop()
            raise
        return int(self._runner.addresses[0][1])

    async def _listen(self, host: str, port: int) -> None:
        await self._runner.setup()
        await web.TCPSite(self._runner, host, port).start()

    def stop(self) -> None:
        """Accept no more, finish the requests that are being answered, and close."""
        asyncio.run_coroutine_threadsafe(self._runner.cleanup(), self._loop).result()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._loop_thread.join()
        self._loop.close()
        self._threads.shutdown()

    @web.middleware
    async def _guard(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        """Answer within the limits, and failures in TensorFlow Serving's form, {"error": "..."}."""
        limits, server = self._service.limits, self._runner.server
        try:
            if server and len(server.connections) > limits.connections:
                raise ServingError("UNAVAILABLE", f"more than {limits.connections} connections")
            response = await handler(request)
        except ServingError as error:
            response = web.json_response({"error": error.message}, status=error.http_status)
        except web.HTTPException as error:
            message = f"{error.reason}: {request.method} {request.path}"
            response = web.json_response({"error": message}, status=error.status)
        except Exception as error:
            log.exception("%s %s failed", request.method, request.path)
            message = f"{type(error).__name__} in the server"
            response = web.json_response({"error": message}, status=500)
        if response.status == 503:
            response.force_close()
        try:
            async with asyncio.timeout(limits.receive_seconds):
                await response.prepare(request)
                await response.write_eof()
        except TimeoutError:  # the client does not take it
            if request.transport:
                request.transport.abort()
        return response

    async def _api(self, request: web.Request) -> web.Response:
        # As it was sent: TensorFlow Serving takes a query for a part of the path.
        if request.method == "POST" and (match := _PREDICT.fullmatch(request.raw_path)):
            target = _target(match)
            with self._service.counted(target, "Predict", "REST"):
                if match["method"] != "predict":
                    raise invalid(f"this server has no {match['method']}, only predict")
                return await self._in_thread(request, self._answer, target)
        if request.method == "GET" and (match := _STATUS.fullmatch(request.raw_path)):
            return self._model(_target(match), match["metadata"] == "/metadata")
        raise invalid(f"Malformed request: {request.method} {request.raw_path}")

    async def _in_thread(
        self,
        request: web.Request,
        answer: Callable[[Target, bytes, float], web.Response],
        target: Target,
    ) -> web.Response:
        """Read the body here, then answer on a thread."""
        limits = self._service.limits
        deadline = time.monotonic() + limits.request_seconds
        try:
            async with asyncio.timeout(limits.receive_seconds):
                body = await request.read()
        except TimeoutError:
            message = f"the request did not arrive within {limits.receive_seconds:g} s"
            raise ServingError("DEADLINE_EXCEEDED", message, 408) from None
        except web.HTTPRequestEntityTooLarge:
            message = f"the request has more than {limits.request_bytes} bytes"
            raise ServingError("RESOURCE_EXHAUSTED", message, 413) from None
        except Exception as error:  # a broken chunk or compression
            raise invalid(f"the body cannot be read: {error}") from error
        return await self._loop.run_in_executor(self._threads, answer, target, body, deadline)

    def _answer(self, target: Target, body: bytes, deadline: float) -> web.Response:
        parsed = parse_json(body)
        signature = parsed.signature or DEFAULT_SIGNATURE

        def read(loaded: LoadedModel) -> Arrays:
            return from_json(parsed, loaded.signature(signature).inputs)

        number, outputs = self._service.predict(target, signature, read, deadline)
        answer = to_json(outputs, parsed.by_row)
        return web.json_response(answer, headers={VERSION_HEADER: str(number)})

    def _model(self, target: Target, metadata: bool) -> web.Response:
        if not metadata:
            # Of a label TensorFlow Serving lists all versions, and does not look for the label.
            found = self._service.manager.status(target.model, target.version)
            return web.json_response(_to_dict(status_response(found)))
        with self._service.counted(target, "GetModelMetadata", "REST"):
            number, loaded = self._service.manager.find(*target)
            spec = {"name": target.model, "signature_name": "", "version": str(number)}
            described = {SIGNATURES: _to_dict(signature_map(loaded))}
            return web.json_response({"model_spec": spec, "metadata": described})

    async def _metrics(self, _: web.Request) -> web.Response:
        return web.Response(text=self._service.metrics.page())

    async def _health(self, _: web.Request) -> web.Response:
        states = {name: self._available(name) for name in self._service.manager.names()}
        status = 200 if all(states.values()) else 503
        return web.json_response({"available_versions": states}, status=status)

    def _available(self, name: str) -> list[int]:
        try:
            versions = self._service.manager.status(name)
        except ServingError:
            return []
        return [version.number for version in versions if version.state == AVAILABLE]

    async def _page(self, _: web.Request) -> web.FileResponse:
        return web.FileResponse(_PAGE, headers=_PAGE_HEADERS)

    async def _page_predict(self, request: web.Request) -> web.Response:
        target = Target(request.match_info["model"])
        with self._service.counted(target, "Predict", "REST"):
            return await self._in_thread(request, self._page_answer, target)

    def _page_answer(self, target: Target, image: bytes, deadline: float) -> web.Response:
        """Name the likeliest classes of an image that was posted as it is."""
        classes: list[str] = []

        def read(loaded: LoadedModel) -> Arrays:
            (name,) = loaded.signature(DEFAULT_SIGNATURE).inputs
            classes.extend(loaded.classes)
            return {name: np.array([image], object)}

        number, outputs = self._service.predict(target, DEFAULT_SIGNATURE, read, deadline)
        if "probabilities" not in outputs:
            raise ServingError("FAILED_PRECONDITION", "the model has no output probabilities")
        row = outputs["probabilities"][0]
        names = classes or [f"class {index}" for index in range(len(row))]
        order = np.argsort(-row, kind="stable")[:_PAGE_CLASSES]
        likeliest = [{"label": names[i], "probability": float(row[i])} for i in order]
        answer: dict[str, Any] = {"model": target.model, "version": number, "classes": likeliest}
        return web.json_response(answer)


def _target(match: re.Match[str]) -> Target:
    version = match["version"]
    if version and not is_number(version):
        raise invalid(f"Failed to convert version: {version} to numeric.")
    return Target(match["model"], int(version) if version else None, match["label"] or "")
