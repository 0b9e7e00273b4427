"""Names of classes that look alike."""

from __future__ import annotations

import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from components.image_example_gen import similar


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("Cat", "cat"),
        ("cat", " cat"),
        ("cat ", "cat"),
        ("golden retriever", "golden_retriever"),
        ("golden  retriever", "golden-retriever"),
        ("caf\u00e9", "cafe\u0301"),
        ("ca\u200bt", "cat"),
        ("\ufeffcat", "cat"),
        ("cat\u00ad", "cat"),
        ("\u0441at", "cat"),  # Cyrillic
        ("\uff43\uff41\uff54", "cat"),  # full width
        ("stra\u00dfe", "STRASSE"),
        ("1", "1.0"),
        ("1", "01"),
        ("-2", "-2.00"),
        ("heart\ufe0f", "heart"),
    ],
)
def test_alike(one: str, other: str) -> None:
    assert one != other
    assert similar.groups([one, other, "bird"]) == [sorted([one, other])]


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("cat", "cats"),
        ("1", "10"),
        ("1.5", "1"),
        ("1", "-1"),
        ("cafe", "caf\u00e9"),
        ("\u0915\u0932", "\u0915\u0941\u0932"),  # Hindi: yesterday, clan
        ("10", "1"),
        ("0", "00.5"),
        ("a1", "a01"),
    ],
)
def test_not_alike(one: str, other: str) -> None:
    assert similar.groups([one, other]) == []


@given(st.text())
def test_a_name_is_like_its_other_forms(name: str) -> None:
    for form in ("NFC", "NFD", "NFKC", "NFKD"):
        other = unicodedata.normalize(form, name)
        assert similar.skeleton(other) == similar.skeleton(name)


@pytest.mark.parametrize(
    ("name", "nearest"), [("hrose", "horse"), ("CAT", "cat"), ("zebra", ""), ("", "")]
)
def test_the_nearest(name: str, nearest: str) -> None:
    assert similar.nearest(name, {"cat", "horse", "dog"}) == nearest
