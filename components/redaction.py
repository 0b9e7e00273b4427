"""Removal of secrets in URLs from everything that is written or sent.

The user info of a URL and the values of its query may be a password, a token or a signature. The
configuration has MARK in their place. `reveal` returns the full URL, but only in the process in
which `hide` was called.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from typing import Any
from urllib.parse import unquote

MARK = "***"
ENV = "env:"  # prefix of a setting: the rest names an environment variable
# Minimal lengths of secrets that are also replaced outside of URLs: shorter ones may be words.
_PASSWORD, _PARAMETER = 6, 16

_URL = re.compile(r"\b[A-Za-z][A-Za-z0-9+.-]*://[^\s\"'<>`]+")
_USER = re.compile(r"(?<=://)[^/?#@]*(?:@[^/?#@]*)*(?=@)")
_PARAMETERS = re.compile(r"([^&#;=]+=)?([^&#;]+)")

# Hidden in this process: full URLs by redacted URL, and the secrets themselves.
_urls: dict[str, str] = {}
_secrets: set[str] = set()


def hide(text: str) -> str:
    """Replace the secrets of URLs in `text`; `reveal` undoes it in this process."""
    hidden = _URL.sub(lambda url: _without_secrets(url[0], remember=True), text)
    if hidden != text:
        _urls[hidden] = text
    return hidden


def hide_all(value: Any) -> Any:
    """Apply `hide` to every string in mappings, lists and tuples."""
    match value:
        case str():
            return hide(value)
        case Mapping():
            return {key: hide_all(each) for key, each in value.items()}
        case list() | tuple():
            return type(value)(hide_all(each) for each in value)
    return value


def is_hidden(text: str) -> bool:
    """Return whether `text` has a URL with replaced secrets."""
    return any(f"://{MARK}@" in url or MARK in url.partition("?")[2] for url in _URL.findall(text))


def reveal(text: str) -> str:
    """Return the hidden text, or the value of a variable for `env:NAME`, else `text` itself.

    Raises:
        ValueError: the environment variable is not set; the message names it.
    """
    if not text.startswith(ENV):
        return _urls.get(text, text)
    value = os.environ.get(text.removeprefix(ENV), "").strip()
    if not value:
        name = text.removeprefix(ENV)
        raise ValueError(f"{text}: the environment variable {name} is not set")
    hide(value)  # so that its secrets are redacted in messages
    return value


def redact(text: str) -> str:
    """Replace the secrets of all URLs in `text`, and all secrets that were hidden before."""
    if "://" in text:
        text = _URL.sub(lambda url: _without_secrets(url[0]), text)
    # Longest first: one may be the beginning of another.
    for secret in sorted(_secrets, key=len, reverse=True):
        text = text.replace(secret, MARK)
    return text


def redact_all(value: Any) -> Any:
    """Apply `redact` to every string in mappings, lists and tuples."""
    match value:
        case str():
            return redact(value)
        case Mapping():
            return {key: redact_all(each) for key, each in value.items()}
        case list() | tuple():
            return [redact_all(each) for each in value]
    return value


def _without_secrets(url: str, *, remember: bool = False) -> str:
    address, question, query = url.partition("?")

    def user(found: re.Match[str]) -> str:
        if remember:
            _remember(found[0].partition(":")[2] or found[0], _PASSWORD)
        return MARK

    def parameter(found: re.Match[str]) -> str:
        if remember:
            _remember(found[2], _PARAMETER)
        return f"{found[1] or ''}{MARK}"

    return _USER.sub(user, address, count=1) + question + _PARAMETERS.sub(parameter, query)


def _remember(secret: str, shortest: int) -> None:
    if len(secret) >= shortest:
        _secrets.update((secret, unquote(secret)))
