"""The wording of messages."""

from __future__ import annotations

import re
from collections.abc import Iterable

MOST = 5


def shortened(parts: Iterable[object], joiner: str = ", ", limit: int = MOST) -> str:
    """Join the first few of the parts, and add how many more there are."""
    found = list(map(str, parts))
    more = f" and {len(found) - limit:,} more" if len(found) > limit else ""
    return joiner.join(found[:limit]) + more


def quoted(names: Iterable[str]) -> str:
    """Quote the first few names."""
    return shortened(map(repr, names))


def counted(number: float, noun: str, plural: str = "") -> str:
    """Write a number with its noun: `1 image`, `1,797 images`, `2 classes`.

    plural: the noun for other numbers than 1; by default with an s, or es after s, x and ch.
    """
    ending = "es" if noun.endswith(("s", "x", "ch")) else "s"
    shown = f"{number:,}" if isinstance(number, int) else f"{number:,g}"
    return f"{shown} {noun if number == 1 else plural or noun + ending}"


def other_files(number: int) -> str:
    """Count, in words, files that are no inputs."""
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
    """Extract the cause, in one line, from the message of a failed TensorFlow op.

    Around it, TensorFlow names nodes, devices and lines of Python, in another way for each of eager
    ops, functions and sessions.
    """
    # Cut first: a message may hold a whole image.
    text = _NODES.sub("", _FUNCTION.sub("", message[: 16 * most]))
    lines = [_FIRST.sub("", line) for line in text.splitlines() if not _TRACE.fullmatch(line)]
    return bounded(" ".join(lines).replace(_REFUSED, ""), most)


def bounded(text: str, most: int = LONGEST) -> str:
    """Bring a text to one line of at most `most` characters."""
    # Cut before it is split: it may hold a whole image.
    line = " ".join(text[: 8 * most].split())
    return line if len(line) <= most and len(text) <= 8 * most else f"{line[:most]}..."
