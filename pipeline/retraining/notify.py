"""Messages to a webhook, in the JSON that Slack and Mattermost take, and to the terminal.

The URL is a secret: it is read from the environment and never printed.
"""

from __future__ import annotations

import datetime
import json
import os
import threading
import urllib.error
import urllib.request
from typing import Any

from components.redaction import redact, redact_all
from pipeline.settings.retraining import NotifyConfig

TIMEOUT_S = 10.0  # in total: a server may send its answer byte by byte
LONGEST = 2000  # characters of a message; the shortest limit of the chats above is 4,000


def send(config: NotifyConfig, event: str, name: str, text: str) -> str | None:
    """Send a message about `event` of the model called `name` to the webhook.

    Returns the reason of a failure; None on success or without a webhook. Raises nothing: a chat
    that is down must not fail a retraining.
    """
    url = os.environ.get(config.webhook_env, "").strip()
    if not url or event not in config.on:
        return None
    if not url.lower().startswith(("http://", "https://")):
        return f"no message was sent: {config.webhook_env} does not hold an http or https URL"
    # Redacted first: the cut could leave a part of a secret.
    message = redact(f"perennial: {name}: {event}: {text}")
    shown = _escaped(message if len(message) <= LONGEST else f"{message[:LONGEST]}...")
    failure = [f"it has not answered after {TIMEOUT_S:g} s"]

    def post() -> None:
        failure[:] = [_post(url, json.dumps({"text": shown}).encode())]

    # The time-outs of sockets are for each of their reads. A daemon thread does not delay the exit.
    thread = threading.Thread(target=post, name="webhook", daemon=True)
    thread.start()
    thread.join(TIMEOUT_S)
    why = failure[0]
    return f"no message was sent: the webhook of {config.webhook_env}: {why}" if why else None


def _post(url: str, body: bytes) -> str:
    """Post; return the reason of a failure, or ""."""
    try:
        request = urllib.request.Request(url, body, {"Content-Type": "application/json"})
        # Not the module's opener, which keeps the proxies of its first call.
        with urllib.request.build_opener().open(request, timeout=TIMEOUT_S):
            return ""
    except urllib.error.HTTPError as error:
        return f"it answered {error.code}"
    # Of urllib, http.client, ssl and socket; their texts may name the URL.
    except Exception as error:
        return _kind(error)


def _escaped(text: str) -> str:
    """Escape Slack's and Mattermost's markup: a class may be called <!channel>."""
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")


def print_line(log_format: str, event: str, text: str, **fields: Any) -> None:
    """Print a line, or with format "json" an object that has it as `text`."""
    text = redact(text)
    if log_format == "json":
        ts = datetime.datetime.now(datetime.UTC).isoformat(timespec="milliseconds")
        text = json.dumps({"ts": ts, "event": event, "text": text, **redact_all(fields)})
    print(text, flush=True)


def _kind(error: Exception) -> str:
    reason = getattr(error, "reason", None)
    if isinstance(reason, OSError) and reason.strerror:
        return reason.strerror
    return type(error).__name__
