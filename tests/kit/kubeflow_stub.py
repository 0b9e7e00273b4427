"""A stand-in for the API server of Kubeflow Pipelines, strict about what it is sent.

Bodies are checked against the models of kfp_server_api, filters against the fields and operations
that backend/src/apiserver/model/run.go and filter.proto of 2.17 have. More generous than the real
one: it lets anybody do anything unless `token`, `cookie`, `status` or `forbidden` is set; it has
what it is told at once, where the persistence agent reports a workflow some time after it changed;
and runs go through the states that a test names, whether they were terminated or not.
"""

from __future__ import annotations

import base64
import contextlib
import email.parser
import email.policy
import gzip
import json
import re
import threading
import zlib
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, NamedTuple
from urllib.parse import parse_qs, urlsplit

import kfp_server_api

_ENUMS = {"RecurringRunMode"}
_OPERATIONS = {"EQUALS", "GREATER_THAN", "GREATER_THAN_EQUALS", "IN"}
_RUN_FIELDS = {"display_name", "created_at", "finished_at", "state"}
_CREATED = "2026-11-29T03:00:00Z"
_NEVER = "1970-01-01T00:00:00Z"


def check(body: Any, kind: str) -> None:
    """Raise ValueError unless `body`, as JSON, has the fields and types of that model, and no more.

    Numbers that are 64 bits long are strings in the models, and either in the protocol.
    """
    if kind.startswith("list["):
        for item in body:
            check(item, kind[5:-1])
    elif kind.startswith("dict("):
        if not isinstance(body, dict):
            raise ValueError(f"{body!r} is no {kind}")
    elif kind in ("str", "datetime"):
        if isinstance(body, bool) or not isinstance(body, str | int):
            raise ValueError(f"{body!r} is no {kind}")
    elif kind == "bool":
        if not isinstance(body, bool):
            raise ValueError(f"{body!r} is no bool")
    elif kind in _ENUMS:
        if body not in getattr(kfp_server_api, kind).allowable_values:
            raise ValueError(f"{body!r} is no {kind}")
    elif kind != "object":
        model = getattr(kfp_server_api, kind)
        types = {model.attribute_map[name]: each for name, each in model.openapi_types.items()}
        if unknown := body.keys() - types.keys():
            raise ValueError(f"{kind} has no {unknown}")
        for name, value in body.items():
            check(value, types[name])


def as_archived(log: str) -> str:
    """Return an archived log as Kubeflow does: archive/log.go, CopyLogFromArchiveReader.

    A JSON line that Go can read as {"log": text, "timestamp": RFC 3339} becomes the value of its
    `log`, which is empty where it has none.
    """
    lines = []
    for line in log.splitlines():
        try:
            entry = json.loads(line)
        except ValueError:
            entry = None
        if isinstance(entry, dict):
            text, moment = entry.get("log"), entry.get("timestamp")
            if isinstance(text, str | None) and isinstance(moment, str | None):
                line = text or ""
        if line or isinstance(entry, dict):
            lines.append(line)
    return "\n".join(lines)


class Stub:
    """What it has, and what it was asked.

    token: what a request must have in its header Authorization, cookie in its header Cookie; if
    set. html: answer as a login page does. states: of runs, one each time that one is looked at,
    and the last from then on. workflows: what Argo has of a run, likewise. logs: of pods, as text,
    by name. forbidden: how paths end that nobody may ask. pages: whether it is the server of
    Kubeflow's pages, which passes most of the API on.
    """

    def __init__(self) -> None:
        self.url = ""
        self.token = ""
        self.cookie = ""
        self.status = 0
        self.html = False
        self.states: list[str] = []
        self.workflows: dict[str, list[dict[str, Any]]] = {}
        self.logs: dict[str, str] = {}
        self.pages = False
        self.terminated: list[str] = []
        self.forbidden = ""
        self.asked: list[tuple[str, str]] = []
        self.uploads: dict[str, bytes] = {}
        self.things: dict[str, dict[str, dict[str, Any]]] = {
            kind: {} for kind in ("pipelines", "versions", "experiments", "runs", "recurringruns")
        }

    def new(self, kind: str, **fields: Any) -> dict[str, Any]:
        """Keep a thing under an id of its own."""
        name = {"versions": "pipeline_version_id", "recurringruns": "recurring_run_id"}
        things = self.things[kind]
        identity = f"{kind}-{len(things) + 1}"
        things[identity] = {name.get(kind, f"{kind[:-1]}_id"): identity, **fields}
        return things[identity]

    def answer(self, method: str, path: str, query: dict[str, str], body: Any) -> Any:
        """Return the JSON for a request. LookupError if the API has no such path."""
        if path.startswith(("/apis/v1", "/k8s/")):
            return self._older(path, query)
        matched = re.fullmatch(r"/apis/v2beta1/(\w+)((?:/[\w-]+)*)((?::\w+)?)", path)
        if matched is None:
            raise LookupError(path)
        kind, rest, verb = matched[1], matched[2].split("/")[1:], matched[3]
        match method, kind, rest, verb:
            case "GET", "healthz", [], "":
                return {"multi_user": False}
            case "GET", "pipelines", [_, "versions"], "":
                return {"pipeline_versions": self._named("versions", query)}
            case "GET", "recurringruns", [], "":
                return self._page(self._named("recurringruns", query), query)
            case "GET", "runs", [identity], "":
                state = self.states.pop(0) if len(self.states) > 1 else self.states[0]
                ended = {"finished_at": _NEVER} | self.things[kind][identity]
                return {"created_at": _CREATED, **ended, "state": state}
            case "GET", "runs", [], "":
                return {"runs": self._filtered(query)}
            case "POST", "runs", [identity], ":terminate":
                self.terminated.append(self.things[kind][identity]["run_id"])
                return {}
            case "GET", "pipelines" | "experiments", [], "":
                return {kind: self._named(kind, query)}
            case "POST", "pipelines", [], "":
                check(body, "V2beta1Pipeline")
                return self.new(kind, **body)
            case "POST", "pipelines", ["upload_version"], "":
                assert query["pipelineid"] in self.things["pipelines"]
                fields = {"display_name": query["name"], "pipeline_id": query["pipelineid"]}
                version = self.new("versions", **fields)
                self.uploads[version["pipeline_version_id"]] = body
                return version
            case "POST", "experiments", [], "":
                check(body, "V2beta1Experiment")
                return self.new(kind, **body)
            case "POST", "runs", [], "":
                check(body, "V2beta1Run")
                return self.new(kind, **body)
            case "POST", "recurringruns", [], "":
                check(body, "V2beta1RecurringRun")
                return self.new(kind, **body, status=f"{body['mode']}D")
            case "POST", "recurringruns", [identity], ":disable" | ":enable":
                self.things[kind][identity]["status"] = f"{verb[1:].upper()}D"
                return {}
            case "DELETE", "recurringruns", [identity], "":
                del self.things[kind][identity]
                return {}
        raise LookupError(path)

    def _older(self, path: str, query: dict[str, str]) -> Any:
        """Paths that kfp_server_api has no models for; see main.go and run_log_server.go."""
        if matched := re.fullmatch(r"/apis/v1beta1/runs/([\w-]+)", path):
            left = self.workflows[matched[1]]
            manifest = left.pop(0) if len(left) > 1 else left[0]
            run = {"id": matched[1]}
            return {"run": run, "pipeline_runtime": {"workflow_manifest": json.dumps(manifest)}}
        if matched := re.fullmatch(r"/apis/v1alpha1/runs/[\w-]+/nodes/([\w-]+)/log", path):
            if self.pages:
                return Raw("<html>Kubeflow</html>", "text/html")
            # 200 whatever comes of it, and no content type of JSON.
            failed = json.dumps({"error_message": "Failed to read logs", "error_details": "..."})
            return Raw(as_archived(self.logs.get(matched[1], failed)), "text/plain")
        if path == "/k8s/pod/logs" and self.pages and query["podname"] in self.logs:
            return Raw(self.logs[query["podname"]], "text/plain")
        raise LookupError(path)

    def _filtered(self, query: dict[str, str]) -> list[dict[str, Any]]:
        (predicate,) = json.loads(query["filter"])["predicates"]
        key, operation = predicate["key"], predicate["operation"]
        assert key in _RUN_FIELDS
        assert operation in _OPERATIONS
        runs = list(self.things["runs"].values())
        if operation == "IN":
            return [run for run in runs if run[key] in predicate["stringValues"]["values"]]
        assert operation == "GREATER_THAN_EQUALS"
        # Of the same form, and so of the same order.
        assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ", predicate["timestampValue"])
        return [run for run in runs if run[key] >= predicate["timestampValue"]]

    def _named(self, kind: str, query: dict[str, str]) -> list[dict[str, Any]]:
        things = list(self.things[kind].values())
        if "filter" not in query:
            return things
        (predicate,) = json.loads(query["filter"])["predicates"]
        assert predicate["operation"] in ("EQUALS", 1)
        assert predicate["key"] == "display_name"
        return [each for each in things if each["display_name"] == predicate["stringValue"]]

    @staticmethod
    def _page(things: list[dict[str, Any]], query: dict[str, str]) -> dict[str, Any]:
        start = int(query.get("page_token") or 0)
        end = start + int(query["page_size"])
        more = {"next_page_token": str(end)} if end < len(things) else {}
        return {"recurringRuns": things[start:end], **more}


class Raw(NamedTuple):
    """An answer that is no JSON of the API."""

    text: str
    kind: str


class Node(NamedTuple):
    """A pod as Argo keeps it. name: as below `root`, such as trainer.executor(0)."""

    name: str
    phase: str
    message: str = ""
    started: str = _CREATED
    ended: str | None = None
    template: str = "retry-system-container-impl"


def workflow(
    *nodes: Node,
    env: dict[str, str] | None = None,
    ours: bool = True,
    packed: bool = False,
    deadline: int = 86400,
) -> dict[str, Any]:
    """Return a Workflow of Kubeflow and Argo 4.0, with the fields that are read.

    packed: with its nodes compressed, as Argo keeps many. deadline: of the run; to terminate one,
    Kubeflow sets 0, and takes it for FAILED once it has ended (resource_manager.go:1024, :1538).
    """
    command = ["python3", "-m", "kubeflow.entrypoint" if ours else "somebody.else"]
    variables = [{"name": name, "value": value} for name, value in (env or {}).items()]
    container = {"command": command, "image": "perennial:1", "env": variables}
    parameters = [
        {"name": "components-root", "value": "{}"},
        {"name": "implementations-1a2b", "value": json.dumps(container)},
        {"name": "kubernetes-comp-trainer", "value": "{}"},
    ]
    made: dict[str, Any] = {
        "digits-x7": {"id": "digits-x7", "name": "digits-x7", "type": "DAG", "phase": "Running"},
    }
    for node in nodes:
        identity = f"digits-x7-{zlib.crc32(node.name.encode())}"
        made[identity] = {
            "id": identity,
            "name": f"digits-x7.root.{node.name}",
            "type": "Pod",
            "templateName": node.template,
            "phase": node.phase,
            "message": node.message,
            "startedAt": node.started,
            "finishedAt": node.ended,
        }
    content = gzip.compress(json.dumps(made).encode())
    status = {"compressedNodes": base64.b64encode(content).decode()} if packed else {"nodes": made}
    return {
        "metadata": {"name": "digits-x7", "namespace": "team", "annotations": {}},
        "spec": {"arguments": {"parameters": parameters}, "activeDeadlineSeconds": deadline},
        "status": {"phase": "Running", **status},
    }


def pod_name(node: Node) -> str:
    """Return the name of a node's pod in Kubernetes."""
    return f"digits-x7-{node.template}-{zlib.crc32(node.name.encode())}"


@contextlib.contextmanager
def serving() -> Iterator[Stub]:
    """Start a stub on a free port of loopback."""
    stub = Stub()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            url = urlsplit(self.path)
            stub.asked.append((self.command, self.path))
            content = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            if (stub.token and self.headers["Authorization"] != f"Bearer {stub.token}") or (
                stub.cookie and self.headers["Cookie"] != stub.cookie
            ):
                self._send(401, {"error": "token of nobody known"})
            elif stub.forbidden and url.path.endswith(stub.forbidden):
                self._send(403, {"message": "not yours"})
            elif stub.status:
                self._send(stub.status, {"message": "namespace 'team' is\nnot yours"})
            elif stub.html:
                self._send(200, "<html>log in</html>")
            else:
                query = {key: values[0] for key, values in parse_qs(url.query).items()}
                try:
                    answer = stub.answer(self.command, url.path, query, self._body(content))
                except LookupError as error:
                    self._send(404, {"message": f"no {error}"})
                except (ValueError, AssertionError) as error:
                    self._send(400, {"message": str(error)})
                else:
                    self._send(200, answer)

        do_POST = do_DELETE = do_GET  # noqa: N815

        def _body(self, content: bytes) -> Any:
            kind = self.headers.get("Content-Type") or ""
            if not kind.startswith("multipart/"):
                return json.loads(content) if content else None
            head = f"Content-Type: {kind}\r\n\r\n".encode()
            parser = email.parser.BytesParser(policy=email.policy.HTTP)
            (part,) = parser.parsebytes(head + content).iter_parts()
            return part.get_payload(decode=True)

        def _send(self, status: int, value: Any) -> None:
            text = value if isinstance(value, str) else json.dumps(value)
            kind = "text/html" if isinstance(value, str) else "application/json"
            if isinstance(value, Raw):
                text, kind = value
            self.send_response(status)
            self.send_header("Content-Type", kind)
            self.send_header("Content-Length", str(len(text.encode())))
            self.end_headers()
            self.wfile.write(text.encode())

        def log_message(self, *args: Any) -> None:
            """Say nothing."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        stub.url = f"http://127.0.0.1:{server.server_address[1]}"
        thread = threading.Thread(target=server.serve_forever, args=(0.02,))
        thread.start()
        try:
            yield stub
        finally:
            server.shutdown()
            thread.join()
