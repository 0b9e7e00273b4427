"""Messages of the retraining to a chat."""

from __future__ import annotations

import http.server
import json
import os
import threading
from collections.abc import Iterator

import pytest

from pipeline.retraining import notify
from pipeline.settings.retraining import NotifyConfig


class Webhook(http.server.BaseHTTPRequestHandler):
    bodies: list[bytes] = []
    status = 200

    def do_POST(self) -> None:
        self.bodies.append(self.rfile.read(int(self.headers["Content-Length"])))
        self.send_response(self.status)
        self.end_headers()

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def webhook(monkeypatch: pytest.MonkeyPatch) -> Iterator[type[Webhook]]:
    kind = type("Hook", (Webhook,), {"bodies": []})
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), kind) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        url = f"http://127.0.0.1:{server.server_port}/T0/SECRET"
        monkeypatch.setenv("PERENNIAL_WEBHOOK", url)
        yield kind
        server.shutdown()


class TestNotifications:
    def test_are_slacks_json(self, webhook: type[Webhook]) -> None:
        assert notify.send(NotifyConfig(), "blessed", "pets", "version 3") is None
        [body] = webhook.bodies
        assert json.loads(body) == {"text": "perennial: pets: blessed: version 3"}

    def test_are_as_long_as_chats_take(self, webhook: type[Webhook]) -> None:
        assert notify.send(NotifyConfig(), "failed", "pets", "x" * 50_000_000) is None
        [body] = webhook.bodies
        assert json.loads(body)["text"].startswith("perennial: pets: failed: xxx")
        assert notify.LONGEST <= len(body) < 4000

    def test_only_of_what_was_asked_for(self, webhook: type[Webhook]) -> None:
        assert notify.send(NotifyConfig(on=("drift",)), "blessed", "pets", "x") is None
        assert webhook.bodies == []

    def test_a_refusal_is_said_without_the_url(self, webhook: type[Webhook]) -> None:
        webhook.status = 403
        told = notify.send(NotifyConfig(), "failed", "pets", "x")
        assert told
        assert "PERENNIAL_WEBHOOK" in told
        assert "403" in told
        assert os.environ["PERENNIAL_WEBHOOK"] not in told

    @pytest.mark.parametrize(
        "url",
        ["http://127.0.0.1:1/SECRET", "http://[SECRET", "ftp://SECRET", "http://a b/SECRET\n x"],
    )
    def test_no_failure_tells_the_secret(self, monkeypatch: pytest.MonkeyPatch, url: str) -> None:
        monkeypatch.setenv("PERENNIAL_WEBHOOK", url)
        told = notify.send(NotifyConfig(), "failed", "pets", "x")
        assert told
        assert "SECRET" not in told

    def test_nobody_is_told_where_there_is_no_url(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.delenv("PERENNIAL_WEBHOOK", raising=False)
        assert notify.send(NotifyConfig(), "failed", "pets", "x") is None
