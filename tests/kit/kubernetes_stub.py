"""A stand-in for Kubernetes' API server and kubelet, as far as a promotion uses them.

Stricter than the real one: any other path, verb, content type or field manager is an error. More
generous: kubelet brings a ConfigMap at once, or when it is told to, and never in between two reads.
tests/cluster has the real ones.
"""

from __future__ import annotations

import copy
import json
import re
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import yaml

from tests.kit.serving import MODEL

NAMESPACE, NAME, SERVICE = "serving", "model-versions", "model-server"
LOCATION = f"configmap://{NAMESPACE}/{NAME}"
TOKEN = "of-the-promoter"


def config_text(base: Path, stable: int) -> str:
    return f"""# by a person
    model_config_list {{
      config {{ name: "other" base_path: "/models/other" }}
      config {{
        name: "{MODEL}" base_path: "{base}" model_platform: "tensorflow"
        model_version_policy {{ specific {{ versions: {stable} }} }}
        version_labels {{ key: "stable" value: {stable} }}
      }}
    }}"""


class Stub:
    """One ConfigMap, the EndpointSlices of one Service, and the Events that were left.

    denied: verb and resource that are forbidden, such as "update configmaps". before: called with
    each verb and resource before it is answered. on_change: called with a new text. touched: pods
    that were patched. lost: how many updates are taken without an answer.
    """

    def __init__(self, text: str) -> None:
        self.url = ""
        self.lock = threading.RLock()
        self.version = 7
        self.map: dict[str, Any] = {
            "apiVersion": "v1",
            "kind": "ConfigMap",
            "metadata": {
                "name": NAME,
                "namespace": NAMESPACE,
                "uid": "1-2-3",
                "resourceVersion": "7",
                "labels": {"kept": "yes"},
            },
            "data": {"models.config": text, "other": "kept"},
            # What the client library does not know yet must stay.
            "futureField": {"kept": True},
        }
        self.slices: list[dict[str, Any]] = []
        self.events: list[dict[str, Any]] = []
        self.touched: list[tuple[str, str]] = []
        self.asked: list[str] = []
        self.lost = 0
        self.denied: set[str] = set()
        self.before: Callable[[str], None] = lambda _: None
        self.on_change: Callable[[str], None] = lambda _: None

    @property
    def text(self) -> str:
        """The configuration now."""
        return str(self.map["data"]["models.config"])

    @property
    def audit(self) -> list[dict[str, Any]]:
        """The entries of the annotation."""
        text = self.map["metadata"].get("annotations", {}).get("perennial/audit", "")
        return [json.loads(line) for line in text.splitlines()]

    def change(self, text: str) -> None:
        """As somebody else would."""
        with self.lock:
            content = copy.deepcopy(self.map)
            content["data"]["models.config"] = text
            self.store(content)

    def store(self, content: dict[str, Any]) -> None:
        """Replace the ConfigMap."""
        with self.lock:
            before = self.text
            self.version += 1
            content["metadata"]["resourceVersion"] = str(self.version)
            self.map = content
        if self.text != before:
            self.on_change(self.text)

    def serve(
        self, name: str, port: int, ready: bool | None = True, host: str = "127.0.0.1"
    ) -> None:
        """Add a pod of the Service, in a slice of its own since ports are those of a slice."""
        conditions = {} if ready is None else {"ready": ready, "serving": ready}
        self.slices.append(
            {
                "addressType": "IPv6" if ":" in host else "IPv4",
                "endpoints": [
                    {
                        "addresses": [host],
                        "conditions": conditions,
                        "targetRef": {"kind": "Pod", "name": name},
                    }
                ],
                "ports": [{"name": "http", "port": 1}, {"name": "grpc", "port": port}],
            }
        )

    def kubeconfig(self, folder: Path) -> Path:
        """Write one for this server."""
        content = {
            "apiVersion": "v1",
            "kind": "Config",
            "current-context": "stub",
            "clusters": [{"name": "stub", "cluster": {"server": self.url}}],
            "users": [{"name": "me", "user": {"token": TOKEN}}],
            "contexts": [{"name": "stub", "context": {"cluster": "stub", "user": "me"}}],
        }
        path = folder / f"kubeconfig-{self.url.rpartition(':')[2]}"
        path.write_text(yaml.safe_dump(content))
        return path


class _RefusedError(Exception):
    def __init__(self, status: int, message: str) -> None:
        self.status, self.message = status, message


class _Handler(BaseHTTPRequestHandler):
    stub: Stub

    def log_message(self, *args: object) -> None:
        pass

    def _answer(self) -> None:
        try:
            status, content = 200, self._do()
        except _RefusedError as error:
            status = error.status
            content = {"kind": "Status", "message": error.message, "code": status}
        if self.command == "PUT" and status == 200 and self.stub.lost:
            self.stub.lost -= 1
            self.close_connection = True
            return
        body = json.dumps(content).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    do_GET = do_PUT = do_PATCH = do_POST = _answer  # noqa: N815

    def _do(self) -> Any:
        stub, parts = self.stub, urlsplit(self.path)
        query = {key: values[-1] for key, values in parse_qs(parts.query).items()}
        body = json.loads(self.rfile.read(int(self.headers.get("Content-Length") or 0)) or "null")
        if self.headers["Authorization"] != f"Bearer {TOKEN}":
            raise _RefusedError(401, "Unauthorized")
        core = f"/api/v1/namespaces/{NAMESPACE}"
        named = f"{core}/configmaps/{NAME}"
        slices = f"/apis/discovery.k8s.io/v1/namespaces/{NAMESPACE}/endpointslices"
        pod = re.fullmatch(f"{core}/pods/([-a-z0-9]+)", parts.path)
        kinds = {
            ("GET", named): "get configmaps",
            ("PUT", named): "update configmaps",
            ("GET", slices): "list endpointslices",
            ("POST", f"{core}/events"): "create events",
        }
        verb = kinds.get((self.command, parts.path), "")
        if pod and self.command == "PATCH":
            verb = "patch pods"
        if not verb:
            raise _RefusedError(404, f'{parts.path.rpartition("/")[2]} "{self.command}" not found')
        stub.asked.append(verb)
        stub.before(verb)
        if verb in stub.denied:
            raise _RefusedError(403, f'cannot {verb} in the namespace "{NAMESPACE}"')
        with stub.lock:
            return getattr(self, f"_{verb.replace(' ', '_')}")(body, query, pod)

    def _get_configmaps(self, *_: Any) -> Any:
        return self.stub.map

    def _update_configmaps(self, body: Any, query: dict[str, str], *_: Any) -> Any:
        assert query == {"fieldManager": "perennial"}
        held = self.stub.map
        if body["metadata"].get("resourceVersion") != held["metadata"]["resourceVersion"]:
            raise _RefusedError(409, "the object has been modified; please apply your changes")
        if held.get("immutable"):
            raise _RefusedError(422, "data: Forbidden: field is immutable when `immutable` is set")
        assert body.keys() == held.keys()
        assert all(isinstance(value, str) for value in body["metadata"]["annotations"].values())
        self.stub.store(body)
        return self.stub.map

    def _list_endpointslices(self, _: Any, query: dict[str, str], *__: Any) -> Any:
        assert query == {"labelSelector": f"kubernetes.io/service-name={SERVICE}"}
        return {"kind": "EndpointSliceList", "items": self.stub.slices}

    def _create_events(self, body: Any, *_: Any) -> Any:
        assert body["metadata"]["generateName"].startswith(NAME)
        self.stub.events.append(body)
        return body

    def _patch_pods(self, body: Any, query: dict[str, str], pod: re.Match[str]) -> Any:
        assert "merge-patch" in self.headers["Content-Type"]
        (value,) = body["metadata"]["annotations"].values()
        self.stub.touched.append((pod[1], value))
        return {}


@contextmanager
def running(text: str) -> Iterator[Stub]:
    """Start a stub that answers."""
    stub = Stub(text)
    handler = type("Handler", (_Handler,), {"stub": stub})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    stub.url = f"http://127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    try:
        yield stub
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
