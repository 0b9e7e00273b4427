"""Compile the DAG for Kubeflow: the first task plans the run, and all tasks run nodes.

The nodes and their order come from `pipeline.dag.create_pipeline`, as in a local run. Their
settings are decided when the pipeline runs: the task `plan` calls the same function in the image
with the run's parameters, so code, presets and parameters belong to the run. If nodes share pods
(`kubeflow.grouping`), this task also runs the first nodes.
"""

from __future__ import annotations

import dataclasses
import inspect
import json
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from kfp import compiler, dsl

from kubeflow import dag, entrypoint, node_pools, parameters
from kubeflow import groups as grouping
from kubeflow.groups import PLAN, Group, Node
from kubeflow.parameters import PIPELINE_ROOT, Parameter
from kubeflow.results import REPORT, RETRAIN, metrics_of
from pipeline import beam_runner
from pipeline.config import Loaded
from pipeline.errors import ConfigError
from pipeline.settings import Config
from pipeline.settings.cluster import KubeflowConfig

_RECORD, _DECISION, _RUN_ID = "record", "decision", "run_id"
# Kubeflow resolves this only as the whole value of a task's input, not in the arguments of a
# container.
_RUN = {_RUN_ID: dsl.PIPELINE_JOB_ID_PLACEHOLDER}
_REPORTED = {"ModelEvaluation", "PushedModel"}


class Compiled(NamedTuple):
    """A pipeline as YAML with two documents: its specification, and settings of its pods."""

    text: str
    pods: list[Group]
    parameters: list[Parameter]


def compile_pipeline(loaded: Loaded, *, decides: bool = False) -> Compiled:
    """Compile the DAG with the settings in `loaded`. Raises ConfigError.

    With `decides`, the first task applies the policy of `[retrain]`, and no other pod starts if
    there is nothing to do.
    """
    config, kubeflow = loaded.config, loaded.config.kubeflow
    if kubeflow.pipeline_root is None:
        raise ConfigError(
            "kubeflow.pipeline_root is not set: name a URI or a mounted folder that all pods can "
            "write to, such as s3://bucket/perennial"
        )
    beam_runner.check_pods(config.beam)
    parameters.check_root(kubeflow.pipeline_root)
    beam_runner.check_root(config.beam, kubeflow.pipeline_root)
    given = parameters.compiled(loaded)
    nodes = _find_nodes(config, kubeflow.pipeline_root)
    node_pools.check_nodes(kubeflow, [node.id for node in nodes])
    pods = grouping.group(nodes, kubeflow)
    env = {**config.storage.environment(), **kubeflow.env}
    kubeflow = kubeflow.model_copy(update={"env": env})
    own = parameters.of(config)
    made = _Pipeline(config.name, kubeflow, given, own, nodes, pods, decides)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "pipeline.yaml"
        compiler.Compiler().compile(made.function(), str(path))
        return Compiled(path.read_text(encoding="utf-8"), pods, own)


def _find_nodes(config: Config, pipeline_root: str) -> list[Node]:
    """Return the nodes of the DAG in an order that respects their dependencies."""
    return [
        Node(
            id=node.pipeline_node.node_info.id,
            upstream=tuple(node.pipeline_node.upstream_nodes),
            reports=any(
                output.artifact_spec.type.name in _REPORTED
                for output in node.pipeline_node.outputs.outputs.values()
            ),
        )
        for node in dag.make(config, pipeline_root).nodes
    ]


@dataclasses.dataclass(frozen=True)
class _Pipeline:
    """A pipeline to compile.

    Attributes:
      given: settings that are fixed in the file.
      own: settings that are parameters.
      nodes: all nodes of the DAG.
      pods: the pods that run them.
      decides: whether the first pod decides on a retraining.
    """

    name: str
    kubeflow: KubeflowConfig
    given: dict[str, Any]
    own: Sequence[Parameter]
    nodes: Sequence[Node]
    pods: Sequence[Group]
    decides: bool

    def function(self) -> Any:
        """Build the pipeline function for kfp's compiler."""
        described = [
            *((parameter.name, parameter.type, parameter.default) for parameter in self.own),
            (PIPELINE_ROOT, str, self.kubeflow.pipeline_root),
        ]
        texts = {each.name: f"{each.key}: {each.description}" for each in self.own}
        texts[PIPELINE_ROOT] = "kubeflow.pipeline_root: what nodes write goes below it."
        function = _function(self.name, self._wire, described)
        lines = "".join(f"    {key}: {' '.join(text.split())}\n" for key, text in texts.items())
        function.__doc__ = f"Retrains an image classifier.\n\nArgs:\n{lines}"
        # Argo's deadline includes pending pods. A pod's `timeout` begins when it has a machine.
        limits = dsl.PipelineConfig(active_deadline_seconds=self.kubeflow.run_timeout)
        return dsl.pipeline(name=self.name, pipeline_config=limits)(function)

    def _wire(self, **channels: Any) -> None:
        first, *others = self.pods
        plan = self._component(first)(**channels, **_RUN)
        self._set_up(plan, first)
        if self.decides:
            with dsl.If(plan.outputs[_DECISION] == RETRAIN, name=RETRAIN):
                self._wire_others(plan, others)
        else:
            self._wire_others(plan, others)

    def _wire_others(self, plan: dsl.PipelineTask, pods: Sequence[Group]) -> None:
        tasks: list[tuple[Group, dsl.PipelineTask]] = []
        for pod in pods:
            wanted = (PLAN, _RECORD) if pod.reports else (PLAN,)
            inputs = {name: plan.outputs[name] for name in wanted}
            task = self._component(pod)(**inputs, **_RUN)
            task.after(*(earlier for other, earlier in tasks if pod.needs(other)))
            self._set_up(task, pod)
            tasks.append((pod, task))

    def _set_up(self, task: dsl.PipelineTask, pod: Group) -> None:
        # Kubeflow's cache ignores data and code, which TFX's cache considers.
        task.set_caching_options(False)
        task.set_display_name(pod.title)
        node_pools.apply(task, self.kubeflow, self.kubeflow.pools[pod.pool])

    def _component(self, pod: Group) -> Any:
        image = node_pools.image_of(self.kubeflow, self.kubeflow.pools[pod.pool])

        def container(**values: Any) -> dsl.ContainerSpec:
            args = self._plan_args(values) if pod.plans else ["nodes", "--plan", values[PLAN]]
            args += ["--run-id", values[_RUN_ID]]
            if pod.ids:
                # Kubeflow's message with the paths of outputs.
                args += ["--run", ",".join(pod.ids), "--executor-input", "{{$}}"]
            if pod.reports:
                args += ["--report", values[REPORT].path]
                if not pod.plans:
                    args += ["--record", values[_RECORD]]
            return dsl.ContainerSpec(image=image, command=entrypoint.COMMAND, args=args)

        return dsl.container_component(_function(pod.task, container, self._interface(pod)))

    def _interface(self, pod: Group) -> list[tuple[str, Any]]:
        interface: list[tuple[str, Any]] = [(_RUN_ID, str)]
        if pod.plans:
            interface += [(parameter.name, parameter.type) for parameter in self.own]
            interface += [(PIPELINE_ROOT, str)]
            interface += [(name, dsl.OutputPath(str)) for name in self._planned]
        else:
            interface += [(PLAN, str), *([(_RECORD, str)] if pod.reports else [])]
        interface += [(metrics_of(each), dsl.Output[dsl.Metrics]) for each in pod.ids]
        return [*interface, *([(REPORT, dsl.Output[dsl.HTML])] if pod.reports else [])]

    @property
    def _planned(self) -> tuple[str, ...]:
        return (PLAN, _RECORD, _DECISION) if self.decides else (PLAN, _RECORD)

    def _plan_args(self, values: dict[str, Any]) -> list[Any]:
        args: list[Any] = ["plan", "--given", json.dumps(self.given), "--nodes"]
        args += [",".join(node.id for node in self.nodes)]
        for parameter in self.own:
            args += ["--parameter", parameter.name, values[parameter.name]]
        args += ["--pipeline-root", values[PIPELINE_ROOT]]
        args += ["--output", values[PLAN], "--record", values[_RECORD]]
        return [*args, *(["--decision", values[_DECISION]] if self.decides else [])]


def _function(name: str, function: Any, interface: Sequence[tuple[Any, ...]]) -> Any:
    """Give a function a name and a signature of (name, type[, default]) for kfp."""

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
