"""Numbers and texts as people read them on a terminal and on pages."""

from __future__ import annotations

import math
import numbers
import re
import textwrap
from collections.abc import Mapping, Sequence
from typing import Any

NOTHING = "\N{EN DASH}"  # in the place of a figure that there is not
_NARROW = 30  # columns; below, values of a summary are not wrapped


def percent(value: float | None, digits: int = 1) -> str:
    """Write a fraction as a percentage; NOTHING for None."""
    return NOTHING if value is None else f"{value:.{digits}%}"


def duration(seconds: float) -> str:
    """Write `12.3 s`, `4 min 05 s` or `2 h 10 min`."""
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02} min" if hours else f"{minutes} min {rest:02} s"


def memory(megabytes: float) -> str:
    """Write `850 MB` or `2.3 GB`."""
    return f"{megabytes / 1000:.1f} GB" if megabytes >= 1000 else f"{megabytes:.0f} MB"


def eta(seconds: float) -> str:
    """Write `45s`, `31m` or `2h05m`."""
    if seconds < 60:
        return f"{seconds:.0f}s"
    minutes = round(seconds / 60)
    return f"{minutes}m" if minutes < 60 else f"{minutes // 60}h{minutes % 60:02}m"


def figure(value: Any) -> str:
    """Write a number as `0.4213` or `1,204`, and anything else as text."""
    if not isinstance(value, numbers.Real):
        return printable(str(value))
    number = float(value)
    return f"{number:,.0f}" if abs(number) >= 1000 else f"{number:.4g}"


def printable(text: str) -> str:
    """Replace what would break the line or steer a terminal: file names may hold anything."""
    return "".join(character if character.isprintable() else "?" for character in text)


def jsonable(value: Any) -> Any:
    """Convert to plain values of JSON, which has no NaN and no infinity: those become null."""
    match value:
        case None | bool() | str() | int():
            return value
        case Mapping():
            return {str(key): jsonable(each) for key, each in value.items()}
        case list() | tuple():
            return [jsonable(each) for each in value]
        case numbers.Real():
            return float(value) if math.isfinite(value) else None
    return str(value)


def aligned(rows: Sequence[tuple[str, str]]) -> list[tuple[str, str]]:
    """Pad the labels of `rows` to the width of the longest."""
    width = max(len(label) for label, _ in rows)
    return [(f"{label:<{width}}  ", value) for label, value in rows]


def wrapped(value: str, width: int) -> list[str]:
    """Break a value at blanks into lines of `width`; those after a first `ok  ` are indented."""
    if width < _NARROW or len(value) <= width:
        return [value]
    mark = re.match(r"(ok|NO)  ", value)
    return textwrap.wrap(
        value,
        width,
        subsequent_indent=" " * len(mark[0]) if mark else "",
        break_long_words=False,
        break_on_hyphens=False,
        drop_whitespace=True,
    )
