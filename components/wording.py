"""How the messages of components are worded."""

from __future__ import annotations

from collections.abc import Iterable

MOST = 5


def shortened(parts: Iterable[object], joiner: str = ", ", limit: int = MOST) -> str:
    """The first few of the parts, and how many more there are."""
    found = list(map(str, parts))
    more = f" and {len(found) - limit:,} more" if len(found) > limit else ""
    return joiner.join(found[:limit]) + more


def quoted(names: Iterable[str]) -> str:
    """The first few names, each in quotes."""
    return shortened(map(repr, names))


def other_files(number: int) -> str:
    """How many files there are that are no inputs."""
    return f"{number:,} other file" + ("" if number == 1 else "s")
