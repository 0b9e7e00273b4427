"""Runs compiled pipelines with real pods and without Kubeflow's backend.

kfp's own orchestrator decides what comes next and tests/kit/kubeflow_backend.py resolves, as
strictly as the backend. Each task is a pod of the product's image, by the restricted standard, with
the compiled command, variables, claims, tolerations and node selectors.

More generous than Kubeflow: no driver and no launcher runs; a pod that was deleted is tried again
at once; outputs come back through the log; ML Metadata is a file on the shared volume.
"""

from __future__ import annotations

import base64
import json
import time
import uuid
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from kubeflow import package
from tests import REPO
from tests.cluster import kit
from tests.kit.kubeflow_cluster import TRAINER, Cluster, Pod, Watcher, _key

# Runs the rest of its arguments, and then prints what they wrote below the first one. Folders of
# outputs are there, as the launcher makes them.
_WRAPPER = """
import base64, json, pathlib, subprocess, sys
root, outputs, *command = sys.argv[1:]
for each in json.loads(outputs):
    pathlib.Path(each).parent.mkdir(parents=True, exist_ok=True)
code = subprocess.call(command)
for path in pathlib.Path(root).rglob("*"):
    if path.is_file():
        content = base64.b64encode(path.read_bytes()).decode()
        print(json.dumps({"event": "file", "path": str(path), "content": content}), flush=True)
sys.exit(code)
"""
_DELETED = -9
METADATA = {
    "PERENNIAL_METADATA_KIND": "sqlite",
    "PERENNIAL_METADATA_PATH": "/mnt/perennial/artifacts/metadata.sqlite",
}


class PodCluster(Cluster):
    """Pods in a namespace that has the claim `perennial`, and the ConfigMap `files`.

    delete: given a pod and an event of its log, whether to delete it there and then.
    """

    def __init__(self, folder: Path, namespace: str) -> None:
        super().__init__(folder, METADATA)
        self._namespace = namespace
        self._package: package.Package
        self.delete: Callable[[Pod, Mapping[str, Any]], bool] = lambda *_: False

    def run(
        self, file: Path, arguments: Mapping[str, Any], watch: Watcher = lambda *_: None
    ) -> bool:
        """Run the pipeline in `file`; whether it succeeded."""
        self._package = package.read(file)
        return super().run(file, arguments, watch)

    def _start(self, command: list[str], env: Mapping[str, str], watch: Watcher) -> Pod:
        options = [index for index, part in enumerate(command) if part.startswith("--")]
        pod = Pod({command[index]: command[index + 1] for index in options})
        self.pods.append(pod)
        name = f"pod-{uuid.uuid4().hex[:8]}"
        kit.apply([self._resource(name, pod, command, env)])
        try:
            self._follow(name, pod)
        finally:
            kit.kubectl("delete", "pod", name, "-n", self._namespace, "--wait=false", check=False)
        return pod

    def _resource(
        self, name: str, pod: Pod, command: list[str], env: Mapping[str, str]
    ) -> kit.Resource:
        (task,) = (
            each
            for each in self._package.executors.values()
            if _key(each["container"]["args"]) == _key(command)
        )
        wishes = task["kubernetes"]
        outputs = [path for path in pod.arguments.values() if path.startswith(str(self._folder))]
        outputs += _outputs(json.loads(pod.arguments.get("--executor-input", "{}")))
        if TRAINER in pod.nodes:  # leaves a checkpoint after every step
            command = ["python3", "-m", "eager_pod", *command[3:]]
        claims = {each["mountPath"]: each["constant"] for each in wishes["pvcMount"]}
        wrapped = ["python3", "-c", _WRAPPER, str(self._folder), json.dumps(outputs), *command]
        template = kit.job(name, self._namespace, wrapped, claims, files="files")
        spec: kit.Resource = template["spec"]["template"]["spec"]
        (container,) = spec["containers"]
        compiled = {
            each["name"]: each.get("value", "") for each in task["container"].get("env", [])
        }
        variables = {"PYTHONPATH": "/files", **compiled, **METADATA, **env}
        container["env"] = [{"name": key, "value": value} for key, value in variables.items()]
        spec["nodeSelector"] = wishes.get("nodeSelector", {}).get("labels", {})
        spec["tolerations"] = wishes.get("tolerations", [])
        return kit.resource("v1", "Pod", name, self._namespace, spec=spec)

    def _follow(self, name: str, pod: Pod) -> None:
        give_up = time.monotonic() + kit.SECONDS
        while True:
            assert time.monotonic() < give_up, f"in vain: the end of {name}"
            found = kit.run_kubectl("get", "pod", name, "-n", self._namespace, "-o", "json")
            if found.returncode:
                pod.code = _DELETED
                return
            status = json.loads(found.stdout)["status"]
            over = status["phase"] in ("Succeeded", "Failed")
            if status["phase"] != "Pending":
                self._read(kit.kubectl("logs", name, "-n", self._namespace, check=False), pod)
            if over:
                (container,) = status["containerStatuses"]
                pod.code = container["state"]["terminated"]["exitCode"]
                return
            if any(self.delete(pod, event) for event in pod.events):
                options = ("--grace-period=0", "--force")
                kit.kubectl("delete", "pod", name, "-n", self._namespace, *options)
            time.sleep(1)

    def _read(self, log: str, pod: Pod) -> None:
        pod.events.clear()
        rest = []
        for line in log.splitlines():
            try:
                event = json.loads(line)
            except ValueError:
                rest.append(line)
                continue
            if event.get("event") == "file":
                path = Path(event["path"])
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes(base64.b64decode(event["content"]))
            elif "event" in event:
                pod.events.append(event)
        pod.stderr = "\n".join(rest)


def _outputs(executor_input: Mapping[str, Any]) -> list[str]:
    """Each path that the driver names."""
    outputs = executor_input.get("outputs", {})
    artifacts = [each["artifacts"][0]["uri"] for each in outputs.get("artifacts", {}).values()]
    parameters = [each["outputFile"] for each in outputs.get("parameters", {}).values()]
    return [*artifacts, *parameters, outputs["outputFile"]] if outputs else []


EAGER = REPO / "tests" / "kit" / "eager_pod.py"
