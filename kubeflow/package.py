"""A compiled pipeline, read back: what it is called and which parameters it takes."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from pipeline.errors import ConfigError

_COMPILE = "compile it with perennial compile"
_ENTRYPOINT = "kubeflow.entrypoint"


class Package(NamedTuple):
    """parameters: as in the specification's inputDefinitions, by name."""

    path: Path
    name: str
    parameters: Mapping[str, Mapping[str, Any]]
    version: str  # follows from the content


def read(path: Path) -> Package:
    """Read what `perennial compile` wrote. Raises ConfigError for anything else."""
    try:
        content = path.read_bytes()
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read: {error.strerror}; {_COMPILE}") from None
    try:
        documents = list(yaml.load_all(content, Loader=yaml.CSafeLoader))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        where = getattr(error, "problem_mark", None)
        line = f" (at line {where.line + 1})" if where else ""
        raise ConfigError(f"{path}: not YAML{line}; {_COMPILE}") from None
    try:
        spec = documents[0]
        name = spec["pipelineInfo"]["name"]
        executors = spec["deploymentSpec"]["executors"].values()
        commands = [executor["container"]["command"] for executor in executors]
        parameters = spec["root"].get("inputDefinitions", {}).get("parameters", {})
    except (KeyError, IndexError, TypeError, AttributeError):
        raise ConfigError(f"{path}: is no pipeline of Kubeflow; {_COMPILE}") from None
    if not commands or any(_ENTRYPOINT not in command for command in commands):
        raise ConfigError(f"{path}: pipeline {name!r} is not one of this project; {_COMPILE}")
    return Package(path, name, parameters, hashlib.sha256(content).hexdigest()[:12])


def arguments(package: Package, given: Iterable[str]) -> dict[str, Any]:
    """The values of NAME=VALUE texts by name, each of the type that the pipeline declares.

    Raises ConfigError.
    """
    values: dict[str, Any] = {}
    for text in given:
        name, equals, value = text.partition("=")
        if not equals:
            raise ConfigError(f"--param {text!r}: must be NAME=VALUE")
        if name not in package.parameters:
            known = ", ".join(package.parameters) or "none"
            raise ConfigError(f"--param {text!r}: no such parameter; there are {known}")
        values[name] = _value(text, value, package.parameters[name]["parameterType"])
    for name, declared in package.parameters.items():
        if name not in values and "defaultValue" not in declared and not declared.get("isOptional"):
            raise ConfigError(f"parameter {name} has no default: give --param {name}=...")
    return values


def _value(text: str, value: str, kind: str) -> Any:
    match kind:
        case "STRING":
            return value
        case "BOOLEAN":
            if value in ("true", "false"):
                return value == "true"
            raise ConfigError(f"--param {text!r}: must be true or false")
        case "NUMBER_INTEGER":
            try:
                return int(value)
            except ValueError:
                raise ConfigError(f"--param {text!r}: must be a whole number") from None
        case "NUMBER_DOUBLE":
            try:
                number = float(value)
            except ValueError:
                number = math.nan
            if not math.isfinite(number):
                raise ConfigError(f"--param {text!r}: must be a number")
            return number
    try:
        return json.loads(value)
    except ValueError:
        raise ConfigError(f"--param {text!r}: must be JSON, for a {kind.lower()}") from None
