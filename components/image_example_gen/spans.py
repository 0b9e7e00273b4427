"""Spans: TFX's numbered or dated parts of a data set, of which a run reads the latest or a range.

A location may contain `{SPAN}`, or `{YYYY}`, `{MM}` and `{DD}` (the span is then the number of days
since 1970-01-01), and `{VERSION}`, of which the highest counts. `{SPAN:3}` is a number of three
digits. As in TFX, numbers need not be consecutive: the last N spans are the N highest that exist.
"""

# Locations may be URIs, which pathlib would change.
# ruff: noqa: PTH207

from __future__ import annotations

import datetime
import glob
import os
import re
from collections.abc import Collection, Sequence
from typing import NamedTuple

from components import storage
from components.errors import BadDataError
from components.image_example_gen import files, source_name
from components.image_example_gen.options import Options
from components.wording import shortened

_EPOCH = datetime.date(1970, 1, 1)
_DATE = ("{YYYY}", "{MM}", "{DD}")
_NUMBER = re.compile(r"\{(SPAN|VERSION)(?::([^}]*))?\}")
_PART = re.compile(r"\{(SPAN|VERSION|YYYY|MM|DD)(?::([^}]*))?\}")


class NoSpanError(BadDataError):
    """A pattern of which there is no span, or none in the window."""


class Span(NamedTuple):
    """A part of the data: number, version (None without), and path or URI."""

    number: int
    version: int | None
    location: str


def resolve(location: str, options: Options) -> list[Span]:
    """Find the spans to read, oldest first; a single span 0 for a location without spans.

    Raises BadDataError if the pattern is invalid, NoSpanError if no span matches.
    """
    windowed = options.spans != 1 or options.first_span is not None or options.last_span is not None
    if not source_name.parse(location).has_spans:
        if windowed:
            raise BadDataError(
                f"{location}: data.spans, data.first_span and data.last_span need a source with "
                "{SPAN} or a date in it"
            )
        return [Span(0, None, location)]
    latest: dict[int, Span] = {}
    for span in _found(location):
        known = latest.get(span.number)
        if known is None or (span.version or 0) > (known.version or 0):
            latest[span.number] = span
    found = sorted(latest.values())
    chosen = _chosen(found, options)
    if not chosen:
        ends = [name(number, location) for number in (min(latest), max(latest))] if latest else []
        there = f"; there are spans {' to '.join(ends)}" if ends else ""
        raise NoSpanError(f"{location}: no such span{there}")
    if options.held_out == "all":
        return [span for span in found if span.number <= chosen[-1].number]
    return chosen


def name(number: int, source: str) -> str:
    """Return the date of a span if the source has dated spans, else its number."""
    is_dated = "{YYYY}" in source
    return (_EPOCH + datetime.timedelta(days=number)).isoformat() if is_dated else str(number)


def day(date: datetime.date) -> int:
    """Return the number of a dated span."""
    return (date - _EPOCH).days


def location(pattern: str, number: int, version: int = 1) -> str:
    """Return the path or URI of a span by the pattern of its source."""
    date = _EPOCH + datetime.timedelta(days=number) if "{YYYY}" in pattern else _EPOCH
    values = {"YYYY": f"{date:%Y}", "MM": f"{date:%m}", "DD": f"{date:%d}"}
    numbers = {"SPAN": number, "VERSION": version}

    def value(match: re.Match[str]) -> str:
        return values.get(match[1]) or f"{numbers[match[1]]:0{int(match[2] or 0)}d}"

    return _PART.sub(value, pattern)


def is_one(path: str, pattern: str) -> bool:
    """Return whether a path or URI is one of the pattern's spans."""
    return re.fullmatch(_expression(pattern), path) is not None


def window(spans: Sequence[Span], options: Options) -> frozenset[int]:
    """Return the numbers of the spans to train on, among those that `resolve` found."""
    return frozenset(span.number for span in _chosen(list(spans), options))


def told(location: str, found: Sequence[Span], window: Collection[int]) -> str:
    """Describe which spans are read; "" for a source without spans."""
    if not source_name.parse(location).has_spans:
        return ""
    names = [prefix(span, location).rstrip("/") for span in found]
    judged = [span for span in found if span.number not in window]
    older = f"; only the held-out images of {len(judged):,} of them" if judged else ""
    return f"{len(found):,} of {location}: {shortened(names)}{older}"


def _chosen(spans: list[Span], options: Options) -> list[Span]:
    if options.first_span is None and options.last_span is None:
        return spans[-options.spans :]
    first = options.first_span if options.first_span is not None else 0
    last = options.last_span if options.last_span is not None else float("inf")
    return [span for span in spans if first <= span.number <= last]


def _found(location: str) -> list[Span]:
    pattern = re.compile(_expression(location))
    found = {}
    for path in _candidates(location):
        if match := pattern.match(path):
            values = match.groupdict()
            number = int(values["SPAN"]) if "SPAN" in values else _day(values)
            version = int(values["VERSION"]) if "VERSION" in values else None
            if number is not None:
                found[match[1]] = Span(number, version, match[1])
    return [span for _, span in sorted(found.items())]


def _candidates(location: str) -> list[str]:
    if storage.is_uri(location):
        # Object stores have no folders: a span exists if it has files.
        root = source_name.fixed_part(location)
        return [f"{root}/{name}" for name in files.list_remote(root)]
    wild = _NUMBER.sub("*", glob.escape(location))
    for part in _DATE:
        wild = wild.replace(part, "*")
    return glob.glob(wild)


def _expression(location: str) -> str:
    """Return a regular expression for the path of a span, or one below it."""
    names = [match[1] for match in _NUMBER.finditer(location)]
    dates = [location.count(part) for part in _DATE]
    if names.count("SPAN") + max(dates) != 1 or names.count("VERSION") > 1 or len(set(dates)) != 1:
        raise BadDataError(
            f"{location}: must contain {{SPAN}} or all of {{YYYY}}, {{MM}} and {{DD}}, each once, "
            "and {VERSION} at most once"
        )
    expression, end = "", 0
    for match in _PART.finditer(location):
        name, width = match[1], match[2]
        if width is not None and not (name in ("SPAN", "VERSION") and re.fullmatch("[1-9]", width)):
            raise BadDataError(
                f"{location}: {match[0]}: the width must be a digit, as in {{SPAN:3}}"
            )
        digits = {"YYYY": "{4}", "MM": "{2}", "DD": "{2}"}.get(name) or (
            f"{{{width}}}" if width else "+"
        )
        expression += f"{re.escape(location[end : match.start()])}(?P<{name}>[0-9]{digits})"
        end = match.end()
    return f"({expression}{re.escape(location[end:])})(?:/|$)"


def _day(values: dict[str, str]) -> int | None:
    try:
        return day(datetime.date(int(values["YYYY"]), int(values["MM"]), int(values["DD"])))
    except ValueError:
        return None


def prefix(span: Span, location: str) -> str:
    """Return the prefix of the names of a span's inputs."""
    if span.location == location:
        return ""
    return os.path.relpath(span.location, source_name.fixed_part(location)) + "/"
