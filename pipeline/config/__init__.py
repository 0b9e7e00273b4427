"""The configuration of a run, built in the layers that docs/reference/configuration.md lists.

The defaults are in `pipeline.settings` and in the recipe's own `Config`. The presets are, in this
order, `presets/recipe-<train.recipe>.toml`, `data-<data.source>.toml` for a built-in data set,
`kubeflow-<kubeflow.environment>.toml`, `source-<train.preset>.toml`, and for a retraining
`retrain.toml` and, where the source has spans, `retrain-spans.toml`. On the command line, named
flags come before `--set KEY=VALUE`.

Where none of them sets `transform.image_size`, a recipe that has a rule for it derives the sizes
from those of the images.

A preset is an ordinary configuration file. A data set's may also hold `[recipe.<name>...]` tables,
which apply with that recipe only. Relative paths in a file are relative to the file's folder, those
from the command line and the defaults to the working directory.
"""

from __future__ import annotations

import contextlib
import functools
import json
import os
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from pydantic import BaseModel, Field, ValidationError, create_model
from pydantic.fields import FieldInfo

from components import redaction
from pipeline import doctor
from pipeline.config import layers, messages, toml, tree
from pipeline.config.checks import check_data, check_paths, weights_of
from pipeline.config.layers import COMMAND_LINE, published
from pipeline.config.toml import PRESETS, Tree, parse_set
from pipeline.config.tree import HYPERPARAMETERS, Layer
from pipeline.errors import ConfigError
from pipeline.probe import Survey, survey
from pipeline.recipe_choice import AUTO, choose, count_gpus, weights_at_hand
from pipeline.settings import Config, StorageConfig
from pipeline.settings.data import DataConfig
from trainer_module import recipes
from trainer_module.settings import TrainConfig

__all__ = [
    "COMMAND_LINE",
    "HYPERPARAMETERS",
    "PRESETS",
    "Loaded",
    "check_data",
    "check_paths",
    "config_class",
    "dump_toml",
    "given_settings",
    "glance",
    "items",
    "keys",
    "load",
    "load_given",
    "parse_set",
    "published",
    "setting",
    "weights_of",
]

PHOTOGRAPHS = Survey(None, height=480.0, width=640.0)
# A pool for one node must not move another one off its GPU.
_NODES = "kubeflow.nodes"


class Loaded(NamedTuple):
    """A configuration, and for each of its dotted keys the layer that set it.

    An origin is "default", "preset:<name>", "recipe:<name>" (derived from the data),
    "file:<path>", "command line" or, of a recipe that was chosen, "auto: <why>".
    """

    config: Config
    origins: dict[str, str]


def load(
    path: Path | None = None,
    overrides: Mapping[str, Any] | None = None,
    *,
    scheduled: bool = False,
    below: Mapping[str, Mapping[str, Any]] | None = None,
) -> Loaded:
    """Build the configuration from all layers.

    `overrides` are the command line's: dotted keys and values, later ones win. `scheduled` adds
    what a retraining does by default, and `below` layers by origin, both below the file. Raises
    ConfigError.
    """
    given = [*layers.of_values(below or {}), *([] if path is None else [layers.of_file(path)])]
    given += layers.of_values({layers.COMMAND_LINE: overrides or {}})
    return _load(given, scheduled)


def load_given(given: Mapping[str, Mapping[str, Any]], *, scheduled: bool = False) -> Loaded:
    """Build the configuration from layers by origin, of dotted keys and values; later ones win."""
    return _load(layers.of_values(given), scheduled)


def given_settings(loaded: Loaded) -> dict[str, Any]:
    """Return the settings of the file and the command line, as JSON-able values by dotted key.

    `load_given` makes the same configuration of it, unless presets or images have changed. Raises
    ConfigError where a URL with a secret is among them.
    """
    given = {
        key: value
        for key, value in items(loaded.config, loaded.origins)
        if loaded.origins[key].startswith((layers.COMMAND_LINE, "file:"))
    }
    for key, value in given.items():
        if redaction.is_hidden(json.dumps(value)):
            raise ConfigError(
                f"{key}: its URL holds a password or a signature, which a file that others read "
                "must not; put the URL into a Secret that kubeflow.secrets makes an environment "
                f"variable, and set {key} to env:NAME-OF-THE-VARIABLE"
            )
    return given


def glance(path: Path | None, overrides: Mapping[str, Any], key: str) -> Any:
    """Return one setting of the command line or else the file, whatever else is wrong there.

    Returns the default where neither does. Raises ConfigError where only the file could tell and
    it cannot be read.
    """
    section, _, name = key.rpartition(".")
    model = tree.section_of(Config.model_fields[section]) if section else Config
    assert model is not None
    field = model.model_fields[name]
    value, _ = layers.last(layers.of_values({layers.COMMAND_LINE: overrides}), key, None)
    if value is not None or path is None:
        return field.get_default() if value is None else value
    layer = layers.of_file(path)
    return tree._anchored(layers.last([layer], key, field.get_default())[0], field, layer.folder)


def keys(recipe: str) -> set[str]:
    """Return all dotted keys that a recipe, one of `recipes.names()`, can have."""
    return set(tree.settings_of(config_class(recipe)))


def setting(config: Config, key: str) -> tuple[FieldInfo, Any]:
    """Return the declaration and the value of a dotted key. Raises KeyError."""
    return tree.settings_of(type(config))[key], tree.at(config.model_dump(mode="json"), key)


def _load(given: list[Layer], scheduled: bool) -> Loaded:
    source, _ = layers.last(given, "data.source", DataConfig.model_fields["source"].default)
    _reach_storage(given)
    given = [*given, *_chosen(given, source)]
    presets = list(layers.published_of(given))
    recipe = _recipe([*presets, *given])
    if presets and recipe != (own := _recipe(presets)):
        raise ConfigError(
            f"train.recipe = {recipe!r}: the preset of train.preset is of the recipe {own!r}; "
            "leave one of them out"
        )

    model = config_class(recipe)
    values: dict[str, Any] = {}
    origins = dict.fromkeys(tree.settings_of(model), "default")
    environment, _ = layers.last(given, "kubeflow.environment", None)
    below = [
        *layers.presets(recipe, source, environment),
        *presets,
        *(layers.scheduled(source) if scheduled else ()),
    ]
    for layer in [*below, *given]:
        settings = {
            key: redaction.hide_all(value) for key, value in tree.flatten(layer, model).items()
        }
        if _NODES in settings:
            settings[_NODES] = tree.joined(values.get(_NODES), settings[_NODES])
        values.update(settings)
        origins.update(dict.fromkeys(settings, layer.origin))
    derived = {} if "transform.image_size" in values else _sizes_by_recipe(recipe, values, source)
    values |= derived
    origins.update(dict.fromkeys(derived, f"recipe:{recipe}"))
    try:
        config = model.model_validate(tree.merged(values))
    except ValidationError as error:
        unset = [
            key
            for key, field in tree.settings_of(model).items()
            if field.is_required() and key not in values
        ]
        raise ConfigError(messages.describe(error, origins, recipe, unset)) from None
    try:
        recipes.get(recipe).check(
            config.train.hyperparameters,
            config.transform.image_size,
            config.transform.train_size or config.transform.image_size,
        )
    except ValueError as error:
        involved = [
            origin
            for key in ("transform.image_size", "transform.train_size", "train.hyperparameters")
            if key in values or not key.startswith("transform.")
            for origin in messages.origins_of(key, origins)
        ]
        raise ConfigError(f"{messages.where(*involved)}: {error}") from None
    return Loaded(config, origins)


def _reach_storage(given: list[Layer]) -> None:
    """Apply the settings of object stores, because choosing a recipe reads images."""
    fields = StorageConfig.model_fields
    values = {name: layers.last(given, f"storage.{name}", None)[0] for name in fields}
    with contextlib.suppress(ValidationError):  # reported with all settings, below
        found = StorageConfig.model_validate({k: v for k, v in values.items() if v is not None})
        os.environ.update(found.environment())


@functools.cache
def config_class(recipe: str) -> type[Config]:
    """Make a `Config` with the hyperparameters of `recipe`, one of `recipes.names()`."""
    hyperparameters = recipes.get(recipe).Config
    train = create_model(
        "TrainConfig",
        __base__=TrainConfig,
        hyperparameters=(
            hyperparameters,
            Field(
                default_factory=hyperparameters,
                description=TrainConfig.model_fields["hyperparameters"].description,
            ),
        ),
    )
    described = Field(description=Config.model_fields["train"].description)
    return create_model("Config", __base__=Config, train=(train, described))


def dump_toml(config: Config, origins: Mapping[str, str]) -> str:
    """Write the configuration as a TOML file that loads to the same one, each line with its origin.

    A setting that is unset (None) is left out.
    """
    return "\n".join(_dump_section(config, origins, ())) + "\n"


def items(config: Config, origins: Mapping[str, str]) -> Iterator[tuple[str, Any]]:
    """Yield each setting by its dotted key, as a JSON-able value."""
    values = config.model_dump(mode="json")
    for key in origins:
        yield key, tree.at(values, key)


def _sizes_by_recipe(recipe: str, values: Tree, source: object) -> dict[str, int]:
    """Return the sizes that the recipe derives from those of the images, by dotted key."""
    derive = recipes.get(recipe).image_sizes
    if derive is None:
        return {}
    own = {key: value for key, value in values.items() if key.startswith(HYPERPARAMETERS)}
    settings = tree.merged(own).get("train", {}).get("hyperparameters", {})
    try:
        config = recipes.get(recipe).Config(**settings)
        source = DataConfig.model_validate({"source": source}).source
    except ValidationError:
        return {}  # reported with everything else
    # A folder that is not on this machine is taken for one of photographs.
    found = survey(str(source)) or PHOTOGRAPHS
    sizes = derive(config, found.height, found.width)
    return {f"transform.{name}": size for name, size in sizes.items()}


def _chosen(given: Iterable[Layer], source: object) -> Iterator[Layer]:
    """Yield the layer that names the recipe, where it is to be chosen."""
    if layers.last(given, "train.recipe", None)[0] != AUTO:
        return
    try:
        found = survey(DataConfig.model_validate({"source": source}).source)
    except ValidationError:
        found = None  # reported with everything else
    images, side = (found.images, min(found.height, found.width)) if found else (None, None)
    named, _ = layers.last(given, f"{HYPERPARAMETERS}weights", None)
    recipe, reason = choose(
        images,
        side,
        count_gpus(),
        weights=named is not None or weights_at_hand(),
        memory=doctor.memory_bytes() if named is None else None,
    )
    yield Layer(f"{AUTO}: {reason}", tree.nested("train.recipe", recipe))


def _recipe(given: Iterable[Layer]) -> str:
    recipe, origin = layers.last(given, "train.recipe", TrainConfig.model_fields["recipe"].default)
    known = recipes.names()
    if recipe in known:
        return str(recipe)
    known = [AUTO, *known]
    hint = messages.hint(str(recipe), known) or f"; there are {', '.join(known)}"
    raise ConfigError(
        f"{messages.where(origin)}: train.recipe = {messages.shown(recipe)}: no such recipe{hint}"
    )


def _dump_section(
    section: BaseModel, origins: Mapping[str, str], path: tuple[str, ...]
) -> Iterator[str]:
    if path:
        yield f"\n[{'.'.join(path)}]"
    tables = []
    for name, field in type(section).model_fields.items():
        value = getattr(section, name)
        if tree.section_of(field) is not None:
            tables.append((value, (*path, name)))
        elif tree.named_section_of(field) is not None:
            tables += [(table, (*path, name, each)) for each, table in value.items()]
        elif value is not None:
            # Of a table with a name of its own, what no layer sets has no origin.
            origin = toml.string(origins.get(".".join((*path, name)), "default"))[1:-1]
            yield f"{name} = {toml.value_of(value)}  # {origin}"
    # Last, because in TOML a setting after a table's header belongs to that table.
    for value, table in tables:
        yield from _dump_section(value, origins, table)
