"""Wording of messages."""

from __future__ import annotations

import re
from collections.abc import Iterable

MOST = 5


def shortened(parts: Iterable[object], joiner: str = ", ", limit: int = MOST) -> str:
    """List the first few parts, and count the rest."""
    found = list(map(str, parts))
    more = f" and {len(found) - limit:,} more" if len(found) > limit else ""
    return joiner.join(found[:limit]) + more


def quoted(names: Iterable[str]) -> str:
    """List the first few names, in quotes, and count the rest."""
    return shortened(map(repr, names))


def counted(number: float, noun: str, plural: str = "") -> str:
    """Write a number with its noun: `1 image`, `1,797 images`, `2 classes`.

    plural: the noun for other numbers than 1; default: with s, or es after s, x and ch.
    """
    ending = "es" if noun.endswith(("s", "x", "ch")) else "s"
    shown = f"{number:,}" if isinstance(number, int) else f"{number:,g}"
    return f"{shown} {noun if number == 1 else plural or noun + ending}"


def other_files(number: int) -> str:
    """Write the number of files that are not inputs."""
    return counted(number, "other file")


LONGEST = 500  # characters of a reason
_FUNCTION = re.compile(r"\{\{function_node [^}]*\}\}\s*")
_NODES = re.compile(
    r"\s*(\[\[\{\{|\[\[[\w/.:-]+\]\]|\[Op:|\d+ (successful|derived) (operations|errors)).*",
    re.DOTALL,
)
_TRACE = re.compile(
    r"Graph execution error:|Detected at node .*|\s*File \".*|<stack traces unavailable>|"
    r"\d+ root error\(s\) found\."
)
_FIRST = re.compile(r"\s*\(0\) [A-Z_]+: ")
_REFUSED = "StringToNumberOp could not correctly convert string: "


def of_op(message: str, most: int = LONGEST) -> str:
    """Extract the reason, in one line, from the error message of a TensorFlow op.

    TensorFlow adds nodes, devices and lines of Python, in different ways for eager ops, functions
    and sessions.
    """
    # Cut first: a message may contain a whole image.
    text = _NODES.sub("", _FUNCTION.sub("", message[: 16 * most]))
    lines = [_FIRST.sub("", line) for line in text.splitlines() if not _TRACE.fullmatch(line)]
    return bounded(" ".join(lines).replace(_REFUSED, ""), most)


def bounded(text: str, most: int = LONGEST) -> str:
    """Put a text into one line of at most `most` characters."""
    # Cut before it is split: it may contain a whole image.
    line = " ".join(text[: 8 * most].split())
    return line if len(line) <= most and len(text) <= 8 * most else f"{line[:most]}..."
