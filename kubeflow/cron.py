"""Cron expressions of Kubeflow Pipelines: robfig/cron, seconds first."""

from __future__ import annotations

import re

from cron_descriptor import ExpressionDescriptor, Options

from pipeline.errors import ConfigError

_MONTHS = ("JAN", "FEB", "MAR", "APR", "MAY", "JUN", "JUL", "AUG", "SEP", "OCT", "NOV", "DEC")
_DAYS = ("SUN", "MON", "TUE", "WED", "THU", "FRI", "SAT")
_FIELDS: tuple[tuple[str, int, int, tuple[str, ...]], ...] = (
    ("second", 0, 59, ()),
    ("minute", 0, 59, ()),
    ("hour", 0, 23, ()),
    ("day of the month", 1, 31, ()),
    ("month", 1, 12, _MONTHS),
    ("day of the week", 0, 6, _DAYS),
)
_DESCRIPTORS = {
    "@yearly": "0 0 0 1 1 *",
    "@annually": "0 0 0 1 1 *",
    "@monthly": "0 0 0 1 * *",
    "@weekly": "0 0 0 * * 0",
    "@daily": "0 0 0 * * *",
    "@midnight": "0 0 0 * * *",
    "@hourly": "0 0 * * * *",
}
_ITEM = re.compile(r"(?:(\*|\?)|(\w+)(?:-(\w+))?)(?:/(\d+))?", re.ASCII)


def in_words(expression: str) -> str:
    """Describe a schedule in words, such as "at 03:00, every day".

    It has six fields, seconds first, or is a descriptor such as @daily or @every 12h. Raises
    ConfigError, also for five fields, whose first Kubeflow would read as seconds.
    """
    if expression.startswith("@"):
        return _descriptor(expression)
    fields = expression.split()
    if len(fields) == 5:
        raise ConfigError(
            f"cron {expression!r}: has five fields, but Kubeflow needs six, seconds first; did you "
            f"mean '0 {expression}'?"
        )
    if len(fields) != len(_FIELDS):
        names = ", ".join(name for name, *_ in _FIELDS)
        raise ConfigError(f"cron {expression!r}: must have six fields: {names}")
    if not fields[0].isdigit():
        raise ConfigError(
            f"cron {expression!r}: second {fields[0]!r} would start more than one run a minute; "
            "give a number, such as 0"
        )
    for field, allowed in zip(fields, _FIELDS, strict=True):
        for item in field.split(","):
            if problem := _problem(item, *allowed):
                raise ConfigError(f"cron {expression!r}: {allowed[0]} {item!r} {problem}")
    return _words(" ".join(fields))


def _descriptor(expression: str) -> str:
    name, _, duration = expression.partition(" ")
    if expression in _DESCRIPTORS:
        return _words(_DESCRIPTORS[expression])
    if name != "@every":
        known = ", ".join((*_DESCRIPTORS, "@every 12h"))
        raise ConfigError(f"cron {expression!r}: no such descriptor; there are {known}")
    parts = re.findall(r"(\d+)([hms])", duration)
    if "".join(map("".join, parts)) != duration or not duration:
        raise ConfigError(f"cron {expression!r}: must be like @every 12h or @every 1h30m")
    seconds = sum(int(count) * {"h": 3600, "m": 60, "s": 1}[unit] for count, unit in parts)
    if seconds < 60:
        raise ConfigError(f"cron {expression!r}: would start more than one run a minute")
    units = {"h": "h", "m": "min", "s": "s"}
    spelt = " ".join(f"{count} {units[unit]}" for count, unit in parts)
    return f"every {spelt}, counted from when it was made"


def _problem(item: str, _: str, lowest: int, highest: int, names: tuple[str, ...]) -> str:
    """Return the problem with a part of a field; an empty text if it is valid."""
    match = _ITEM.fullmatch(item)
    if match is None:
        return "is not a number, range or step"
    if match[4] and int(match[4]) == 0:
        return "has a step of 0"
    if match[1]:
        return ""
    first = _number(match[2], lowest, names)
    last = _number(match[3], lowest, names) if match[3] else first
    if first is None or last is None:
        return "is not a number" + (f" or one of {', '.join(names)}" if names else "")
    return "" if lowest <= first <= last <= highest else f"is not within {lowest} to {highest}"


def _number(text: str, lowest: int, names: tuple[str, ...]) -> int | None:
    if text.isdigit():
        return int(text)
    return lowest + names.index(text.upper()) if text.upper() in names else None


def _words(expression: str) -> str:
    options = Options()
    options.use_24hour_time_format = True
    options.verbose = True  # includes "every day"
    words = ExpressionDescriptor(expression, options).get_description()
    return words[0].lower() + words[1:]
