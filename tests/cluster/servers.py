"""Model servers on a cluster, as the overlays of kubeflow/serving start them.

The servers are the development server with the flags of the manifest, as no image of TensorFlow
Serving is at hand everywhere. It is more generous: it finishes running requests at SIGTERM, it
loads in milliseconds, and it gives up at once on a version that cannot be loaded.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Sequence

from tests import REPO
from tests.cluster import kit
from tests.cluster.kit import Resource

# Flags of TensorFlow Serving for what the development server does not have.
_UNKNOWN = (
    "--allow_version_labels_for_unavailable_models",
    "--monitoring_config_file",
    "--enable_profiler",
)


def resources(namespace: str, overlay: str, *components: str) -> list[Resource]:
    """Return an overlay's resources, with the development server in small pods."""
    found = kit.moved(kit.kustomized(kit.SERVING / "overlays" / overlay, *components), namespace)
    pod = pod_of(found)
    server = pod["containers"][0]
    assert server["command"] == ["tensorflow_model_server"]
    server["image"] = kit.IMAGE
    server["command"] = ["python3", "-m", "components.model_server", "--host=0.0.0.0"]
    server["args"] = [each for each in server["args"] if not each.startswith(_UNKNOWN)]
    kit.small(pod, "2Gi")
    return found


def pod_of(found: Sequence[Resource]) -> Resource:
    """Return the pod that the Deployment of the servers is a template of."""
    (deployment,) = (each for each in found if each["kind"] == "Deployment")
    pod: Resource = deployment["spec"]["template"]["spec"]
    return pod


def files(namespace: str) -> Resource:
    """Return a ConfigMap of the programs that run in pods."""
    here = REPO / "tests"
    return kit.files_of(
        "files",
        namespace,
        here / "cluster" / "push_colours.py",
        here / "cluster" / "ask.py",
        here / "kit" / "tiny_export.py",
    )


def push_colours(namespace: str, found: Sequence[Resource]) -> None:
    """Push three versions to the claim `models`; the third cannot be loaded."""
    claims = [each for each in found if each["kind"] == "PersistentVolumeClaim"]
    push = kit.job(
        "push", namespace, ["python3", "/files/push_colours.py"], {"/models": "models"}, "files"
    )
    kit.apply([*claims, files(namespace), push])
    code, log = kit.ended("push", namespace)
    assert code == 0, log


def start(namespace: str, found: Sequence[Resource]) -> None:
    """Apply all of it, and wait until the two pods of the autoscaler are ready."""
    kit.apply(found)
    kit.kubectl("rollout", "status", "deployment/model-server", "-n", namespace, "--timeout=500s")
    kit.wait_until(lambda: len(ready(namespace)) == 2, "the autoscaler's two pods")


def start_client(namespace: str) -> None:
    """Start a Job that sends requests to the label stable all the time."""
    address = kit.get("service", "model-server", namespace)["spec"]["clusterIP"]
    url = f"http://{address}:8501/v1/models/perennial/labels/stable:predict"
    ask = ["python3", "/files/ask.py", url]
    label = {"perennial/model-client": "true"}
    kit.apply([kit.job("asker", namespace, ask, files="files", labels=label)])
    kit.wait_until(lambda: bool(answers(namespace)), "the first answers")


def ready(namespace: str) -> list[str]:
    """Return the addresses of the Service's ready pods."""
    selector = "kubernetes.io/service-name=model-server"
    text = kit.kubectl("get", "endpointslices", "-n", namespace, "-l", selector, "-o", "json")
    return [
        endpoint["addresses"][0]
        for each in json.loads(text)["items"]
        for endpoint in each.get("endpoints") or ()
        if endpoint["conditions"].get("ready")
    ]


def answers(namespace: str) -> dict[str, int]:
    """Count the client's answers so far, by what they were."""
    log = kit.kubectl("logs", "job/asker", "-n", namespace, "--tail=1", check=False)
    found: dict[str, int] = {}
    with contextlib.suppress(ValueError):
        found = json.loads(log)
    return found
