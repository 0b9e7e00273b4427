"""A stand-in for a cluster: kfp's own orchestrator, with a process for each pod.

What the orchestrator resolves too generously is resolved as by the backend (kubeflow_backend.py).
Kubernetes' part is played here: pods are tried again as the compiled retry policy says, and can be
killed. The Trainer's leave a checkpoint after every step, so that it need not run for long.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import subprocess
import sys
import tempfile
import uuid
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any
from unittest import mock

import yaml
from kfp import components, local
from kfp.local import (
    executor_input_utils,
    placeholder_utils,
    status,
    subprocess_task_handler,
)
from kfp.local.orchestrator import orchestrator_utils

from tests import REPO
from tests.kubeflow_backend import Run


@dataclasses.dataclass
class Pod:
    """One attempt at a task: its command's arguments, exit code and JSON lines."""

    arguments: dict[str, str]
    code: int | None = None
    events: list[dict[str, Any]] = dataclasses.field(default_factory=list)
    stderr: str = ""

    @property
    def name(self) -> str:
        """The node's id, or "plan"."""
        return self.arguments.get("--node", PLAN)

    @property
    def state(self) -> str | None:
        """Of the node, as it said."""
        return next((each["state"] for each in self.of("node_end")), None)

    def of(self, event: str) -> list[dict[str, Any]]:
        return [each for each in self.events if each["event"] == event]


PLAN, TRAINER = "plan", "Trainer"


def _name(command: list[str]) -> str:
    return command[command.index("--node") + 1] if "--node" in command else PLAN


def _retries(spec: Mapping[str, Any]) -> dict[str, int]:
    """Further attempts by node."""
    found = {}
    for task in spec["root"]["dag"]["tasks"].values():
        label = spec["components"][task["componentRef"]["name"]]["executorLabel"]
        command = spec["deploymentSpec"]["executors"][label]["container"]["args"]
        found[_name(command)] = task.get("retryPolicy", {}).get("maxRetryCount", 0)
    return found


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

    with (
        mock.patch.object(utils, "make_task_arguments", make_task_arguments),
        mock.patch.object(placeholder_utils, "replace_placeholders", replace_placeholders),
        mock.patch.object(executor_input_utils, "construct_local_task_root", task_root),
    ):
        yield


# Called with each event of a pod and its process, and may kill that.
Watcher = Callable[[Pod, Mapping[str, Any], "subprocess.Popen[str]"], None]


class Cluster:
    """Runs compiled pipelines one after the other; `pods` are those of the latest."""

    def __init__(self, folder: Path, env: Mapping[str, str]) -> None:
        self._folder = folder
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
        spec = next(yaml.safe_load_all(file.read_text(encoding="utf-8")))
        retries = _retries(spec)
        cluster = self

        class Handler(subprocess_task_handler.SubprocessTaskHandler):
            def validate_image(self, image: str) -> None:
                pass

            def validate_not_container_component(self, full_command: list[str]) -> None:
                pass

            def validate_not_containerized_python_component(self, full_command: list[str]) -> None:
                pass

            def run(self) -> status.Status:
                for _ in range(1 + retries[_name(self.full_command)]):
                    pod = cluster._start(self.full_command, watch)
                    if pod.code == 0:
                        return status.Status.SUCCESS
                return status.Status.FAILURE

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
            pipeline = components.load_component_from_file(str(file))
            pipeline(**arguments)
        return self.pods[-1].code == 0

    def _start(self, command: list[str], watch: Watcher) -> Pod:
        assert command[:2] == ["python3", "-m"]
        options = [index for index, part in enumerate(command) if part.startswith("--")]
        pod = Pod({command[index]: command[index + 1] for index in options})
        self.pods.append(pod)
        module = "tests.eager_pod" if pod.name == TRAINER else command[2]
        with tempfile.TemporaryFile("w+", encoding="utf-8") as stderr:
            process = subprocess.Popen(
                [sys.executable, "-m", module, *command[3:]],
                cwd=REPO,
                env=self._env,
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
