"""Files of JSON objects, one a line, that are only added to: the audit log and the journal.

A line is added whole or not at all. All the same a disk or a person can damage one, and then that
line is named and left out, and the others are read.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from components import progress, storage

Entry = dict[str, Any]


class Records(NamedTuple):
    """The entries of a file, oldest first, and a line of text for each line that is none."""

    entries: list[Entry]
    damaged: list[str]


def append(location: str, entry: Mapping[str, Any]) -> None:
    """Add an entry, durably, to the file at a path or URI. Raises OSError; see `append_line`."""
    storage.append_line(location, json.dumps(entry))


def read(location: str, check: Callable[[Entry], object] = lambda _: None) -> Records:
    """Read a file; there are no entries where there is none.

    Args:
      location: path or URI.
      check: raises ValueError, KeyError or TypeError for what is not an entry of this file.

    Raises OSError where the file cannot be read.
    """
    try:
        text = storage.read_text(location, errors="replace") or ""
    except IsADirectoryError:
        return Records([], [f"{location} is a folder"])
    # Not `splitlines`: an entry may hold other line breaks of Unicode.
    return parse(text.split("\n"), location, check)


def parse(
    lines: list[str], location: str, check: Callable[[Entry], object] = lambda _: None
) -> Records:
    """Parse the lines of a file; `location` is for the texts."""
    found = Records([], [])
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            entry = json.loads(line)
            if not isinstance(entry, dict):
                raise TypeError("it is not an object")
            check(entry)
        # Of deeply nested brackets it is a RecursionError.
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            found.damaged.append(f"{location}, line {number}: is left out: {_reason(error)}")
        else:
            found.entries.append(entry)
    return found


def _reason(error: Exception) -> str:
    if isinstance(error, KeyError):
        return f"it has no {error.args[0]!r}"
    if isinstance(error, json.JSONDecodeError):
        return "it is not JSON"
    return str(error).partition("\n")[0] or type(error).__name__


def read_and_tell(location: str, check: Callable[[Entry], object] = lambda _: None) -> list[Entry]:
    """Read a file, and report a line that is left out; of several, the last one."""
    found = read(location, check)
    if found.damaged:
        others = len(found.damaged) - 1
        more = f", as are {others} other lines" if others else ""
        progress.report("note", text=f"{found.damaged[-1]}{more}")
    return found.entries
