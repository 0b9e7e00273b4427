"""A stand-in for a cluster: kfp's own orchestrator, with a process for each pod.

What the orchestrator resolves too generously is resolved as by the backend (kubeflow_backend.py).
Kubernetes' part is played here: pods have the compiled variables of the supervisor, are tried again
as the compiled retry policy says, and can be killed as a whole (`kill_pod`) or in part
(`kill_program`). The Trainer's leave a checkpoint after every step, so that it need not run long.

More generous than Kubernetes: a pod that was killed is tried again at once, and all see one disk.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import signal
import subprocess
import sys
import tempfile
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any
from unittest import mock

import psutil
import yaml
from kfp import components, local
from kfp.local import (
    executor_input_utils,
    placeholder_utils,
    status,
    subprocess_task_handler,
)
from kfp.local.orchestrator import enhanced_dag_orchestrator, orchestrator_utils

from kubeflow.supervisor import RETRIES, RETRY_DELAY
from tests import REPO
from tests.kit.kubeflow_backend import Run


@dataclasses.dataclass
class Pod:
    """One attempt at a task: its command's arguments, exit code and JSON lines."""

    arguments: dict[str, str]
    code: int | None = None
    events: list[dict[str, Any]] = dataclasses.field(default_factory=list)
    stderr: str = ""

    @property
    def nodes(self) -> list[str]:
        """The ids of those that it runs; none where it only plans."""
        return _nodes(self.arguments.get("--run", ""))

    @property
    def plans(self) -> bool:
        return "--given" in self.arguments

    @property
    def published(self) -> bool:
        """Whether it succeeded with all output parameters, of which the launcher insists."""
        files = [self.arguments.get(name) for name in ("--output", "--record", "--decision")]
        written = [Path(file).exists() for file in files if file and self.plans]
        return self.code == 0 and all(written)

    def of(self, event: str) -> list[dict[str, Any]]:
        return [each for each in self.events if each["event"] == event]

    def ended(self) -> dict[str, str]:
        """Return the state of each node that has ended in it."""
        return {each["node"]: each["state"] for each in self.of("node_end")}


TRAINER = "Trainer"


def _nodes(text: str) -> list[str]:
    return text.split(",") if text else []


def _retries(spec: Mapping[str, Any]) -> dict[tuple[str, ...], int]:
    """Further attempts by the nodes of a pod."""
    found = {}
    dags = [spec["root"], *(each for each in spec["components"].values() if "dag" in each)]
    for task in (task for each in dags for task in each["dag"]["tasks"].values()):
        component = spec["components"][task["componentRef"]["name"]]
        if "dag" not in component:
            container = spec["deploymentSpec"]["executors"][component["executorLabel"]]["container"]
            limit = task.get("retryPolicy", {}).get("maxRetryCount", 0)
            found[_key(container["args"])] = limit
    return found


def _key(command: Sequence[str]) -> tuple[str, ...]:
    return tuple(_nodes(command[command.index("--run") + 1])) if "--run" in command else ()


@contextlib.contextmanager
def _strict(run: Run) -> Iterator[None]:
    """Within, the orchestrator resolves for `run` what the backend does, and nothing else."""
    utils = orchestrator_utils.OrchestratorUtils
    arguments = utils.make_task_arguments

    def make_task_arguments(task_inputs_spec: Any, io_store: Any) -> dict[str, Any]:
        made = arguments(task_inputs_spec=task_inputs_spec, io_store=io_store)
        for name, source in task_inputs_spec.parameters.items():
            if source.HasField("runtime_value"):
                made[name] = run.constant(made[name], "the task")
        return made

    def replace_placeholders(
        full_command: list[str], executor_input_dict: dict[str, Any], **_: str
    ) -> list[str]:
        return run.command(full_command, executor_input_dict)

    def task_root(pipeline_root: str, pipeline_resource_name: str, task_resource_name: str) -> str:
        salt = str(uuid.uuid4())
        return os.path.join(pipeline_root, "pipeline", run.id, task_resource_name, salt)

    def channel(reference: str, io_store: Any) -> Any:
        # kfp's own finds no output that is not called Output, and takes the condition for false.
        for task, outputs in io_store._task_output_data.items():
            for name, value in outputs.items():
                if reference == f"pipelinechannel--{task}-{name}":
                    return value
        return None

    conditions = enhanced_dag_orchestrator.ConditionEvaluator
    with (
        mock.patch.object(conditions, "_resolve_pipeline_channel", staticmethod(channel)),
        mock.patch.object(utils, "make_task_arguments", make_task_arguments),
        mock.patch.object(placeholder_utils, "replace_placeholders", replace_placeholders),
        mock.patch.object(executor_input_utils, "construct_local_task_root", task_root),
    ):
        yield


def kill_pod(process: subprocess.Popen[str]) -> None:
    """End all processes of a pod at once, as where it is deleted or its machine is lost."""
    first = psutil.Process(process.pid)
    # What the first has started would go on without it, which no container's does.
    for each in (first, *first.children(recursive=True)):
        each.kill()


def kill_program(process: subprocess.Popen[str]) -> None:
    """End the program in a pod, as a crash or the kernel's search for memory does."""
    (program,) = psutil.Process(process.pid).children()
    program.send_signal(signal.SIGKILL)


# Called with each event of a pod and its process, and may kill that.
Watcher = Callable[[Pod, Mapping[str, Any], "subprocess.Popen[str]"], None]


class Cluster:
    """Runs compiled pipelines one after the other; `pods` are those of the latest.

    `metadata` is the environment that names their database.
    """

    def __init__(self, folder: Path, env: Mapping[str, str]) -> None:
        self._folder = folder
        self.metadata = env
        self._env = {**os.environ, **env, "PYTHONPATH": str(REPO)}
        self.pods: list[Pod] = []

    def run(
        self,
        file: Path,
        arguments: Mapping[str, Any],
        watch: Watcher = lambda *_: None,
    ) -> bool:
        """Run the pipeline in `file`; whether it succeeded."""
        self.pods = []
        spec, platform = yaml.safe_load_all(file.read_text(encoding="utf-8"))
        retries = _retries(spec)
        # kfp's orchestrator would try again whatever failed.
        for component in (spec["root"], *spec["components"].values()):
            for task in component.get("dag", {}).get("tasks", {}).values():
                task.pop("retryPolicy", None)
        self._folder.mkdir(parents=True, exist_ok=True)
        loaded = self._folder / file.name
        loaded.write_text(yaml.safe_dump_all([spec, platform]), encoding="utf-8")
        cluster = self

        class Handler(subprocess_task_handler.SubprocessTaskHandler):
            def validate_image(self, image: str) -> None:
                pass

            def validate_not_container_component(self, full_command: list[str]) -> None:
                pass

            def validate_not_containerized_python_component(self, full_command: list[str]) -> None:
                pass

            def run(self) -> status.Status:
                # Of the compiled ones: where its pods find what they need is the stand-in's affair.
                env = {name: self.env_vars[name] for name in (RETRIES, RETRY_DELAY)}
                pod = cluster._start(self.full_command, env, watch)
                for index in range(retries[_key(self.full_command)]):
                    # Argo's OnError, the default that Kubeflow sets: a deleted pod is tried again.
                    if pod.code is not None and pod.code < 0:
                        env["KFP_RETRY_INDEX"] = str(index + 1)
                        pod = cluster._start(self.full_command, env, watch)
                return status.Status.SUCCESS if pod.published else status.Status.FAILURE

        run = Run()
        with (
            mock.patch.object(subprocess_task_handler, "SubprocessTaskHandler", Handler),
            _strict(run),
        ):
            local.init(
                local.SubprocessRunner(use_venv=False),
                pipeline_root=str(self._folder),
                raise_on_error=False,
            )
            pipeline = components.load_component_from_file(str(loaded))
            pipeline(**arguments)
        return self.pods[-1].code == 0

    def _start(self, command: list[str], env: Mapping[str, str], watch: Watcher) -> Pod:
        assert command[:2] == ["python3", "-m"]
        options = [index for index, part in enumerate(command) if part.startswith("--")]
        pod = Pod({command[index]: command[index + 1] for index in options})
        self.pods.append(pod)
        module = "tests.kit.eager_pod" if TRAINER in pod.nodes else command[2]
        with tempfile.TemporaryFile("w+", encoding="utf-8") as stderr:
            process = subprocess.Popen(
                [sys.executable, "-m", module, *command[3:]],
                cwd=REPO,
                env={**self._env, **env},
                stdout=subprocess.PIPE,
                stderr=stderr,
                text=True,
            )
            with process:
                assert process.stdout is not None
                for line in process.stdout:
                    pod.events.append(json.loads(line))
                    watch(pod, pod.events[-1], process)
            pod.code = process.returncode
            stderr.seek(0)
            pod.stderr = stderr.read()
        return pod
