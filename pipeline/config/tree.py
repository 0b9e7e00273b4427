"""Settings as a tree of tables, and by dotted keys."""

from __future__ import annotations

import functools
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple, get_args, get_origin

from pydantic import BaseModel
from pydantic.fields import FieldInfo

from components import redaction, storage
from components.image_example_gen import source_name
from pipeline.config import messages
from pipeline.config.toml import Tree
from pipeline.errors import ConfigError
from pipeline.settings import Config
from pipeline.settings.paths import LOCATION, PATH, SOURCE

HYPERPARAMETERS = "train.hyperparameters."


class Layer(NamedTuple):
    origin: str
    tree: Tree
    folder: Path | None = None  # what relative paths are relative to; None: the working directory


def at(tree: Any, key: str) -> Any:
    return functools.reduce(lambda table, part: table[part], key.split("."), tree)


def nested(key: str, value: object) -> dict[str, Any]:
    for part in reversed(key.split(".")):
        value = {part: value}
    assert isinstance(value, dict)
    return value


def joined(before: object, after: object) -> object:
    """Join two layers' tables of names and values; `after` wins."""
    if isinstance(before, Mapping) and isinstance(after, Mapping):
        return {**before, **after}
    return after


def merged(values: Mapping[str, Any]) -> dict[str, Any]:
    """Undo `flatten`."""
    tree: dict[str, Any] = {}
    for key, value in values.items():
        *sections, name = key.split(".")
        table = tree
        for section in sections:
            table = table.setdefault(section, {})
        table[name] = value
    return tree


def section_of(field: FieldInfo) -> type[BaseModel] | None:
    kind = field.annotation
    return kind if isinstance(kind, type) and issubclass(kind, BaseModel) else None


def named_section_of(field: FieldInfo) -> type[BaseModel] | None:
    """Return the model of the tables in a table of named tables; None for another field."""
    if get_origin(field.annotation) is not Mapping:
        return None
    _, kind = get_args(field.annotation)
    return kind if isinstance(kind, type) and issubclass(kind, BaseModel) else None


def settings_of(model: type[BaseModel], prefix: str = "") -> dict[str, FieldInfo]:
    """Return the fields by dotted key that hold a value or a table of named tables."""
    found: dict[str, FieldInfo] = {}
    for name, field in model.model_fields.items():
        section = section_of(field)
        if section is None:
            found[prefix + name] = field
        else:
            found |= settings_of(section, f"{prefix}{name}.")
    return found


def flatten(layer: Layer, model: type[Config]) -> dict[str, Any]:
    """Return a layer's settings by dotted key, its paths made absolute. Raises ConfigError."""
    return dict(_flat_items(layer, layer.tree, model, "", model))


def _flat_items(
    layer: Layer, tree: Tree, model: type[BaseModel], prefix: str, root: type[Config]
) -> Iterator[tuple[str, Any]]:
    for name, value in tree.items():
        key, field = prefix + name, model.model_fields.get(name)
        if field is None:
            raise ConfigError(
                f"{messages.where(layer.origin)}: {_unknown(key, value, model, root)}"
            )
        section, named = section_of(field), named_section_of(field)
        if section is not None:
            yield from _table_items(layer, value, section, key, root)
        elif named is not None and isinstance(value, Mapping):
            for each, table in value.items():
                yield from _table_items(layer, table, named, f"{key}.{each}", root)
        else:
            yield key, _anchored(value, field, layer.folder)


def _table_items(
    layer: Layer, value: object, section: type[BaseModel], key: str, root: type[Config]
) -> Iterator[tuple[str, Any]]:
    if not isinstance(value, Mapping):
        raise ConfigError(
            f"{messages.where(layer.origin)}: {key} = {messages.shown(value)}: must be a table of "
            f"settings ({', '.join(section.model_fields)})"
        )
    yield from _flat_items(layer, value, section, f"{key}.", root)


def _anchored(value: object, field: FieldInfo, folder: Path | None) -> object:
    if folder is None or not isinstance(value, str) or not value:
        return value
    if SOURCE in field.metadata and value.startswith(redaction.ENV):
        return value
    if SOURCE in field.metadata and (name := source_name.parse(value)).is_local:
        return name._replace(location=_below(folder, name.location)).text
    is_path = PATH in field.metadata or (LOCATION in field.metadata and not storage.is_uri(value))
    return _below(folder, value) if is_path else value


def _below(folder: Path, path: str) -> str:
    return path if path.startswith("~") else str(folder / path)


def _unknown(key: str, value: object, section: type[BaseModel], root: type[Config]) -> str:
    table = key.rpartition(".")[0]
    settings = [*settings_of(root), *(f"{table}.{name}" for name in section.model_fields if table)]
    tables = {key.rpartition(".")[0] for key in settings} - {""}
    hint = messages.hint(key, tables if isinstance(value, Mapping) else settings)
    return f"unknown key {key!r}" + (hint or f"; there are {', '.join(section.model_fields)}")
