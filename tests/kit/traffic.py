"""A recorder, and nginx in front of a model server."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import functools
import shutil
import socket
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import portpicker
import requests
from aiohttp import web

from pipeline.monitoring.logs import Limits
from pipeline.monitoring.proxy import Proxy
from pipeline.monitoring.recorder import Recorder, RecordOptions, application
from tests import REPO
from tests.kit.cli import command
from tests.kit.serving import SECONDS, Running, wait_until

NGINX = shutil.which("nginx", path="/usr/sbin:/usr/local/sbin:/usr/local/bin:/usr/bin")
HOST = "127.0.0.1"


@dataclasses.dataclass
class Front:
    """Where callers ask, as a server of its own."""

    host: str
    grpc_port: int
    rest_port: int

    def wait_ready(self, timeout: float = SECONDS) -> None:
        wait_until(functools.partial(_listens, self.rest_port))


def _listens(port: int) -> bool:
    with socket.socket() as tried:
        return tried.connect_ex((HOST, port)) == 0


@contextlib.contextmanager
def nginx(
    server: Running, recorder: int, share: float = 1.0, patience: str = "30s"
) -> Iterator[Front]:
    """Nginx in front of `server`, with the product's configuration.

    More patient than the product's, so that on a busy machine no mirrored request is given up.
    """
    front = Front(HOST, portpicker.pick_unused_port(), portpicker.pick_unused_port())
    with tempfile.TemporaryDirectory() as folder:
        proxy = Proxy(
            f"{HOST}:{front.rest_port}",
            f"{HOST}:{front.grpc_port}",
            f"{server.host}:{server.rest_port}",
            f"{server.host}:{server.grpc_port}",
            f"{HOST}:{recorder}",
            share,
            folder,
            patience=patience,
        )
        process = subprocess.Popen(
            proxy.command(), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        try:
            front.wait_ready()
            yield front
        finally:
            process.terminate()
            process.wait()


@contextlib.contextmanager
def recording(logs: Path, server: Running, options: RecordOptions | None = None) -> Iterator[int]:
    """Run the recorder of `perennial traffic record` in this process; yield its port."""
    made = Recorder(logs, f"{server.host}:{server.grpc_port}", options or RecordOptions(), Limits())
    port = portpicker.pick_unused_port()
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever)
    thread.start()

    async def start() -> web.AppRunner:
        runner = web.AppRunner(application(made), access_log=None, auto_decompress=False)
        await runner.setup()
        await web.TCPSite(runner, HOST, port).start()
        return runner

    made.start()
    runner = asyncio.run_coroutine_threadsafe(start(), loop).result(SECONDS)
    try:
        yield port
    finally:
        asyncio.run_coroutine_threadsafe(runner.cleanup(), loop).result(SECONDS)
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        made.stop()


@contextlib.contextmanager
def recorder_process(logs: Path, server: Running, *options: str) -> Iterator[subprocess.Popen]:
    """`perennial traffic record` itself; its port is its last argument."""
    port = portpicker.pick_unused_port()
    asked = [f"--server={server.host}:{server.grpc_port}", *options, "--port", port]
    process = subprocess.Popen(
        command("traffic", "record", logs, *asked), cwd=REPO, stdout=subprocess.DEVNULL
    )
    try:
        while not _listens(port):
            assert process.poll() is None
            time.sleep(0.1)
        yield process
    finally:
        process.terminate()
        process.wait()


def counted(port: int) -> dict[str, float]:
    """Read the recorder's metrics by name, with the result in place of its label."""
    text = requests.get(f"http://{HOST}:{port}/metrics", timeout=SECONDS).text
    lines = [line.rpartition(" ") for line in text.splitlines() if not line.startswith("#")]
    return {name: float(value) for name, _, value in lines}


def recorded(port: int, result: str = "recorded") -> float:
    return counted(port).get(f'perennial_recorder_requests_total{{result="{result}"}}', 0)


@contextlib.contextmanager
def stand_in(answer: Callable[[BaseHTTPRequestHandler], None]) -> Iterator[int]:
    """Run a recorder that does something else with each request."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            self.rfile.read(int(self.headers.get("Content-Length", 0)))
            answer(self)

        def log_message(self, format: str, *args: object) -> None:  # noqa: A002
            pass

    server = ThreadingHTTPServer((HOST, 0), Handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield server.server_port
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
