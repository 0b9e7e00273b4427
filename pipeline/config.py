"""The configuration of a run, built in layers.

Layers, later ones win key by key:

1. the defaults in `pipeline.settings` and those of the recipe's own `Config`;
2. `presets/recipe-<train.recipe>.toml`;
3. `presets/data-<data.source>.toml`, for a built-in data set only, and
   `presets/kubeflow-<kubeflow.environment>.toml`, then `presets/source-<train.preset>.toml`;
4. for a retraining, `presets/retrain.toml`, and `presets/retrain-spans.toml` where the source has
   spans;
5. the TOML file given with --config;
6. the command line: named flags, then `--set KEY=VALUE`.

Where none of them sets `transform.image_size`, a recipe that has a rule for it derives the sizes
from those of the images.

A preset is an ordinary configuration file. A data set's may also hold `[recipe.<name>...]` tables,
which apply with that recipe only. Relative paths in a file are relative to the file's folder, those
from the command line and the defaults to the working directory.
"""

from __future__ import annotations

import contextlib
import difflib
import functools
import json
import os
import re
import reprlib
import tomllib
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple, get_args, get_origin

from pydantic import BaseModel, Field, ValidationError, create_model
from pydantic.fields import FieldInfo

from components import redaction, storage
from components.image_example_gen import source_name
from pipeline.errors import ConfigError, DataError
from pipeline.probe import Survey, survey
from pipeline.recipe_choice import AUTO, choose, count_gpus, weights_at_hand
from pipeline.settings import (
    BUILT_IN_SOURCES,
    LOCATION,
    PATH,
    SOURCE,
    Config,
    DataConfig,
    StorageConfig,
    TrainConfig,
    is_unicode,
)
from trainer_module import recipes

PRESETS = Path(__file__).parent / "presets"
COMMAND_LINE = "command line"
HYPERPARAMETERS = "train.hyperparameters."
# What settings of earlier versions are called now, by their dotted keys. An entry stays for as long
# as files with the old name may be around: for good, it costs nothing.
RENAMED: Mapping[str, str] = {}
_SOURCE = "source-"
PHOTOGRAPHS = Survey(None, height=480.0, width=640.0)
# Whoever gives one node a pool does not mean to take another off its GPU.
_NODES = "kubeflow.nodes"
_WEIGHTS = (".npz", ".h5", ".keras")
_ARCHIVES = (".zip", ".tar", ".gz", ".tgz", ".bz2", ".xz", ".7z", ".rar")

_DEEP_KEY = re.compile(r"""(?<![\w"'-])(?:[\w"'-]++[ \t]*+\.[ \t]*+){100}""")

# The tables of a TOML file, or the settings in them; what tomllib returns.
Tree = Mapping[str, Any]


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
    given = [*_layers(below or {}), *([] if path is None else [_file_layer(path)])]
    given += _layers({COMMAND_LINE: overrides or {}})
    return _load(given, scheduled)


def load_given(layers: Mapping[str, Mapping[str, Any]], *, scheduled: bool = False) -> Loaded:
    """As `load`, of layers by origin, each with its dotted keys and values; later ones win."""
    return _load(_layers(layers), scheduled)


def given_settings(loaded: Loaded) -> dict[str, Any]:
    """What the file and the command line set, as JSON-able values by dotted key.

    `load_given` makes the same configuration of it, unless presets or images have changed. Raises
    ConfigError where a URL with a secret is among them.
    """
    given = {
        key: value
        for key, value in items(loaded.config, loaded.origins)
        if loaded.origins[key].startswith((COMMAND_LINE, "file:"))
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
    """What the command line or else the file give for one setting, whatever else is wrong there.

    Returns the default where neither does. Raises ConfigError where only the file could tell and
    it cannot be read.
    """
    section, _, name = key.rpartition(".")
    model = _section(Config.model_fields[section]) if section else Config
    assert model is not None
    field = model.model_fields[name]
    value, _ = _last(_layers({COMMAND_LINE: overrides}), key, None)
    if value is not None or path is None:
        return field.get_default() if value is None else value
    layer = _file_layer(path)
    return _anchored(_last([layer], key, field.get_default())[0], field, layer.folder)


def keys(recipe: str) -> set[str]:
    """All dotted keys that there are with a recipe, one of `recipes.names()`."""
    return set(_settings(config_class(recipe)))


def setting(config: Config, key: str) -> tuple[FieldInfo, Any]:
    """The declaration and the value of a dotted key. Raises KeyError where there is none."""
    return _settings(type(config))[key], _at(config.model_dump(mode="json"), key)


def _load(given: list[_Layer], scheduled: bool) -> Loaded:
    source, _ = _last(given, "data.source", DataConfig.model_fields["source"].default)
    _reach_storage(given)
    given = [*given, *_chosen(given, source)]
    presets = list(_published(given))
    recipe = _recipe([*presets, *given])
    if presets and recipe != (own := _recipe(presets)):
        raise ConfigError(
            f"train.recipe = {recipe!r}: the preset of train.preset is of the recipe {own!r}; "
            "leave one of them out"
        )

    model = config_class(recipe)
    values: dict[str, Any] = {}
    origins = dict.fromkeys(_settings(model), "default")
    environment, _ = _last(given, "kubeflow.environment", None)
    below = [
        *_preset_layers(recipe, source, environment),
        *presets,
        *(_scheduled(source) if scheduled else ()),
    ]
    for layer in [*below, *given]:
        settings = {key: redaction.hide_all(value) for key, value in _flatten(layer, model).items()}
        if _NODES in settings:
            settings[_NODES] = _joined(values.get(_NODES), settings[_NODES])
        values.update(settings)
        origins.update(dict.fromkeys(settings, layer.origin))
    derived = {} if "transform.image_size" in values else _sizes_by_recipe(recipe, values, source)
    values |= derived
    origins.update(dict.fromkeys(derived, f"recipe:{recipe}"))
    try:
        config = model.model_validate(_merged(values))
    except ValidationError as error:
        unset = [
            key
            for key, field in _settings(model).items()
            if field.is_required() and key not in values
        ]
        raise ConfigError(_describe(error, origins, recipe, unset)) from None
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
            for origin in _origins_of(key, origins)
        ]
        raise ConfigError(f"{_where(*involved)}: {error}") from None
    return Loaded(config, origins)


def _reach_storage(given: list[_Layer]) -> None:
    """Have this process reach object stores as is set: images are looked at to choose a recipe."""
    fields = StorageConfig.model_fields
    values = {name: _last(given, f"storage.{name}", None)[0] for name in fields}
    with contextlib.suppress(ValidationError):  # which the whole configuration is told of, below
        found = StorageConfig.model_validate({k: v for k, v in values.items() if v is not None})
        os.environ.update(found.environment())


@functools.cache
def config_class(recipe: str) -> type[Config]:
    """`Config` with `train.hyperparameters` typed for `recipe`, one of `recipes.names()`."""
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


def parse_set(text: str) -> tuple[str, Any]:
    """Split `KEY=VALUE`; VALUE is read as a TOML value, or is a string if it is not one.

    Raises ConfigError.
    """
    key, equals, value = text.partition("=")
    key, value = key.strip(), value.strip()
    if not (equals and key):
        raise ConfigError(f"--set {text!r}: must be KEY=VALUE, such as train.epochs=5")
    if not is_unicode(text):
        raise ConfigError(f"--set {text!r}: must be UTF-8")
    if _DEEP_KEY.search(key):
        raise ConfigError(f"--set {reprlib.repr(text)}: nested too deeply")
    try:
        parsed = _parse(f"value = {value}")
    except (ValueError, RecursionError):
        return key, value
    # More keys than one: VALUE held line breaks, and was not one TOML value.
    return key, parsed["value"] if len(parsed) == 1 else value


def dump_toml(config: Config, origins: Mapping[str, str]) -> str:
    """The configuration as a TOML file that loads to the same one, each line with its origin.

    A setting that is unset (None) is left out.
    """
    return "\n".join(_dump_section(config, origins, ())) + "\n"


def items(config: Config, origins: Mapping[str, str]) -> Iterator[tuple[str, Any]]:
    """Each setting by its dotted key, as a JSON-able value."""
    tree = config.model_dump(mode="json")
    for key in origins:
        yield key, _at(tree, key)


def check_paths(config: Config) -> None:
    """Check what the configuration points at, before anything is started or created.

    Raises DataError where data.source cannot be read, ConfigError for any other path.
    """
    check_data(config.data)
    if config.data.folder is not None:
        _check_outside("workspace", config.workspace, config.data.folder)
        if not storage.is_uri(config.push_directory):
            _check_outside("push.directory", Path(config.push_directory), config.data.folder)
    if config.data.schema_file is not None:
        _check_readable("data.schema_file", config.data.schema_file)
    for name in ("private_key", "public_key"):
        key = getattr(config.push.signing, name)
        if key is not None:
            _check_readable(f"push.signing.{name}", key)
    key, source = weights_of(config.train.hyperparameters)
    if source.endswith(_WEIGHTS) and not storage.is_uri(source):
        _check_readable(key, Path(source).expanduser())
    if config.push_directory.lower().startswith(("http://", "https://")):
        raise ConfigError(
            f"push.directory: {config.push_directory}: nothing can be written by HTTP; name a "
            "folder, or gs:// or s3://"
        )
    if config.push.directory is not None and not storage.is_uri(config.push.directory):
        _check_writable("push.directory", Path(config.push.directory))


def weights_of(hyperparameters: BaseModel) -> tuple[str, str]:
    """The setting that says where the recipe takes weights from, and its value."""
    key, weights = f"{HYPERPARAMETERS}weights", getattr(hyperparameters, "weights", "")
    return (key, weights) if isinstance(weights, str) else (f"{key}.source", weights.source)


def check_data(data: DataConfig) -> None:
    """Check that a local source is there. Raises DataError, or ConfigError for a variable."""
    if source_name.parse(data.source).kind == source_name.UNSET:
        raise ConfigError(
            f"data.source = {data.source!r}: this environment variable is not set; set it, or name "
            "the data"
        )
    if data.folder is not None:
        _check_readable_data(data.folder, source_name.parse(data.source).kind)


class _Layer(NamedTuple):
    origin: str
    tree: Tree
    folder: Path | None = None  # what relative paths are relative to; None: the working directory


def _file_layer(path: Path) -> _Layer:
    return _Layer(f"file:{path}", _read_toml(path), path.absolute().parent)


def _read_toml(path: Path) -> dict[str, Any]:
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        raise ConfigError(f"{path}: no such configuration file") from None
    except IsADirectoryError:
        raise ConfigError(f"{path}: is a folder, not a configuration file") from None
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        raise ConfigError(f"{path}: cannot read the configuration file: {reason}") from None
    try:
        # Windows editors begin a file with a byte-order mark, which TOML does not allow for.
        return _parse(data.decode("utf-8-sig"))
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise ConfigError(
            f"{path}: not UTF-8: byte {data[error.start]:#04x} (at line {line}); save it as UTF-8"
        ) from None
    except RecursionError:
        raise ConfigError(f"{path}: not TOML: nested too deeply") from None
    except ValueError as error:
        raise ConfigError(f"{path}: not TOML: {error}") from None


def _parse(text: str) -> dict[str, Any]:
    """Parse TOML. Raises ValueError, and RecursionError for what is nested too deeply.

    tomllib keeps each beginning of a dotted key, so that a key of 100,000 parts takes 13 GB.
    """
    if _DEEP_KEY.search(text):
        raise RecursionError
    return tomllib.loads(text)


def _layers(values: Mapping[str, Mapping[str, Any]]) -> list[_Layer]:
    return [
        _Layer(origin, _nested(key, value))
        for origin, settings in values.items()
        for key, value in settings.items()
    ]


def _at(tree: Any, key: str) -> Any:
    return functools.reduce(lambda table, part: table[part], key.split("."), tree)


def _preset_layers(recipe: str, source: object, environment: object) -> Iterator[_Layer]:
    names = [f"recipe-{recipe}", f"kubeflow-{environment}"]
    if source in BUILT_IN_SOURCES:
        names.append(f"data-{source}")
    for name in names:
        path = PRESETS / f"{name}.toml"
        if path.exists():
            tree = _read_toml(path)
            with_recipe = tree.pop("recipe", {}).get(recipe, {})
            yield _Layer(f"preset:{name}", tree)
            yield _Layer(f"preset:{name}", with_recipe)


def published() -> list[str]:
    """The names that `train.preset` may have."""
    return sorted(path.stem.removeprefix(_SOURCE) for path in PRESETS.glob(f"{_SOURCE}*.toml"))


def _published(layers: Iterable[_Layer]) -> Iterator[_Layer]:
    """The preset of a published document, where one is named."""
    name, origin = _last(layers, "train.preset", None)
    if name is None:
        return
    if name not in published():
        hint = _hint(str(name), published()) or f"; there are {', '.join(published())}"
        raise ConfigError(f"{_where(origin)}: train.preset = {_shown(name)}: no such preset{hint}")
    yield _Layer(f"preset:{_SOURCE}{name}", _read_toml(PRESETS / f"{_SOURCE}{name}.toml"))


def _scheduled(source: object) -> Iterator[_Layer]:
    spans = isinstance(source, str) and source_name.parse(source).has_spans
    for name in ("retrain", *(("retrain-spans",) if spans else ())):
        yield _Layer(f"preset:{name}", _read_toml(PRESETS / f"{name}.toml"))


def _sizes_by_recipe(recipe: str, values: Tree, source: object) -> dict[str, int]:
    """The transform settings that the recipe derives from the size of the data set's images."""
    derive = getattr(recipes.get(recipe), "image_sizes", None)
    if derive is None:
        return {}
    own = {key: value for key, value in values.items() if key.startswith(HYPERPARAMETERS)}
    settings = _merged(own).get("train", {}).get("hyperparameters", {})
    try:
        config = recipes.get(recipe).Config(**settings)
        source = DataConfig.model_validate({"source": source}).source
    except ValidationError:
        return {}  # reported with everything else
    # A folder that is not on this machine is taken for one of photographs.
    found = survey(str(source)) or PHOTOGRAPHS
    sizes = derive(config, found.height, found.width)
    return {f"transform.{name}": size for name, size in sizes.items()}


def _chosen(layers: Iterable[_Layer], source: object) -> Iterator[_Layer]:
    """Where the recipe is to be chosen, the layer that names it."""
    if _last(layers, "train.recipe", None)[0] != AUTO:
        return
    try:
        found = survey(DataConfig.model_validate({"source": source}).source)
    except ValidationError:
        found = None  # reported with everything else
    images, side = (found.images, min(found.height, found.width)) if found else (None, None)
    # The commands that must answer at once need no list of machine parts.
    from pipeline import doctor

    named, _ = _last(layers, f"{HYPERPARAMETERS}weights", None)
    recipe, reason = choose(
        images,
        side,
        count_gpus(),
        weights=named is not None or weights_at_hand(),
        memory=doctor.memory_bytes() if named is None else None,
    )
    yield _Layer(f"{AUTO}: {reason}", _nested("train.recipe", recipe))


def _recipe(layers: Iterable[_Layer]) -> str:
    recipe, origin = _last(layers, "train.recipe", TrainConfig.model_fields["recipe"].default)
    known = recipes.names()
    if recipe in known:
        return str(recipe)
    known = [AUTO, *known]
    hint = _hint(str(recipe), known) or f"; there are {', '.join(known)}"
    raise ConfigError(f"{_where(origin)}: train.recipe = {_shown(recipe)}: no such recipe{hint}")


def _last(layers: Iterable[_Layer], key: str, default: object) -> tuple[object, str]:
    """The value of `key` that wins, and its origin."""
    found: tuple[object, str] = (default, "default")
    for layer in layers:
        value: Any = layer.tree
        for part in key.split("."):
            value = value.get(part) if isinstance(value, Mapping) else None
        if value is not None:
            found = (value, layer.origin)
    return found


def _nested(key: str, value: object) -> dict[str, Any]:
    for part in reversed(key.split(".")):
        value = {part: value}
    assert isinstance(value, dict)
    return value


def _joined(before: object, after: object) -> object:
    """Two layers' tables of names and values as one, in which `after` wins."""
    if isinstance(before, Mapping) and isinstance(after, Mapping):
        return {**before, **after}
    return after


def _merged(values: Mapping[str, Any]) -> dict[str, Any]:
    """Undo `_flatten`."""
    tree: dict[str, Any] = {}
    for key, value in values.items():
        *sections, name = key.split(".")
        table = tree
        for section in sections:
            table = table.setdefault(section, {})
        table[name] = value
    return tree


def _section(field: FieldInfo) -> type[BaseModel] | None:
    kind = field.annotation
    return kind if isinstance(kind, type) and issubclass(kind, BaseModel) else None


def _named_section(field: FieldInfo) -> type[BaseModel] | None:
    """The kind of the tables in a table of tables, whose names are free."""
    if get_origin(field.annotation) is not Mapping:
        return None
    _, kind = get_args(field.annotation)
    return kind if isinstance(kind, type) and issubclass(kind, BaseModel) else None


def _settings(model: type[BaseModel], prefix: str = "") -> dict[str, FieldInfo]:
    """All dotted keys that hold a value or tables with names of their own."""
    found: dict[str, FieldInfo] = {}
    for name, field in model.model_fields.items():
        section = _section(field)
        if section is None:
            found[prefix + name] = field
        else:
            found |= _settings(section, f"{prefix}{name}.")
    return found


def _flatten(layer: _Layer, model: type[Config]) -> dict[str, Any]:
    """The layer's settings by dotted key, its paths made absolute. Raises ConfigError."""
    return dict(_flat_items(layer, layer.tree, model, "", model))


def _flat_items(
    layer: _Layer, tree: Tree, model: type[BaseModel], prefix: str, root: type[Config]
) -> Iterator[tuple[str, Any]]:
    for name, value in tree.items():
        key, field = prefix + name, model.model_fields.get(name)
        if field is None:
            raise ConfigError(f"{_where(layer.origin)}: {_unknown(key, value, model, root)}")
        section, named = _section(field), _named_section(field)
        if section is not None:
            yield from _table_items(layer, value, section, key, root)
        elif named is not None and isinstance(value, Mapping):
            for each, table in value.items():
                yield from _table_items(layer, table, named, f"{key}.{each}", root)
        else:
            yield key, _anchored(value, field, layer.folder)


def _table_items(
    layer: _Layer, value: object, section: type[BaseModel], key: str, root: type[Config]
) -> Iterator[tuple[str, Any]]:
    if not isinstance(value, Mapping):
        raise ConfigError(
            f"{_where(layer.origin)}: {key} = {_shown(value)}: must be a table of settings"
            f" ({', '.join(section.model_fields)})"
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
    if key in RENAMED:
        return f"{key!r} is called {RENAMED[key]!r} now; change the name"
    table = key.rpartition(".")[0]
    settings = [*_settings(root), *(f"{table}.{name}" for name in section.model_fields if table)]
    tables = {key.rpartition(".")[0] for key in settings} - {""}
    hint = _hint(key, tables if isinstance(value, Mapping) else settings)
    return f"unknown key {key!r}" + (hint or f"; there are {', '.join(section.model_fields)}")


def _hint(name: str, known: Iterable[str]) -> str:
    """A suggestion of the key whose last part is most like that of `name`; may be empty."""

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


def _describe(
    error: ValidationError, origins: Mapping[str, str], recipe: str, unset: Iterable[str]
) -> str:
    """All of pydantic's findings as one line: origin, key, value and what is allowed."""
    items = error.errors(include_url=False)
    wrong = [item for item in items if item["type"] != "missing"]
    # What is derived from other settings is missing where those are wrong.
    if unset and not wrong:
        return (
            f"train.recipe = {recipe!r}: {', '.join(unset)} not set; put what goes with the recipe "
            f"into {PRESETS / f'recipe-{recipe}.toml'}, or give --set KEY=VALUE"
        )
    findings = []
    for item in wrong or items:
        key = ".".join(map(str, item["loc"]))
        message = item["msg"].removeprefix("Value error, ")
        allowed = _WORDING.get(item["type"]) or re.sub(r"^\w+ should ", "must ", message)
        # A rule over several settings is found at their table, which is not worth showing.
        value = (
            "" if isinstance(item["input"], BaseModel | Mapping) else " = " + _shown(item["input"])
        )
        findings.append(f"{_where(*_origins_of(key, origins))}: {key}{value}: {allowed}")
    return "; ".join(findings)


def _origins_of(key: str, origins: Mapping[str, str]) -> list[str]:
    """Origins of a setting, of the setting that holds an element, or of a table's settings."""
    related = {
        origin: None
        for name, origin in origins.items()
        if f"{key}.".startswith(f"{name}.") or name.startswith(f"{key}.")
    }
    return [origin for origin in related if origin != "default"] or ["default"]


def _where(*origins: str) -> str:
    return ", ".join(dict.fromkeys(origin.removeprefix("file:") for origin in origins))


def _shown(value: object) -> str:
    if isinstance(value, bool):
        return _toml_value(value)
    short = reprlib.Repr()
    short.maxstring = short.maxother = 80
    return short.repr(value)


def _dump_section(
    section: BaseModel, origins: Mapping[str, str], path: tuple[str, ...]
) -> Iterator[str]:
    if path:
        yield f"\n[{'.'.join(path)}]"
    tables = []
    for name, field in type(section).model_fields.items():
        value = getattr(section, name)
        if _section(field) is not None:
            tables.append((value, (*path, name)))
        elif _named_section(field) is not None:
            tables += [(table, (*path, name, each)) for each, table in value.items()]
        elif value is not None:
            # Of a table with a name of its own, what no layer sets has no origin.
            origin = _toml_string(origins.get(".".join((*path, name)), "default"))[1:-1]
            yield f"{name} = {_toml_value(value)}  # {origin}"
    # Last, because in TOML a setting after a table's header belongs to that table.
    for value, table in tables:
        yield from _dump_section(value, origins, table)


def _toml_value(value: object) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int | float):
        return repr(value)
    if isinstance(value, str | Path):
        return _toml_string(str(value))
    if isinstance(value, list | tuple):
        return f"[{', '.join(map(_toml_value, value))}]"
    if isinstance(value, BaseModel):
        return _toml_value(value.model_dump(exclude_none=True))
    if isinstance(value, Mapping):
        items = (f"{_toml_string(str(key))} = {_toml_value(item)}" for key, item in value.items())
        return f"{{{', '.join(items)}}}"
    raise TypeError(f"no TOML for {value!r}")


def _toml_string(text: str) -> str:
    # TOML's basic strings take JSON's escapes; of what JSON leaves alone they forbid DEL only.
    return json.dumps(text, ensure_ascii=False).replace("\x7f", "\\u007f")


def _check_readable_data(folder: Path, kind: str) -> None:
    where = f"data.source = {str(folder)!r}:"
    try:
        os.scandir(folder).close()
    except FileNotFoundError:
        raise DataError(f"{where} there is no such file or folder") from None
    except NotADirectoryError:
        if not kind and not source_name.kind_of_file(str(folder)):
            what = (
                "is an archive; unpack it and"
                if folder.suffix.lower() in _ARCHIVES
                else "is a file;"
            )
            raise DataError(
                f"{where} {what} give a folder of class folders, a manifest or TFRecords"
            ) from None
    except OSError as error:
        raise DataError(f"{where} cannot be read: {error.strerror}") from None


def _check_readable(key: str, path: Path) -> None:
    try:
        path.open("rb").close()
    except OSError as error:
        raise ConfigError(f"{key}: {str(path)!r} cannot be read: {error.strerror}") from None


def _check_outside(key: str, path: Path, data: Path) -> None:
    # Otherwise the next run takes the output for a class of images.
    if path.is_relative_to(data):
        raise ConfigError(f"{key}: {str(path)!r} is in data.source {str(data)!r}; move it out")


def _check_writable(key: str, folder: Path) -> None:
    existing = next(path for path in (folder, *folder.parents) if os.path.lexists(path))
    if not existing.is_dir():
        raise ConfigError(f"{key}: {str(existing)!r} is not a folder")
    if not os.access(existing, os.W_OK | os.X_OK, effective_ids=True):
        raise ConfigError(f"{key}: no permission to write in {str(existing)!r}")
