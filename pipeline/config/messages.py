"""Messages about wrong settings: file, key, value and what is allowed, in one line."""

from __future__ import annotations

import difflib
import re
import reprlib
from collections.abc import Iterable, Mapping

from pydantic import BaseModel, ValidationError

from pipeline.config import toml


def hint(name: str, known: Iterable[str]) -> str:
    """Suggest the key whose last part is most like that of `name`; "" for none."""

    def likeness(candidate: str) -> tuple[float, float]:
        last = difflib.SequenceMatcher(None, _last_part(name), _last_part(candidate)).ratio()
        return last, difflib.SequenceMatcher(None, name, candidate).ratio()

    best = max(known, key=likeness)
    return f"; did you mean {best!r}?" if likeness(best)[0] >= 0.6 else ""


def _last_part(key: str) -> str:
    return key.rpartition(".")[2]


_WORDING = {
    "bool_type": "must be true or false",
    "list_type": "must be a list, in square brackets",
    "string_type": "must be a string, in quotes",
    "tuple_type": "must be a list, in square brackets",
}


def describe(
    error: ValidationError, origins: Mapping[str, str], recipe: str, unset: Iterable[str]
) -> str:
    """Write all of pydantic's findings as one line: origin, key, value and what is allowed."""
    items = error.errors(include_url=False)
    wrong = [item for item in items if item["type"] != "missing"]
    # Settings that are derived from others are missing where those are wrong.
    if unset and not wrong:
        return (
            f"train.recipe = {recipe!r}: {', '.join(unset)} not set; put what goes with the recipe "
            f"into {toml.PRESETS / f'recipe-{recipe}.toml'}, or give --set KEY=VALUE"
        )
    findings = []
    for item in wrong or items:
        key = ".".join(map(str, item["loc"]))
        message = item["msg"].removeprefix("Value error, ")
        allowed = _WORDING.get(item["type"]) or re.sub(r"^\w+ should ", "must ", message)
        # A rule over several settings is found at their table, which is not worth showing.
        value = (
            "" if isinstance(item["input"], BaseModel | Mapping) else " = " + shown(item["input"])
        )
        findings.append(f"{where(*origins_of(key, origins))}: {key}{value}: {allowed}")
    return "; ".join(findings)


def origins_of(key: str, origins: Mapping[str, str]) -> list[str]:
    """Return the origins of a setting, of one that holds an element, or of a table's settings."""
    related = {
        origin: None
        for name, origin in origins.items()
        if f"{key}.".startswith(f"{name}.") or name.startswith(f"{key}.")
    }
    return [origin for origin in related if origin != "default"] or ["default"]


def where(*origins: str) -> str:
    """Write origins for a message."""
    return ", ".join(dict.fromkeys(origin.removeprefix("file:") for origin in origins))


def shown(value: object) -> str:
    """Write a value for a message, cut where it is long."""
    if isinstance(value, bool):
        return toml.value_of(value)
    short = reprlib.Repr()
    short.maxstring = short.maxother = 80
    return short.repr(value)
