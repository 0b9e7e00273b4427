"""What tests on a cluster share: kubectl, kustomizations moved elsewhere, Jobs and their end."""

from __future__ import annotations

import copy
import json
import os
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import yaml

from tests import REPO

# Of kubeflow/Dockerfile, and known to the cluster's nodes.
IMAGE = os.environ.get("CLUSTER_IMAGE", "registry.example/perennial:1-cpu")
MODES = ("enforce", "audit", "warn")
SECONDS = 600.0  # for anything to happen at all: machines of tests are slow
IMAGE_USER = 65532
DATA = "/mnt/perennial/data"

CONFIG = """
name = "{name}"

[data]
source = "{data}/first"

[transform]
image_size = 16

[train]
recipe = "vit"
epochs = 1
hyperparameters = {{ patch_size = 4, depth = 1, head_dims = [32] }}

[evaluate]
min_accuracy = 0.0

[infra_validation]
enabled = false

[push]
directory = "/mnt/perennial/serving/{name}"

[kubeflow]
{kubeflow}
image = "{image}"
pipeline_root = "/mnt/perennial/artifacts/{name}"
nodes = {{ Trainer = "training" }}
volumes = [{{ claim = "perennial", path = "/mnt/perennial" }}]

[kubeflow.pools.cpu]
cpu = "250m"
memory = "3Gi"

[kubeflow.pools.training]
cpu = "250m"
memory = "3Gi"
retry_delay = 1
{training}
"""

Resource = dict[str, Any]
Kustomization = Path


def kubectl(*arguments: str, given: str | None = None, check: bool = True) -> str:
    """Call it; returns what it prints. Raises AssertionError with its message where it fails."""
    done = run_kubectl(*arguments, given=given)
    assert not check or done.returncode == 0, f"kubectl {' '.join(arguments)}: {done.stderr}"
    return done.stdout


def run_kubectl(*arguments: str, given: str | None = None) -> subprocess.CompletedProcess[str]:
    """Call it, whatever comes of it."""
    command = ["kubectl", *arguments]
    return subprocess.run(command, input=given, capture_output=True, text=True, timeout=SECONDS)


def get(kind: str, name: str, namespace: str) -> Resource:
    """One object."""
    found: Resource = json.loads(kubectl("get", kind, name, "-n", namespace, "-o", "json"))
    return found


def resource(version: str, kind: str, name: str, namespace: str | None, **content: Any) -> Resource:
    """Return an object; `metadata` in the content is merged."""
    metadata = {"name": name, **content.pop("metadata", {})}
    if namespace:
        metadata["namespace"] = namespace
    return {"apiVersion": version, "kind": kind, "metadata": metadata, **content}


def apply(resources: Iterable[Resource], *options: str) -> str:
    """By the server's side; returns its warnings."""
    given = yaml.safe_dump_all(list(resources))
    done = run_kubectl(
        "apply", "--server-side", "--force-conflicts", "-f", "-", *options, given=given
    )
    assert done.returncode == 0, done.stderr
    return done.stderr


def kustomized(folder: Path, *components: str) -> list[Resource]:
    """Build a folder of kubeflow/ with `kubectl kustomize` and further components."""
    if not components:
        return list(yaml.safe_load_all(kubectl("kustomize", str(folder))))
    # Beside it, since kustomize takes relative paths only.
    beside = folder.with_name(f".{folder.name}-{uuid.uuid4().hex[:6]}")
    beside.mkdir()
    content = {
        "apiVersion": "kustomize.config.k8s.io/v1beta1",
        "kind": "Kustomization",
        "namespace": "perennial-serving",
        "resources": [f"../{folder.name}"],
        "components": [f"../../components/{each}" for each in components],
    }
    try:
        (beside / "kustomization.yaml").write_text(yaml.safe_dump(content))
        return list(yaml.safe_load_all(kubectl("kustomize", str(beside))))
    finally:
        (beside / "kustomization.yaml").unlink(missing_ok=True)
        beside.rmdir()


def moved(resources: Iterable[Resource], namespace: str) -> list[Resource]:
    """Move resources to another namespace, with this project's image and own names of volumes."""
    found = []
    for each in copy.deepcopy(list(resources)):
        if each["kind"] == "Namespace":
            continue
        metadata = each["metadata"]
        if each["kind"] == "PersistentVolume":
            metadata["name"] += f"-{namespace}"
            each["spec"]["claimRef"]["namespace"] = namespace
        else:
            metadata["namespace"] = namespace
        if each["kind"] == "PersistentVolumeClaim" and each["spec"].get("volumeName"):
            each["spec"]["volumeName"] += f"-{namespace}"
        for subject in each.get("subjects", ()):
            subject["namespace"] = namespace
        if pod := pod_of(each):
            for container in pod["containers"]:
                if container["image"] == "perennial":
                    container["image"] = IMAGE
        found.append(each)
    return found


def pod_of(each: Resource) -> Resource | None:
    """Return the pod template of an object."""
    spec = each.get("spec", {})
    template = spec.get("jobTemplate", {}).get("spec", spec).get("template", {})
    found: Resource | None = template.get("spec") if isinstance(template, dict) else None
    return found


def small(pod: Resource, memory: str = "3Gi") -> None:
    """Let a pod fit on a machine for tests, and without a GPU."""
    for container in pod["containers"]:
        container["imagePullPolicy"] = "IfNotPresent"
        container["resources"] = {
            "requests": {"cpu": "100m", "memory": "256Mi"},
            "limits": {"memory": memory},
        }


def job(
    name: str,
    namespace: str,
    command: Sequence[str],
    claims: dict[str, str] | None = None,
    files: str | None = None,
    labels: dict[str, str] | None = None,
) -> Resource:
    """Return a Job with the product's image, by the restricted standard.

    claims: names of claims by where they are mounted. files: a ConfigMap to be mounted at /files.
    """
    volumes: list[Resource] = [{"name": "tmp", "emptyDir": {}}]
    mounts = [{"name": "tmp", "mountPath": "/tmp"}]
    for path, claim in (claims or {}).items():
        volumes.append({"name": claim, "persistentVolumeClaim": {"claimName": claim}})
        mounts.append({"name": claim, "mountPath": path})
    if files:
        volumes.append({"name": "files", "configMap": {"name": files}})
        mounts.append({"name": "files", "mountPath": "/files"})
    pod: Resource = {
        "restartPolicy": "Never",
        "automountServiceAccountToken": False,
        "enableServiceLinks": False,
        "terminationGracePeriodSeconds": 5,
        "securityContext": {
            "runAsNonRoot": True,
            "runAsUser": IMAGE_USER,
            "runAsGroup": IMAGE_USER,
            "fsGroup": IMAGE_USER,
            "seccompProfile": {"type": "RuntimeDefault"},
        },
        "containers": [
            {
                "name": name,
                "image": IMAGE,
                "command": list(command),
                "env": [{"name": "PYTHONPATH", "value": "/files"}],
                "securityContext": {
                    "allowPrivilegeEscalation": False,
                    "readOnlyRootFilesystem": True,
                    "capabilities": {"drop": ["ALL"]},
                },
                "volumeMounts": mounts,
            }
        ],
        "volumes": volumes,
    }
    small(pod)
    template = {"metadata": {"labels": labels or {}}, "spec": pod}
    spec = {"backoffLimit": 0, "template": template}
    return resource("batch/v1", "Job", name, namespace, spec=spec)


def ended(name: str, namespace: str) -> tuple[int, str]:
    """Wait for the end of a Job of one pod; returns its exit code and its log."""
    selector = f"batch.kubernetes.io/job-name={name}"

    def over() -> bool:
        status = get("job", name, namespace).get("status", {})
        kinds = {c["type"] for c in status.get("conditions", ()) if c["status"] == "True"}
        return bool(kinds & {"Complete", "Failed"})

    wait_until(over, f"the end of {name}")
    text = kubectl("get", "pods", "-n", namespace, "-l", selector, "-o", "json")
    pod = json.loads(text)["items"][-1]
    terminated = pod["status"]["containerStatuses"][0]["state"]["terminated"]
    return terminated["exitCode"], kubectl("logs", pod["metadata"]["name"], "-n", namespace)


def wait_until(reached: Callable[[], bool], what: str, seconds: float = SECONDS) -> None:
    """Look every second until it is so."""
    give_up = time.monotonic() + seconds
    while not reached():
        assert time.monotonic() < give_up, f"in vain: {what}"
        time.sleep(1)


def free_volumes(namespace: str) -> None:
    """Let the volumes that a namespace had be claimed again, where nobody else does that."""
    for volume in json.loads(kubectl("get", "pv", "-o", "json"))["items"]:
        name, claim = volume["metadata"]["name"], volume["spec"].get("claimRef") or {}
        if claim.get("namespace") != namespace:
            continue
        if name.endswith(namespace):  # made by a test
            kubectl("delete", "pv", name, "--wait=false")
        elif volume["spec"]["persistentVolumeReclaimPolicy"] == "Retain":
            kubectl("patch", "pv", name, "--type=merge", "-p", '{"spec":{"claimRef":null}}')


def files_of(name: str, namespace: str, *paths: Path) -> Resource:
    """Return a ConfigMap of files of this repository."""
    data = {path.name: path.read_text() for path in paths}
    return resource("v1", "ConfigMap", name, namespace, data=data)


SERVING = REPO / "kubeflow" / "serving"
MANIFESTS = REPO / "kubeflow" / "manifests"


def write_images(namespace: str) -> None:
    """Below DATA on the claim `perennial`: the folders first and second, which differ."""
    write = (
        "from pathlib import Path; import shutil;"
        "from components.image_example_gen.sources import digits;"
        f"first, second = Path('{DATA}/first'), Path('{DATA}/second');"
        "first.exists() or digits.write_folder(first);"
        "second.exists() or shutil.copytree(first, second);"
        "[next(each.glob('*.png')).unlink(missing_ok=True) for each in second.iterdir()]"
    )
    name = f"images-{uuid.uuid4().hex[:6]}"
    claims = {"/mnt/perennial": "perennial"}
    apply([job(name, namespace, ["python3", "-c", write], claims)])
    code, log = ended(name, namespace)
    assert code == 0, log


def perennial(*arguments: object) -> subprocess.CompletedProcess[str]:
    """Run a command as a person would."""
    command = [sys.executable, "-m", "pipeline.cli", *map(str, arguments)]
    return subprocess.run(command, cwd=REPO, capture_output=True, text=True)


def compiled(
    folder: Path, name: str, *options: str, training: str = "", kubeflow: str = ""
) -> Path:
    """Compile a pipeline of a name. training, kubeflow: more settings of these tables."""
    config, package = folder / f"{name}.toml", folder / f"{name}.yaml"
    more = {"training": training, "kubeflow": kubeflow}
    text = CONFIG.format(name=name, data=DATA, image=IMAGE, **more)
    config.write_text(text)
    done = perennial("compile", "--config", config, "--output", package, *options)
    assert done.returncode == 0, done.stderr
    return package
