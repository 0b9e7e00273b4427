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
import time
from collections.abc import Awaitable, Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
from aiohttp import web
from google.protobuf import json_format
from google.protobuf.message import Message

from components.model_server.answers import SIGNATURES, signature_map, status_response
from components.model_server.errors import ServingError, invalid
from components.model_server.manager import AVAILABLE, is_number
from components.model_server.model import DEFAULT_SIGNATURE
from components.model_server.service import Service, Target, top_classes
from components.model_server.tensors import from_json, parse_json, to_json

log = logging.getLogger("perennial.serving")

_MODEL = r"/v1/models/(?P<model>[^/:]+)(?:/versions/(?P<version>\d+)|/labels/(?P<label>[^/:]+))?"
_PREDICT = re.compile(_MODEL + r":(?P<method>predict|classify|regress)", re.IGNORECASE)
_STATUS = re.compile(_MODEL + r"(?P<metadata>/metadata)?", re.IGNORECASE)
_PAGE = Path(__file__).with_name("page.html")
_PAGE_CLASSES = 5
_CHUNK = 64 * 1024
_REFUSAL_SECONDS = 1.0
_BUFFERED_REQUESTS = 16  # as many of the largest size may wait in memory, or more small ones
VERSION_HEADER = "X-Model-Version"  # which version answered; the body has no place for it
_PAGE_HEADERS = {
    "Content-Type": "text/html; charset=utf-8",
    "Cache-Control": "no-cache",
    "X-Content-Type-Options": "nosniff",
    "Content-Security-Policy": "default-src 'none'; style-src 'unsafe-inline'; "
    "script-src 'unsafe-inline'; img-src blob:; connect-src 'self'; frame-ancestors 'none'",
}

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


class RestServer:
    """Serves over HTTP from an event loop, with predictions on threads of their own."""

    def __init__(self, service: Service) -> None:
        """Prepare to serve `service`."""
        self._service = service
        self._threads = ThreadPoolExecutor(service.limits.concurrency, thread_name_prefix="rest")
        self._buffered = 0
        app = web.Application(middlewares=[self._sent, _explained])
        app.router.add_get("/", self._page)
        app.router.add_get("/page/models", self._page_models)
        app.router.add_post("/page/models/{model}", self._page_predict)
        app.router.add_get("/healthz", self._health)
        app.router.add_get("/monitoring/prometheus/metrics", self._metrics)
        app.router.add_route("*", "/{api:[vV]1/.*}", self._api)
        # Also the longest time for the head of a request, even if it comes byte by byte.
        self._runner = web.AppRunner(
            app,
            access_log=None,
            logger=_silent_logger(),
            keepalive_timeout=service.limits.receive_seconds,
            # For the rest of a body that is refused: closed at once, the answer would get lost.
            lingering_time=service.limits.receive_seconds,
            shutdown_timeout=service.limits.request_seconds,
        )
        self._listener: asyncio.Server | None = None

    async def start(self, host: str, port: int) -> int:
        """Listen, and return the port (any free one for 0).

        Raises:
            OSError: the address cannot be bound.
        """
        await self._runner.setup()
        loop = asyncio.get_running_loop()
        self._listener = await loop.create_server(self._accept, host, port)
        return int(self._listener.sockets[0].getsockname()[1])

    async def stop(self) -> None:
        """Accept no more, let requests that are being answered finish, and close."""
        if self._listener:
            self._listener.close()
        await self._runner.cleanup()
        self._threads.shutdown()

    def _accept(self) -> asyncio.BaseProtocol:
        server = self._runner.server
        assert server is not None
        if len(server.connections) >= self._service.limits.connections:
            return _Refuse()
        return server()

    @web.middleware
    async def _sent(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        """Send the answer, and hang up on a client that does not take it."""
        response = await handler(request)
        try:
            async with asyncio.timeout(self._service.limits.receive_seconds):
                await response.prepare(request)
                await response.write_eof()
        except TimeoutError:
            if request.transport:
                request.transport.abort()
        return response

    async def _api(self, request: web.Request) -> web.Response:
        # As it was sent: TensorFlow Serving takes a query for a part of the path.
        if request.method == "POST" and (match := _PREDICT.fullmatch(request.raw_path)):
            return await self._predict(request, _target(match), match["method"].lower())
        if request.method == "GET" and (match := _STATUS.fullmatch(request.raw_path)):
            return self._model(_target(match), bool(match["metadata"]))
        raise invalid(f"Malformed request: {request.method} {request.raw_path}")

    async def _predict(self, request: web.Request, target: Target, method: str) -> web.Response:
        with self._service.counted(target, "Predict", "REST"):
            if method != "predict":
                raise invalid(f"this server has no {method}, only predict")
            return await self._in_thread(request, functools.partial(self._answer, target))

    def _answer(self, target: Target, body: bytearray, deadline: float) -> web.Response:
        parsed = parse_json(body)
        with self._service.manager.acquire(*target) as (number, loaded):
            signature = parsed.signature or DEFAULT_SIGNATURE
            inputs = from_json(parsed, loaded.signature(signature).inputs)
            outputs = self._service.predict(target, loaded, inputs, signature, (), deadline)
        return _json(to_json(outputs, parsed.by_row), {VERSION_HEADER: str(number)})

    async def _in_thread(
        self, request: web.Request, answer: Callable[[bytearray, float], web.Response]
    ) -> web.Response:
        """Read the body here, then answer on a thread, if a place for a prediction is free."""
        deadline = time.monotonic() + self._service.limits.request_seconds
        body = bytearray()
        try:
            await self._read(request, body)
            with self._service.place():
                loop = asyncio.get_running_loop()
                return await loop.run_in_executor(self._threads, answer, body, deadline)
        finally:
            self._buffered -= len(body)

    async def _read(self, request: web.Request, body: bytearray) -> None:
        """Append the body of a request, until it is too large, too slow or there is no room."""
        limits = self._service.limits
        try:
            async with asyncio.timeout(limits.receive_seconds):
                async for chunk in request.content.iter_chunked(_CHUNK):
                    body += chunk
                    self._buffered += len(chunk)
                    if len(body) > limits.request_bytes:
                        message = f"the request has more than {limits.request_bytes} bytes"
                        raise ServingError("RESOURCE_EXHAUSTED", message, 413)
                    if self._buffered > _BUFFERED_REQUESTS * limits.request_bytes:
                        raise ServingError("RESOURCE_EXHAUSTED", "too many requests are waiting")
        except TimeoutError:
            message = f"the request did not arrive within {limits.receive_seconds:g} s"
            raise ServingError("DEADLINE_EXCEEDED", message, 408) from None
        except ServingError:
            raise
        except Exception as error:  # a broken chunk or compression
            raise invalid(f"the body cannot be read: {error}") from error

    def _model(self, target: Target, metadata: bool) -> web.Response:
        if not metadata:
            # Of a label TensorFlow Serving lists all versions, and does not look for the label.
            found = self._service.manager.status(target.model, target.version)
            return _json(_to_dict(status_response(found)))
        with (
            self._service.counted(target, "GetModelMetadata", "REST"),
            self._service.manager.acquire(*target) as (number, loaded),
        ):
            spec = {"name": target.model, "signature_name": "", "version": str(number)}
            described = {SIGNATURES: _to_dict(signature_map(loaded))}
            return _json({"model_spec": spec, "metadata": described})

    async def _metrics(self, _: web.Request) -> web.Response:
        return web.Response(text=self._service.metrics.page())

    async def _health(self, _: web.Request) -> web.Response:
        states = {name: self._available(name) for name in self._service.manager.labels()}
        healthy = all(states.values())
        return _json({"available_versions": states}, status=200 if healthy else 503)

    def _available(self, name: str) -> list[int]:
        try:
            versions = self._service.manager.status(name)
        except ServingError:
            return []
        return [version.number for version in versions if version.state == AVAILABLE]

    async def _page(self, _: web.Request) -> web.FileResponse:
        return web.FileResponse(_PAGE, headers=_PAGE_HEADERS)

    async def _page_models(self, _: web.Request) -> web.Response:
        return _json(sorted(self._service.manager.labels()))

    async def _page_predict(self, request: web.Request) -> web.Response:
        target = Target(request.match_info["model"])
        with self._service.counted(target, "Predict", "REST"):
            return await self._in_thread(request, functools.partial(self._page_answer, target))

    def _page_answer(self, target: Target, body: bytearray, deadline: float) -> web.Response:
        image = np.array([bytes(body)], object)
        with self._service.manager.acquire(*target) as (number, loaded):
            (name,) = loaded.signature(DEFAULT_SIGNATURE).inputs
            outputs = self._service.predict(
                target, loaded, {name: image}, DEFAULT_SIGNATURE, (), deadline
            )
            classes = top_classes(outputs, loaded.classes, _PAGE_CLASSES)
        return _json({"model": target.model, "version": number, "classes": classes})


class _Refuse(asyncio.Protocol):
    """Answers a connection beyond the limit, whatever it asks."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        transport.write(
            b"HTTP/1.1 503 Service Unavailable\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"
        )
        # Closed at once, the answer could get lost with what the client is still sending.
        transport.write_eof()
        asyncio.get_running_loop().call_later(_REFUSAL_SECONDS, transport.close)


@web.middleware
async def _explained(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Answer every failure in TensorFlow Serving's form, {"error": "..."}."""
    try:
        return await handler(request)
    except ServingError as error:
        status, message = error.http_status, error.message
    except web.HTTPException as error:
        status, message = error.status, f"{error.reason}: {request.method} {request.path}"
    except Exception as error:
        log.exception("%s %s failed", request.method, request.path)
        status, message = 500, f"{type(error).__name__} in the server"
    return _json({"error": message}, status=status)


def _silent_logger() -> logging.Logger:
    """For aiohttp, which has nothing to say but a traceback for each client that sends junk."""
    logger = logging.getLogger("perennial.serving.http")
    logger.propagate = False
    logger.addHandler(logging.NullHandler())
    return logger


def _target(match: re.Match[str]) -> Target:
    version = match["version"]
    if version and not is_number(version):
        raise invalid(f"Failed to convert version: {version} to numeric.")
    return Target(match["model"], int(version) if version else None, match["label"] or "")


def _to_dict(message: Message) -> dict[str, Any]:
    return json_format.MessageToDict(
        message, always_print_fields_with_no_presence=True, preserving_proto_field_name=True
    )


def _json(
    content: Any, headers: Mapping[str, str] | None = None, status: int = 200
) -> web.Response:
    return web.json_response(content, status=status, headers=headers)
