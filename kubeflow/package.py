"""Read a compiled pipeline: its name, parameters and pods."""

from __future__ import annotations

import hashlib
import itertools
import json
import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from kubeflow import entrypoint, parameters
from kubeflow.parameters import PIPELINE_ROOT
from pipeline.errors import ConfigError

_COMPILE = "compile it with perennial compile"


class Package(NamedTuple):
    """A file that `perennial compile` wrote.

    parameters: the specification's inputDefinitions by name. given: the compiled settings. version:
    a hash of the content. nodes: ids of the DAG's nodes in order. executors: the `container` and
    `kubernetes` specifications of each task's pods.
    """

    path: Path
    name: str
    parameters: Mapping[str, Mapping[str, Any]]
    given: Mapping[str, Any]
    version: str
    nodes: tuple[str, ...]
    executors: Mapping[str, Mapping[str, Any]]


def read(path: Path) -> Package:
    """Read a file of `perennial compile`. Raises ConfigError for anything else."""
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
        executors = spec["deploymentSpec"]["executors"]
        containers = [executor["container"] for executor in executors.values()]
        declared = spec["root"].get("inputDefinitions", {}).get("parameters", {})
    except (KeyError, IndexError, TypeError, AttributeError):
        raise ConfigError(f"{path}: is not a pipeline of Kubeflow; {_COMPILE}") from None
    for container in containers:
        args = container.get("args", [])
        if container.get("command") == entrypoint.COMMAND and args[:2] == ["plan", "--given"]:
            given = json.loads(args[2])
            version = hashlib.sha256(content).hexdigest()[:12]
            wishes = _kubernetes(documents)
            return Package(
                path=path,
                name=name,
                parameters=declared,
                given=given,
                version=version,
                nodes=_nodes(containers),
                executors={
                    label.removeprefix("exec-"): {
                        "container": executor["container"],
                        "kubernetes": wishes.get(label, {}),
                    }
                    for label, executor in executors.items()
                },
            )
    raise ConfigError(f"{path}: pipeline {name!r} is not one of this project; {_COMPILE}")


def _kubernetes(documents: Sequence[Any]) -> Mapping[str, Any]:
    try:
        found: Mapping[str, Any] = documents[1]["platforms"]["kubernetes"]["deploymentSpec"]
        return found["executors"]
    except (IndexError, KeyError, TypeError):
        return {}


def _nodes(containers: Iterable[Mapping[str, Any]]) -> tuple[str, ...]:
    found: dict[str, None] = {}
    for container in containers:
        for option, value in itertools.pairwise(container.get("args", [])):
            if option == "--nodes":
                found |= dict.fromkeys(value.split(","))
    return tuple(found)


def arguments(package: Package, given: Iterable[str]) -> dict[str, Any]:
    """Parse NAME=VALUE texts into values of the declared types, and check them as a run would.

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
    if PIPELINE_ROOT in values:
        parameters.check_root(values[PIPELINE_ROOT])
    settings = {name: value for name, value in values.items() if name != PIPELINE_ROOT}
    parameters.load(package.given, settings)
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
    raise ConfigError(f"--param {text!r}: parameters of type {kind} cannot be given")
