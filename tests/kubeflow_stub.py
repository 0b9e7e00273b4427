"""A stand-in for the API server of Kubeflow Pipelines, strict about what it is sent."""

from __future__ import annotations

import contextlib
import email.parser
import email.policy
import json
import re
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, urlsplit

import kfp_server_api

_ENUMS = {"RecurringRunMode"}


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


class Stub:
    """What it has, and what it was asked.

    token: what a request must have in its header Authorization, cookie in its header Cookie; if
    set. html: answer as a login page does. states: of a run, one each time that it is looked at.
    """

    def __init__(self) -> None:
        self.url = ""
        self.token = ""
        self.cookie = ""
        self.status = 0
        self.html = False
        self.states: list[str] = []
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
        """The JSON for a request. LookupError where the API has no such thing."""
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
                return {**self.things[kind][identity], "state": self.states.pop(0)}
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


@contextlib.contextmanager
def serving() -> Iterator[Stub]:
    """A stub on a free port of loopback."""
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
            self.send_response(status)
            kind = "text/html" if isinstance(value, str) else "application/json"
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
