"""Messages to a webhook, in the JSON that Slack and Mattermost take, and to the terminal.

The URL is a secret: it comes from the environment, and no message of ours holds it.
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

TIMEOUT_S = 10.0  # for all of it: a server may drip an answer
LONGEST = 2000  # characters of a message; the shortest limit of the chats above is 4,000


def send(config: NotifyConfig, event: str, name: str, text: str) -> str | None:
    """Send a message about `event` of the model called `name` to the webhook.

    Returns the reason of a failure, None without one or without a webhook. Raises nothing: a
    night's work is not lost because a chat is down.
    """
    url = os.environ.get(config.webhook_env, "").strip()
    if not url or event not in config.on:
        return None
    if not url.lower().startswith(("http://", "https://")):
        return f"nobody was told: {config.webhook_env} does not hold an http or https URL"
    # Redacted first: the cut could leave a part of a secret.
    told = redact(f"perennial: {name}: {event}: {text}")
    shown = _escaped(told if len(told) <= LONGEST else f"{told[:LONGEST]}...")
    failure = [f"it has not answered after {TIMEOUT_S:g} s"]

    def post() -> None:
        failure[:] = [_post(url, json.dumps({"text": shown}).encode())]

    # The time-outs of sockets are for each of their reads. A daemon thread does not delay the exit.
    thread = threading.Thread(target=post, name="webhook", daemon=True)
    thread.start()
    thread.join(TIMEOUT_S)
    why = failure[0]
    return f"nobody was told: the webhook of {config.webhook_env}: {why}" if why else None


def _post(url: str, body: bytes) -> str:
    """Post; return the reason of a failure, "" without one."""
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
    """Escape text, so that a class called <!channel> notifies nobody in Slack or Mattermost."""
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")


def say(log_format: str, event: str, text: str, **fields: Any) -> None:
    """Print a line, or a JSON object that has it as `text` where the format is "json"."""
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
