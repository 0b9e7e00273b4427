"""S3 on loopback, for tests: a real server, and faults in front of it.

moto's server keeps objects in memory. It is more generous than S3: any key is let in, and what it
has taken is listed at once. So faults come from `Faults`, which stands between: answers that are
slow, 503, connections that are lost while an object is sent, and listings that are late. Versity's
gateway, a second implementation, checks signatures and keeps files; where it is not in PATH its
tests are skipped (make s3).
"""

from __future__ import annotations

import contextlib
import dataclasses
import os
import re
import shutil
import socket
import subprocess
import threading
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import requests
from moto.server import DomainDispatcherApplication, create_backend_app
from werkzeug.serving import make_server

BUCKET = "bucket"
KEYS = {"AWS_ACCESS_KEY_ID": "perennial", "AWS_SECRET_ACCESS_KEY": "a-secret-of-tests"}


@dataclasses.dataclass
class Faults:
    """What goes wrong, until it is set back.

    slow_s: before each answer. busy: how many of the next requests get 503. lost: how many of the
    next objects are cut off while they are sent. unanswered: of how many that are stored the answer
    is lost. late_s: for how long an object is not listed. refused: a pattern of paths that may not
    be written. log: each request, as "METHOD path".
    """

    slow_s: float = 0.0
    busy: int = 0
    lost: int = 0
    unanswered: int = 0
    late_s: float = 0.0
    refused: str = ""
    log: list[str] = dataclasses.field(default_factory=list)

    def wrap(self, app: Any) -> Any:
        """Return the server with these faults."""
        writing = threading.Lock()  # S3 looks at conditions and writes in one step, moto in two

        def answer(environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
            method, path = environ["REQUEST_METHOD"], environ["PATH_INFO"]
            self.log.append(f"{method} {path}")
            time.sleep(self.slow_s)
            is_object = method == "PUT" and path.count("/") > 1
            if is_object and self.lost:
                self.lost -= 1
                environ["wsgi.input"].read(1)
                environ["werkzeug.socket"].shutdown(socket.SHUT_RDWR)
                return []
            if self.busy or (is_object and self.refused and re.search(self.refused, path)):
                self.busy = max(0, self.busy - 1)
                environ["wsgi.input"].read(int(environ.get("CONTENT_LENGTH") or 0))
                start_response("503 Slow Down", [("Content-Type", "application/xml")])
                return [b"<Error><Code>SlowDown</Code><Message>Reduce your rate.</Message></Error>"]
            if self.late_s and method == "GET" and path.count("/") <= 2:
                return self._late(app, environ, start_response)
            with writing if method == "PUT" else contextlib.nullcontext():
                found: Iterable[bytes] = app(environ, start_response)
            if is_object and self.unanswered:
                self.unanswered -= 1
                environ["werkzeug.socket"].shutdown(socket.SHUT_RDWR)
            return found

        return answer

    def _late(self, app: Any, environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
        told: list[Any] = []
        body = b"".join(app(environ, lambda *args: told.append(args)))

        def shown(match: re.Match[bytes]) -> bytes:
            written = re.search(rb"<LastModified>([^<]+)Z<", match[0])
            moment = written[1].decode().partition(".")[0] if written else ""
            made = time.mktime(time.strptime(moment, "%Y-%m-%dT%H:%M:%S")) - time.timezone
            return b"" if made > time.time() - self.late_s else match[0]

        body = re.sub(rb"<Contents>.*?</Contents>", shown, body, flags=re.DOTALL)
        status, headers = told[0][:2]
        headers = [each for each in headers if each[0].lower() != "content-length"]
        start_response(status, [*headers, ("Content-Length", str(len(body)))])
        return [body]


@dataclasses.dataclass
class S3:
    """A server with an empty bucket. env: how to reach it."""

    url: str
    env: dict[str, str]
    faults: Faults

    def uri(self, *names: str) -> str:
        return "/".join([f"s3://{BUCKET}", *names])


def _env(url: str) -> dict[str, str]:
    own = {"AWS_ENDPOINT_URL_S3": url, "AWS_DEFAULT_REGION": "us-east-1"}
    # Neither the profile of whoever runs tests, nor a machine's service for keys.
    nothing = {"AWS_CONFIG_FILE": os.devnull, "AWS_SHARED_CREDENTIALS_FILE": os.devnull}
    return {**KEYS, **own, **nothing, "AWS_EC2_METADATA_DISABLED": "true"}


@contextmanager
def moto(host: str = "127.0.0.1") -> Iterator[S3]:
    """Moto's server at an address of this machine, with faults."""
    faults = Faults()
    app = DomainDispatcherApplication(create_backend_app)
    server = make_server(host, 0, faults.wrap(app), threaded=True)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    url = f"http://{host}:{server.server_port}"
    requests.post(f"{url}/moto-api/reset", timeout=60)  # its objects are those of the process
    try:
        yield S3(url, _env(url), faults)
    finally:
        server.shutdown()
        thread.join()


def has_versity() -> bool:
    return shutil.which("versitygw") is not None


@contextmanager
def versity(folder: Path) -> Iterator[S3]:
    """Versity's gateway to a folder, with no faults."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    folder.mkdir()
    command = ["versitygw", "--port", f"127.0.0.1:{port}", "--access", KEYS["AWS_ACCESS_KEY_ID"]]
    command += ["--secret", KEYS["AWS_SECRET_ACCESS_KEY"], "posix", str(folder)]
    with open(folder.with_suffix(".log"), "wb") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log)
    try:
        for _ in range(100):
            with socket.socket() as there:
                if there.connect_ex(("127.0.0.1", port)) == 0:
                    break
            time.sleep(0.1)
        url = f"http://127.0.0.1:{port}"
        yield S3(url, _env(url), Faults())
    finally:
        process.terminate()
        process.wait()


def make_bucket() -> None:
    """Make the bucket of the server that the environment names."""
    from components.storage import locations

    locations.filesystem(f"s3://{BUCKET}").mkdir(BUCKET)
