"""Layers of a configuration: presets, the file and the command line."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from components.image_example_gen import source_name
from pipeline.config import messages, renamed, toml, tree
from pipeline.config.tree import Layer
from pipeline.errors import ConfigError
from pipeline.settings.paths import BUILT_IN_SOURCES

COMMAND_LINE = "command line"
_SOURCE = "source-"


def of_file(path: Path) -> Layer:
    """Read a TOML file. Raises ConfigError."""
    return _layer(f"file:{path}", toml.read(path), path.absolute().parent)


def of_values(values: Mapping[str, Mapping[str, Any]]) -> list[Layer]:
    """Make a layer of each setting, given by origin and dotted key."""
    return [
        _layer(origin, tree.nested(key, value))
        for origin, settings in values.items()
        for key, value in settings.items()
    ]


def _layer(origin: str, given: toml.Tree, folder: Path | None = None) -> Layer:
    by_a_person = origin.startswith(("file:", COMMAND_LINE))
    return Layer(origin, renamed.current(given, origin, note=by_a_person), folder)


def presets(recipe: str, source: object, environment: object) -> Iterator[Layer]:
    """Yield the presets of a recipe, a kind of cluster and a built-in data set."""
    names = [f"recipe-{recipe}", f"kubeflow-{environment}"]
    if source in BUILT_IN_SOURCES:
        names.append(f"data-{source}")
    for name in names:
        path = toml.PRESETS / f"{name}.toml"
        if path.exists():
            table = toml.read(path)
            with_recipe = table.pop("recipe", {}).get(recipe, {})
            # A recipe of your own may have one from an earlier version.
            yield _layer(f"preset:{name}", table)
            yield Layer(f"preset:{name}", with_recipe)


def published() -> list[str]:
    """Return the names that `train.preset` may have."""
    return sorted(path.stem.removeprefix(_SOURCE) for path in toml.PRESETS.glob(f"{_SOURCE}*.toml"))


def published_of(given: Iterable[Layer]) -> Iterator[Layer]:
    """Yield the preset of a published document, where one is named."""
    name, origin = last(given, "train.preset", None)
    if name is None:
        return
    if name not in published():
        hint = messages.hint(str(name), published()) or f"; there are {', '.join(published())}"
        raise ConfigError(
            f"{messages.where(origin)}: train.preset = {messages.shown(name)}: no such preset{hint}"
        )
    yield Layer(f"preset:{_SOURCE}{name}", toml.read(toml.PRESETS / f"{_SOURCE}{name}.toml"))


def scheduled(source: object) -> Iterator[Layer]:
    """Yield the presets of a retraining."""
    spans = isinstance(source, str) and source_name.parse(source).has_spans
    for name in ("retrain", *(("retrain-spans",) if spans else ())):
        yield Layer(f"preset:{name}", toml.read(toml.PRESETS / f"{name}.toml"))


def last(given: Iterable[Layer], key: str, default: object) -> tuple[object, str]:
    """Return the value of `key` in the last layer that has it, and its origin."""
    found: tuple[object, str] = (default, "default")
    for layer in given:
        value: Any = layer.tree
        for part in key.split("."):
            value = value.get(part) if isinstance(value, Mapping) else None
        if value is not None:
            found = (value, layer.origin)
    return found
