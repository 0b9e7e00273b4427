"""Parameters of a compiled pipeline: settings that can change from run to run."""

from __future__ import annotations

import json
import types
import typing
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple

from components import storage
from pipeline import config as configuration
from pipeline.config.checks import patterned
from pipeline.errors import ConfigError
from pipeline.recipe_choice import AUTO
from pipeline.settings import Config
from pipeline.settings.paths import absolute_location

PIPELINE_ROOT = "pipeline_root"
# Parameters of every pipeline. Others have the last part of their key as name.
_NAMED = {"data_root": "data.source", "span": "data.last_span", "recipe": "train.recipe"}

Kind = Literal["str", "int", "float", "bool"]


class Parameter(NamedTuple):
    """A setting as a parameter of a pipeline.

    kind: type of the setting. unset: whether the setting may be unset; then the parameter is a
    string, and "" means unset. default: the compiled value, of the parameter's type.
    """

    name: str
    key: str
    kind: Kind
    unset: bool
    default: str | int | float | bool
    description: str

    @property
    def type(self) -> type:
        """Return the type of the parameter in Kubeflow."""
        if self.unset:
            return str
        return {"str": str, "int": int, "float": float, "bool": bool}[self.kind]

    def value(self, given: object) -> object:
        """Return the setting's value for the argument of a run, which Kubeflow passes as text.

        Text that cannot be parsed is returned unchanged, and the configuration refuses it.
        """
        if not isinstance(given, str):
            return given
        if self.unset and not given:
            return None
        if self.kind == "str":
            return given
        try:
            value = json.loads(given)
        except ValueError:
            return given
        if self.kind == "int" and isinstance(value, float) and value.is_integer():
            return int(value)  # Kubeflow has floating-point numbers only
        return value


def of(config: Config) -> list[Parameter]:
    """List all parameters except the pipeline root. Raises ConfigError for an unsuitable key."""
    named = dict(_NAMED)
    for key in config.kubeflow.parameters:
        name = key.rpartition(".")[2]
        if name in (*named, PIPELINE_ROOT):
            raise ConfigError(
                f"kubeflow.parameters: {key!r} would be called {name}, as is "
                f"{named.get(name, name)!r}; leave one of them out"
            )
        named[name] = key
    return [_parameter(name, key, config) for name, key in named.items()]


def load(
    given: Mapping[str, Any], arguments: Mapping[str, object], *, scheduled: bool = False
) -> configuration.Loaded:
    """Load the configuration of a run.

    Args:
      given: the result of `compiled`.
      arguments: values by parameter, possibly as text. A value equal to the compiled one is
        ignored, so the presets of another recipe can apply.
      scheduled: whether presets of a retraining apply.

    Raises ConfigError, which names the parameter.
    """
    compiled = configuration.load_given({"as compiled": given})
    known = {parameter.name: parameter for parameter in of(compiled.config)}
    layers: dict[str, Mapping[str, Any]] = {"as compiled": given}
    for name, text in arguments.items():
        parameter = known.get(name)
        if parameter is None:
            raise ConfigError(f"parameter {name}: no such parameter; there are {', '.join(known)}")
        value = parameter.value(text)
        if value != parameter.value(parameter.default):
            layers[f"parameter {name}"] = {parameter.key: value}
    loaded = configuration.load_given(layers, scheduled=scheduled)
    _refuse_auto(loaded)
    return loaded


def check_root(root: str) -> None:
    """Check that all nodes of a run can write to a pipeline root. Raises ConfigError."""
    try:
        absolute_location(root)
        if not storage.is_uri(root) and not root.startswith("/"):
            raise ValueError("must be an absolute path or a URI: each pod starts in its own folder")
        if found := patterned(root) or storage.unsupported(root):
            raise ValueError(found)
    except ValueError as error:
        value = f"kubeflow.pipeline_root = {root!r}"
        raise ConfigError(f"parameter {PIPELINE_ROOT}: {value}: {error}") from None


def compiled(loaded: configuration.Loaded) -> dict[str, Any]:
    """Return the settings to compile into a pipeline, by dotted key. Presets are in the image.

    Raises ConfigError for `--recipe auto`, which depends on this machine.
    """
    _refuse_auto(loaded)
    return {
        key: value
        for key, value in configuration.given_settings(loaded).items()
        if key == "kubeflow.parameters" or not key.startswith(("kubeflow.", "workspace"))
    }


def _refuse_auto(loaded: configuration.Loaded) -> None:
    if loaded.origins["train.recipe"].startswith(AUTO):
        raise ConfigError(
            f"train.recipe = {AUTO!r}: looks at the data and the GPUs of this machine, which does "
            "not train; name a recipe"
        )


def _parameter(name: str, key: str, config: Config) -> Parameter:
    try:
        field, value = configuration.setting(config, key)
    except KeyError:
        raise ConfigError(f"kubeflow.parameters: {key!r}: no such setting") from None
    kinds = _kinds(field.annotation)
    unset = type(None) in kinds
    (kind, *others) = kinds - {type(None)}
    if others or kind not in (str, int, float, bool):
        raise ConfigError(
            f"kubeflow.parameters: {key!r}: must be a setting that is a string, a number or a "
            "boolean"
        )
    default = ("" if value is None else _text(value)) if unset else value
    return Parameter(
        name=name,
        key=key,
        kind=kind.__name__,
        unset=unset,
        default=default,
        description=field.description or "",
    )


def _text(value: object) -> str:
    return value if isinstance(value, str) else json.dumps(value)


def _kinds(annotation: Any) -> set[Any]:
    """Return the types of values that an annotation allows; a path counts as a string."""
    origin, arguments = typing.get_origin(annotation), typing.get_args(annotation)
    if origin is Annotated:
        return _kinds(arguments[0])
    if origin is Literal:
        return {type(value) for value in arguments}
    if origin in (typing.Union, types.UnionType):
        return set().union(*map(_kinds, arguments))
    return {str if annotation is Path else annotation}
