"""Reads a data set through Google's own storage client, from a server that speaks as theirs."""

from __future__ import annotations

import base64
import http.server
import json
import shutil
import threading
import urllib.parse
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from components import storage
from components.image_example_gen.dataset import list_data
from components.image_example_gen.options import Options
from tests.kit import conditional_writes
from tests.kit.data_sources import digest


class Storage(http.server.BaseHTTPRequestHandler):
    """Lists, describes, sends and stores the files of a folder as the objects of a bucket."""

    root: Path
    generations: dict[str, str]

    def do_GET(self) -> None:
        url = urllib.parse.urlsplit(self.path)
        query = dict(urllib.parse.parse_qsl(url.query))
        place, _, name = url.path.partition("/storage/v1/b/bucket")[2].partition("/o/")
        path = self.root / urllib.parse.unquote(name)
        if place == "/o":
            names = sorted(str(p.relative_to(self.root)) for p in self.root.rglob("*.*"))
            found = [each for each in names if each.startswith(query.get("prefix", ""))]
            self._send(json.dumps({"items": [self._about(each) for each in found]}).encode())
        elif not name:
            self._send(json.dumps({"name": "bucket"}).encode())
        elif not path.is_file():
            self.send_error(404)
        elif query.get("alt") == "media":
            self._send(path.read_bytes())
        else:
            self._send(json.dumps(self._about(urllib.parse.unquote(name))).encode())

    def do_POST(self) -> None:
        """Store an object, sent as it is or behind its description, on its condition."""
        query = dict(urllib.parse.parse_qsl(urllib.parse.urlsplit(self.path).query))
        body = self.rfile.read(int(self.headers["Content-Length"]))
        if query["uploadType"] == "multipart":
            _, about, content, _ = body.split(b"--==0==")
            query["name"] = json.loads(about.partition(b"\n\n")[2])["name"]
            body = content.partition(b"\n\n")[2].removesuffix(b"\n")
        generation = self._generation(query["name"])
        if query.get("ifGenerationMatch", generation) != generation:
            self.send_error(412)
            return
        path = self.root / query["name"]
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(body)
        self.generations[query["name"]] = str(int(generation) + 1)
        self._send(json.dumps(self._about(query["name"])).encode())

    def _generation(self, name: str) -> str:
        return self.generations.get(name, "1" if (self.root / name).is_file() else "0")

    def _about(self, name: str) -> dict[str, Any]:
        data = (self.root / name).read_bytes()
        checksum = base64.b64encode(zlib.crc32(data).to_bytes(4, "big")).decode()
        about = {"bucket": "bucket", "name": name, "size": str(len(data)), "crc32c": checksum}
        return about | {"updated": "2026-01-01T00:00:00Z", "generation": self._generation(name)}

    def _send(self, body: bytes) -> None:
        first, last = 0, len(body) - 1
        if given := self.headers.get("Range"):
            start, _, end = given.removeprefix("bytes=").partition("-")
            first, last = int(start), min(int(end or last), last)
        self.send_response(206 if given else 200)
        self.send_header("Content-Range", f"bytes {first}-{last}/{len(body)}")
        self.send_header("Content-Length", str(last + 1 - first))
        self.end_headers()
        self.wfile.write(body[first : last + 1])

    def log_message(self, *_: object) -> None: ...


@pytest.fixture
def bucket(two_classes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Create a bucket with a copy of `two_classes`, and return its folder."""
    copy = shutil.copytree(two_classes, tmp_path / "bucket" / "photos")
    handler = type("Handler", (Storage,), {"root": copy.parent, "generations": {}})
    # Beam looks for credentials for half a minute before it goes without.
    monkeypatch.setattr("apache_beam.internal.gcp.auth.get_service_credentials", lambda _: None)
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        monkeypatch.setenv("STORAGE_EMULATOR_HOST", f"http://127.0.0.1:{server.server_port}")
        threading.Thread(target=server.serve_forever).start()
        yield copy
        server.shutdown()


def read(location: str) -> dict[str, tuple[str, bytes]]:
    data = list_data(location, Options())
    return {item.name: (item.label, item.load()) for unit in data.units for item in unit.items()}


def test_a_bucket_is_read_as_the_folder_that_it_holds(two_classes: Path, bucket: Path) -> None:
    assert read("gs://bucket/photos") == read(str(two_classes))
    before = digest("gs://bucket/photos")
    assert digest("gs://bucket/photos") == before
    (bucket / "cat" / "00.png").write_bytes(b"another")
    assert digest("gs://bucket/photos") != before
    assert read("gs://bucket/photos")["cat/00.png"] == ("cat", b"another")


def test_what_somebody_else_has_written_is_not_replaced(bucket: Path) -> None:
    file = "gs://bucket/models/served.txt"
    conditional_writes.check(file)
    storage.append_line(file, "three")
    assert storage.read_text(file) == "two\nthree\n"
