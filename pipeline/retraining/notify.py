"""Messages to a webhook, in the JSON that Slack, Mattermost and others take.

The URL is a secret: it comes from the environment, and no message of ours holds it.
"""

from __future__ import annotations

import json
import os
import threading
import urllib.error
import urllib.request

from components.redaction import redact
from pipeline.settings import NotifyConfig

TIMEOUT_S = 10.0  # for all of it: somebody may drip an answer


def send(config: NotifyConfig, event: str, name: str, text: str) -> str | None:
    """Tell that `event` befell the model called `name`.

    Returns why that failed, None where it did not or nobody is to be told. Raises nothing: a
    night's work is not lost because a chat is down.
    """
    url = os.environ.get(config.webhook_env, "").strip()
    if not url or event not in config.on:
        return None
    if not url.lower().startswith(("http://", "https://")):
        return f"nobody was told: {config.webhook_env} does not hold an http or https URL"
    told = _escaped(redact(f"perennial: {name}: {event}: {text}"))
    failure = [f"it has not answered after {TIMEOUT_S:g} s"]

    def post() -> None:
        failure[:] = [_post(url, json.dumps({"text": told}).encode())]

    # The time-outs of sockets are for each of their reads. A daemon thread keeps nobody waiting.
    thread = threading.Thread(target=post, name="webhook", daemon=True)
    thread.start()
    thread.join(TIMEOUT_S)
    why = failure[0]
    return f"nobody was told: the webhook of {config.webhook_env}: {why}" if why else None


def _post(url: str, body: bytes) -> str:
    """Why it was not taken; "" if it was."""
    try:
        request = urllib.request.Request(url, body, {"Content-Type": "application/json"})
        with urllib.request.urlopen(request, timeout=TIMEOUT_S):
            return ""
    except urllib.error.HTTPError as error:
        return f"it answered {error.code}"
    # Of urllib, http.client, ssl and socket; their texts may name the URL.
    except Exception as error:
        return _kind(error)


def _escaped(text: str) -> str:
    """Text in which a class called <!channel> calls nobody, as Slack and Mattermost have it."""
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")


def _kind(error: Exception) -> str:
    reason = getattr(error, "reason", None)
    if isinstance(reason, OSError) and reason.strerror:
        return reason.strerror
    return type(error).__name__
