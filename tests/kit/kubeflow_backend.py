"""What Kubeflow's backend makes of a compiled pipeline, for tests: stricter than `kfp.local`.

Read in kubeflow/pipelines 2.17.0, below backend/src/v2; 2.15.0 and 2.16.1 differ as said. Where
`kfp.local` 2.17 resolves more, so that what it runs need not run on a cluster:

| what | backend | kfp.local |
| --- | --- | --- |
| `{{$.pipeline_job_uuid}}` and its like | where they are all of a task input's constant \
(driver/resolve.go:423-452); in arguments they stay as they are | everywhere, in any text |
| such a text within a value of the user or of another task | stays | resolved |
| `{{$.inputs.parameters['x']}}` of an input that is missing | the driver fails \
(driver/util.go:168-177); before 2.17 it stays | becomes null |
| any placeholder in the first word of the command | stays, but for `{{$}}` \
(component/launcher_v2.go:1061-1073) | resolved |
| `{{$.outputs.output_file}}`, `{{$.pipeline_root}}` | stay | resolved |
| `{"IfPresent": ...}` | resolved by the driver since 2.17 (driver/util.go:207-261) | resolved |
| `{"Concat": ...}` | stays | resolved |
| a condition that names what is no input of its task | the driver fails (driver/dag.go:84-89) | \
false, with a warning |
| an output parameter whose file is missing | the task fails (component/launcher_v2.go:504) | \
left out |
| outputs go below | the run's id, the task and a salt (driver/driver.go:775) | a timestamp |
| a condition on an output that is not called Output | evaluated (driver/dag.go:84-91) | false, \
with a warning |
| failures that are tried again | those that Argo's policy names, of pods | all |

The last but one is less than the backend does. Whatever is left over is an error here. There, it
reaches the program.
"""

from __future__ import annotations

import dataclasses
import decimal
import json
import re
import uuid
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

_INPUT = re.compile(r"{{\$\.inputs\.parameters\['(.+?)']}}")  # driver/util.go:45


class UnresolvedError(Exception):
    """Something that the backend would leave as it is, or would fail on."""


@dataclasses.dataclass(frozen=True)
class Run:
    """What the driver knows of a run. `args`: whether it resolves arguments too, as since 2.17."""

    id: str = dataclasses.field(default_factory=lambda: str(uuid.uuid4()))
    args: bool = True

    def constant(self, value: Any, task: str) -> Any:
        """Return the constant of an input of `task`, as driver/resolve.go:423-452 resolves it."""
        known = {
            "{{$.pipeline_job_name}}": "the display name",
            "{{$.pipeline_job_resource_name}}": f"resource-{self.id[:5]}",
            "{{$.pipeline_job_uuid}}": self.id,
            "{{$.pipeline_task_name}}": task,
            "{{$.pipeline_task_uuid}}": "7",
        }
        resolved = known.get(value, value) if isinstance(value, str) else value
        _check(resolved, f"an input of {task}")
        return resolved

    def command(self, command: Sequence[str], executor_input: Mapping[str, Any]) -> list[str]:
        """Resolve a container's command and arguments as the driver and then the launcher do."""
        if self.args:
            command = [_by_driver(each, executor_input) for each in command]
        first, *rest = command
        everything = json.dumps(executor_input)
        places = dict(_launcher_knows(executor_input))
        resolved = [first.replace("{{$}}", everything)]
        for text in rest:
            text = text.replace("{{$}}", everything)
            for placeholder, value in places.items():
                text = text.replace(placeholder, value)
            resolved.append(text)
        for text in resolved:
            _check(text, "the command")
        return resolved


def commands(
    spec: Mapping[str, Any], arguments: Mapping[str, Any], run: Run
) -> Iterator[tuple[str, list[str]]]:
    """Return what the backend would start for each task of a compiled pipeline, in any order.

    Args:
      spec: the first document of the compiled file.
      arguments: of the run; other parameters have their defaults.
      run: what the backend knows.
    """
    defaults = {
        name: each.get("defaultValue")
        for name, each in spec["root"]["inputDefinitions"]["parameters"].items()
    }
    yield from _dag(spec, spec["root"]["dag"], defaults | dict(arguments), run)


def executor_input(
    component: Mapping[str, Any], values: Mapping[str, Any], folder: str
) -> dict[str, Any]:
    """Return the message of a task with outputs below `folder`; driver/driver.go:741-812."""
    outputs = component.get("outputDefinitions", {})
    return {
        "inputs": {"parameterValues": dict(values)},
        "outputs": {
            "parameters": {
                name: {"outputFile": f"/tmp/kfp/outputs/{name}"}
                for name in outputs.get("parameters", {})
            },
            "artifacts": {
                name: {"artifacts": [{"name": name, "uri": f"{folder}/{name}"}]}
                for name in outputs.get("artifacts", {})
            },
            "outputFile": f"{folder}/output_metadata.json",
        },
    }


def _dag(
    spec: Mapping[str, Any], dag: Mapping[str, Any], given: Mapping[str, Any], run: Run
) -> Iterator[tuple[str, list[str]]]:
    for name, task in dag["tasks"].items():
        component = spec["components"][task["componentRef"]["name"]]
        inputs = task.get("inputs", {}).get("parameters", {})
        values = {key: _value(each, given, name, run) for key, each in inputs.items()}
        condition = task.get("triggerPolicy", {}).get("condition", "")
        for key in re.findall(r"inputs\.parameter_values\['(.+?)'\]", condition):
            if key not in values:
                raise UnresolvedError(f"the condition of {name} needs {key}, which is no input")
        if "dag" in component:
            yield from _dag(spec, component["dag"], values, run)
            continue
        container = spec["deploymentSpec"]["executors"][component["executorLabel"]]["container"]
        folder = f"minio://mlpipeline/v2/artifacts/pipeline/{run.id}/{name}/{uuid.uuid4()}"
        message = executor_input(component, values, folder)
        yield name, run.command([*container["command"], *container["args"]], message)


def _value(source: Mapping[str, Any], given: Mapping[str, Any], task: str, run: Run) -> Any:
    if "runtimeValue" in source:
        return run.constant(source["runtimeValue"]["constant"], task)
    if "componentInputParameter" in source:
        return given[source["componentInputParameter"]]
    output = source["taskOutputParameter"]
    return f"{output['outputParameterKey']} of {output['producerTask']}"


def _by_driver(text: str, message: Mapping[str, Any]) -> str:
    if "$.outputs" in text:
        return text
    values = message["inputs"]["parameterValues"]

    def resolved(match: re.Match[str]) -> str:
        if match[1] not in values:
            raise UnresolvedError(f"{match[0]}: the task has no such input")
        return _text(values[match[1]], general=True)

    return _INPUT.sub(resolved, text)


def _launcher_knows(message: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """Placeholders and what they stand for; component/launcher_v2.go:1077-1173."""
    for name, value in message["inputs"]["parameterValues"].items():
        yield f"{{{{$.inputs.parameters['{name}']}}}}", _text(value, general=False)
    outputs = message["outputs"]
    for name, each in outputs.get("parameters", {}).items():
        yield f"{{{{$.outputs.parameters['{name}'].output_file}}}}", each["outputFile"]
    for name, each in outputs.get("artifacts", {}).items():
        uri = each["artifacts"][0]["uri"]
        yield f"{{{{$.outputs.artifacts['{name}'].uri}}}}", uri
        path = re.sub(r"^(gs|minio|s3)://", lambda match: f"/{match[1]}/", uri)
        yield f"{{{{$.outputs.artifacts['{name}'].path}}}}", path.replace("/gs/", "/gcs/", 1)


def _text(value: Any, *, general: bool) -> str:
    """Format a value. general: by Go's %g, as the driver writes fractions; else by its 'f'."""
    if isinstance(value, str):
        return value
    if isinstance(value, bool) or not isinstance(value, int | float):
        return "" if value is None else json.dumps(value)
    if float(value).is_integer():
        return str(int(value))
    number = decimal.Decimal(repr(value))
    if general and not -5 < number.adjusted() < 6:
        mantissa, _, power = f"{number:e}".partition("e")
        return f"{mantissa}e{int(power):+03d}"
    return f"{number:f}"


def _check(value: Any, where: str) -> None:
    if isinstance(value, str) and (left := re.search(r"{{\$.{,60}", value)):
        raise UnresolvedError(f"{where} still has {left[0]}")
