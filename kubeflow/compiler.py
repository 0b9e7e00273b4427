"""The DAG as a pipeline of Kubeflow: its first task plans the run, each other one runs a node.

The nodes and their order come from `pipeline.dag.create_pipeline`, as in a local run. What each of
them does is decided when the pipeline runs: the task `plan` calls the same function inside of the
image, with the run's parameters, so that code, presets and parameters are those of the run.
"""

from __future__ import annotations

import dataclasses
import inspect
import json
import re
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from kfp import compiler, dsl

from kubeflow import entrypoint, node_pools, parameters
from kubeflow import plan as planning
from kubeflow.parameters import PIPELINE_ROOT, Parameter
from kubeflow.results import METRICS, REPORT, RETRAIN
from pipeline.config import Loaded
from pipeline.errors import ConfigError
from pipeline.settings import DEFAULT_POOL, Config, KubeflowConfig, Pool

_PLAN, _RECORD, _DECISION = "plan", "record", "decision"
_REPORTED = {"ModelEvaluation", "PushedModel"}


@dataclasses.dataclass(frozen=True)
class Node:
    """A node of the DAG. reports: whether there is something to report of the run after it."""

    id: str
    upstream: tuple[str, ...]
    reports: bool

    @property
    def task(self) -> str:
        """Its name as a task, in the letters that Argo allows: image-example-gen."""
        return re.sub(r"(?<=[a-z0-9])(?=[A-Z])|[^A-Za-z0-9]+", "-", self.id).strip("-").lower()


class Compiled(NamedTuple):
    """A pipeline as YAML of two documents: the pipeline itself, and what it wants of Kubernetes."""

    text: str
    nodes: list[Node]


def compile_pipeline(loaded: Loaded, *, decides: bool = False) -> Compiled:
    """Compile the DAG with the settings in `loaded`. Raises ConfigError.

    With `decides`, the first task looks for new data, by the policy of `[retrain]`, and where there
    is nothing to do no other pod is started.
    """
    config, kubeflow = loaded.config, loaded.config.kubeflow
    if kubeflow.pipeline_root is None:
        raise ConfigError(
            "kubeflow.pipeline_root is not set: name a URI or a mounted folder that all pods can "
            "write to, such as gs://bucket/perennial"
        )
    given = parameters.compiled(loaded)
    nodes = _find_nodes(config, kubeflow.pipeline_root)
    node_pools.check_nodes(kubeflow, [node.id for node in nodes])
    pipeline = _pipeline(config.name, kubeflow, given, parameters.of(config), nodes, decides)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "pipeline.yaml"
        compiler.Compiler().compile(pipeline, str(path))
        text = path.read_text(encoding="utf-8")
    return Compiled(node_pools.finish(text, kubeflow), nodes)


def _find_nodes(config: Config, pipeline_root: str) -> list[Node]:
    """The nodes of the DAG, each after those that it needs."""
    return [
        Node(
            id=node.pipeline_node.node_info.id,
            upstream=tuple(node.pipeline_node.upstream_nodes),
            reports=any(
                output.artifact_spec.type.name in _REPORTED
                for output in node.pipeline_node.outputs.outputs.values()
            ),
        )
        for node in planning.make(config, pipeline_root).nodes
    ]


def _pipeline(
    name: str,
    kubeflow: KubeflowConfig,
    given: dict[str, Any],
    own: Sequence[Parameter],
    nodes: Sequence[Node],
    decides: bool,
) -> Any:
    def wire(**channels: Any) -> None:
        pool = kubeflow.pools[DEFAULT_POOL]
        plan = _plan_component(kubeflow, given, own, nodes, decides)(**channels)
        _set_up(plan, kubeflow, pool, _PLAN)
        if decides:
            with dsl.If(plan.outputs[_DECISION] == RETRAIN, name=RETRAIN):
                wire_nodes(plan)
        else:
            wire_nodes(plan)

    def wire_nodes(plan: dsl.PipelineTask) -> None:
        tasks: dict[str, dsl.PipelineTask] = {}
        for node in nodes:
            wanted = (_PLAN, _RECORD) if node.reports else (_PLAN,)
            inputs = {name: plan.outputs[name] for name in wanted}
            task = _node_component(kubeflow, node)(**inputs)
            task.after(*(tasks[upstream] for upstream in node.upstream))
            _set_up(task, kubeflow, node_pools.pool_of(kubeflow, node.id), node.id)
            tasks[node.id] = task

    described = [
        *((parameter.name, parameter.type, parameter.default) for parameter in own),
        (PIPELINE_ROOT, str, kubeflow.pipeline_root),
    ]
    texts = {parameter.name: f"{parameter.key}: {parameter.description}" for parameter in own}
    texts[PIPELINE_ROOT] = "kubeflow.pipeline_root: what nodes write goes below it."
    function = _function(name, wire, described)
    lines = "".join(f"    {key}: {' '.join(text.split())}\n" for key, text in texts.items())
    function.__doc__ = f"Retrains an image classifier.\n\nArgs:\n{lines}"
    return dsl.pipeline(name=name)(function)


def _set_up(task: dsl.PipelineTask, kubeflow: KubeflowConfig, pool: Pool, title: str) -> None:
    # TFX's own cache looks at the data and the code, Kubeflow's does not.
    task.set_caching_options(False)
    task.set_display_name(title)
    node_pools.apply(task, kubeflow, pool)


def _plan_component(
    kubeflow: KubeflowConfig,
    given: dict[str, Any],
    own: Sequence[Parameter],
    nodes: Sequence[Node],
    decides: bool,
) -> Any:
    outputs = (_PLAN, _RECORD, _DECISION) if decides else (_PLAN, _RECORD)
    image = node_pools.image_of(kubeflow, kubeflow.pools[DEFAULT_POOL])

    def container(**values: Any) -> dsl.ContainerSpec:
        args: list[Any] = ["plan", "--given", json.dumps(given), "--nodes"]
        args += [",".join(node.id for node in nodes)]
        for parameter in own:
            args += ["--parameter", parameter.name, values[parameter.name]]
        args += ["--pipeline-root", values[PIPELINE_ROOT]]
        args += ["--run-id", dsl.PIPELINE_JOB_ID_PLACEHOLDER]
        args += ["--output", values[_PLAN], "--record", values[_RECORD]]
        if decides:
            args += ["--decision", values[_DECISION]]
        return dsl.ContainerSpec(image=image, command=entrypoint.COMMAND, args=args)

    inputs: list[tuple[str, Any]] = [(parameter.name, parameter.type) for parameter in own]
    inputs += [(PIPELINE_ROOT, str)]
    inputs += [(name, dsl.OutputPath(str)) for name in outputs]
    return dsl.container_component(_function(_PLAN, container, inputs))


def _node_component(kubeflow: KubeflowConfig, node: Node) -> Any:
    image = node_pools.image_of(kubeflow, node_pools.pool_of(kubeflow, node.id))

    def container(**values: Any) -> dsl.ContainerSpec:
        args: list[Any] = ["node", "--node", node.id, "--plan", values[_PLAN]]
        args += ["--run-id", dsl.PIPELINE_JOB_ID_PLACEHOLDER]
        # All of what Kubeflow wants to have back, in its own words.
        args += ["--executor-input", "{{$}}"]
        if node.reports:
            args += ["--record", values[_RECORD], "--report", values[REPORT].path]
        return dsl.ContainerSpec(image=image, command=entrypoint.COMMAND, args=args)

    interface: list[tuple[str, Any]] = [(_PLAN, str), (METRICS, dsl.Output[dsl.Metrics])]
    if node.reports:
        interface += [(_RECORD, str), (REPORT, dsl.Output[dsl.HTML])]
    return dsl.container_component(_function(node.task, container, interface))


def _function(name: str, function: Any, interface: Sequence[tuple[Any, ...]]) -> Any:
    """A function with a name and a signature of (name, type[, default]), as kfp inspects them."""

    def described(*args: Any, **kwargs: Any) -> Any:
        names = [each[0] for each in interface]
        return function(**dict(zip(names, args, strict=False)), **kwargs)

    described.__name__ = name
    described.__signature__ = inspect.Signature(  # type: ignore[attr-defined]
        [
            inspect.Parameter(
                each[0],
                inspect.Parameter.POSITIONAL_OR_KEYWORD,
                annotation=each[1],
                default=each[2] if len(each) > 2 else inspect.Parameter.empty,
            )
            for each in interface
        ]
    )
    return described
