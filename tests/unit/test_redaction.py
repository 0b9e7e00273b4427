"""Secrets in URLs are replaced in whatever is written, and given back to what opens them."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from components import redaction
from components.redaction import MARK

PASSWORD, SIGNATURE = "pa%40ss-word", "0123456789abcdef-signature"


@pytest.mark.parametrize(
    ("text", "hidden"),
    [
        ("https://user:pw@h.org/a.npz?X-Sig=abc%2F&x=1", "https://***@h.org/a.npz?X-Sig=***&x=***"),
        ("https://token@h.org/a", "https://***@h.org/a"),
        ("https://a:b@c@h.org/x", "https://***@h.org/x"),
        ("http://h.org/x?bare", "http://h.org/x?***"),
        ("http://h.org/x?a=1#token=2", "http://h.org/x?a=***#token=***"),
        ("manifest:https://u:p@h.org/x.csv", "manifest:https://***@h.org/x.csv"),
        ("s3://key:secret@bucket/x", "s3://***@bucket/x"),
        ("https://tfhub.dev/google/bit/m-r50x1/1", "https://tfhub.dev/google/bit/m-r50x1/1"),
        ("gs://bucket/models", "gs://bucket/models"),
        ("/data/a@b?c=d", "/data/a@b?c=d"),
        ("who@host said a=b", "who@host said a=b"),
    ],
)
def test_user_info_and_query_values_are_replaced(text: str, hidden: str) -> None:
    assert redaction.redact(text) == hidden
    assert redaction.hide(text) == hidden
    assert redaction.hide(hidden) == hidden  # as a process that reads a configuration again does
    assert redaction.reveal(hidden) == text
    assert redaction.is_hidden(hidden) == (text != hidden)


def test_secrets_are_also_found_where_their_url_is_taken_apart() -> None:
    redaction.hide(f"https://user:{PASSWORD}@h.org/x.npz?sig={SIGNATURE}")
    text = f"no /x.npz?sig={SIGNATURE} for pa@ss-word or {PASSWORD}"
    assert redaction.redact(text) == f"no /x.npz?sig={MARK} for {MARK} or {MARK}"
    assert redaction.redact_all({"a": [PASSWORD, 1], "b": (None,)}) == {"a": [MARK, 1], "b": [None]}


def test_short_values_are_not_looked_for_elsewhere() -> None:
    redaction.hide("https://h.org/x?folder=images&v=1")
    assert redaction.redact("class images, 1 of 1") == "class images, 1 of 1"


def test_a_reference_is_the_value_of_the_variable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MY_WEIGHTS", f"https://h.org/x.npz?sig={SIGNATURE}2\n")
    assert redaction.reveal("env:MY_WEIGHTS") == f"https://h.org/x.npz?sig={SIGNATURE}2"
    assert redaction.redact(f"{SIGNATURE}2") == MARK
    monkeypatch.delenv("MY_WEIGHTS")
    with pytest.raises(ValueError, match="MY_WEIGHTS"):
        redaction.reveal("env:MY_WEIGHTS")


@given(st.text(max_size=200))
def test_any_text_is_redacted_once(text: str) -> None:
    once = redaction.redact(f"https://u:{'x' * 20}@h.org/?q=1 {text}")
    assert "x" * 20 not in once.replace(text, "")
    assert redaction.redact(once) == once
