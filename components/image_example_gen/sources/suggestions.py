"""Plausible readings of a folder, with a command for each."""

from __future__ import annotations

import dataclasses
import json
import shlex
import tomllib
from collections.abc import Mapping, Sequence
from typing import Any, NoReturn

from components.errors import BadDataError
from components.image_example_gen.options import Options
from components.image_example_gen.sources.base import printable

# Settings that do not change how a folder is read.
_NOT_READING = ("min_eval", "max_bad_fraction")


class Suggestions:
    """The plausible readings of the folder at `root` with `options`."""

    def __init__(self, root: str, options: Options) -> None:
        self._root = root
        self._options = options
        self.found: list[str] = []

    def add(
        self, meaning: str, *parts: Mapping[str, Any], below: str = "", **settings: Any
    ) -> None:
        """Add a reading, its settings, and the path in the root if that is the source."""
        for part in parts:
            settings |= part
        source = f"{self._root.rstrip('/')}/{below}" if below else self._root
        chosen = dataclasses.replace(self._options, **settings)
        arguments = []
        for field in dataclasses.fields(Options):
            value = getattr(chosen, field.name)
            if field.name not in _NOT_READING and value != getattr(Options(), field.name):
                shown = json.dumps(value) if isinstance(value, tuple) or _is_toml(value) else value
                arguments.append(f"--set {shlex.quote(f'data.{field.name}={shown}')}")
        words = ["perennial data check", shlex.quote(printable(source)), *arguments]
        self.found.append(f"{meaning}: {' '.join(words)}")

    def ignoring(self, names: Sequence[str]) -> dict[str, tuple[str, ...]]:
        """Return the setting that leaves folders out."""
        return {"ignore": (*self._options.ignore, *names)}

    def stop(self, seen: str) -> NoReturn:
        """Raise BadDataError with all readings."""
        readings = "; or ".join(self.found)
        raise BadDataError(
            f"{self._root}: {seen}. Choose how it is read, here and in run: {readings}",
            findings=self.found,
        )


def _is_toml(value: object) -> bool:
    """Return whether a text would be parsed as another value, such as a number."""
    try:
        return isinstance(value, str) and bool(tomllib.loads(f"value = {value}"))
    except tomllib.TOMLDecodeError:
        return False
