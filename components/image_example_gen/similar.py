"""Class names that look alike, and so may mean the same."""

from __future__ import annotations

import difflib
import re
import unicodedata
from collections.abc import Collection, Iterable

# Cyrillic and Greek letters that look like Latin ones, from Unicode's confusables.txt.
_LOOKS_LIKE = str.maketrans(
    "авекмнорстухіјѕԁԛԝАВЕКМНОРСТУХІЈЅαβεικνορτυχγΑΒΕΖΗΙΚΜΝΟΡΤΥΧ",
    "abekmhopctyxijsdqwABEKMHOPCTYXIJSabeikvoptuxyABEZHIKMNOPTYX",
)
_VARIATIONS = re.compile("[\u034f\ufe00-\ufe0f]")  # variation selectors
_NUMBER = re.compile(r"[+-]?\d+(\.\d+)?")


def skeleton(name: str) -> str:
    """Return a text that is equal for names that look alike.

    Ignored are case, the encoding of accents (NFC, NFD), widths, blanks, underscores and hyphens,
    invisible characters, alphabets of letters that look alike, and zeros at the ends of a number.
    """
    text = unicodedata.normalize("NFKC", name)
    text = "".join(
        char for char in text if unicodedata.category(char) not in ("Cf", "Cc") or char.isspace()
    )
    text = _VARIATIONS.sub("", text)
    text = text.translate(_LOOKS_LIKE).casefold()
    if _NUMBER.fullmatch(text.strip()):
        return _number(text.strip())
    return re.sub(r"[\s_\-\u2010-\u2015]+", " ", text).strip()


def _number(text: str) -> str:
    """Remove leading zeros, and trailing ones after the point."""
    whole, _, fraction = text.lstrip("+-").partition(".")
    fraction = fraction.rstrip("0")
    sign = "-" if text.startswith("-") else ""
    return sign + (whole.lstrip("0") or "0") + (f".{fraction}" if fraction else "")


def groups(names: Iterable[str]) -> list[list[str]]:
    """Group the names that look alike, sorted."""
    found: dict[str, list[str]] = {}
    for name in sorted(set(names)):
        found.setdefault(skeleton(name), []).append(name)
    return [alike for alike in found.values() if len(alike) > 1]


def nearest(name: str, known: Collection[str]) -> str:
    """Return the name in `known` that is most similar, "" if none is."""
    by_skeleton = {skeleton(each): each for each in sorted(known, reverse=True)}
    found = difflib.get_close_matches(skeleton(name), by_skeleton, n=1)
    return by_skeleton[found[0]] if found else ""
