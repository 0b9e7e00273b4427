"""The compiled pipeline in real pods, without Kubeflow's backend: what is trained, and when not.

What is more generous than Kubeflow is listed in tests/cluster/pods.py. The same with its backend:
test_pipelines.py.
"""

from __future__ import annotations

import time
import uuid
from pathlib import Path

import pytest

from tests.cluster import kit
from tests.cluster.pods import EAGER, PodCluster
from tests.kit.kubeflow_cluster import Pod

pytestmark = pytest.mark.cluster

RUN_AGAIN = "\nretries = 1"


@pytest.fixture(scope="module")
def claimed(namespace: str) -> str:
    """Create a namespace with the claim of runs for the image's user, and two image folders."""
    rendered = kit.kustomized(kit.MANIFESTS / "overlays" / "profile")
    kinds = ("PersistentVolumeClaim", "ServiceAccount", "Job")
    resources = [each for each in kit.moved(rendered, namespace) if each["kind"] in kinds]
    kit.apply([*resources, kit.files_of("files", namespace, EAGER)])
    assert kit.ended("prepare-volume", namespace)[0] == 0
    kit.write_images(namespace)
    return namespace


@pytest.fixture
def pods(claimed: str, tmp_path: Path) -> PodCluster:
    return PodCluster(tmp_path / "kfp", claimed)


def states(pods: PodCluster) -> dict[str, str]:
    """How each node of the latest run ended."""
    return {node: state for pod in pods.pods for node, state in pod.ended().items()}


def warnings(pods: PodCluster) -> set[str]:
    """Return the warnings of the pods of the latest run."""
    logged = [event for pod in pods.pods for event in pod.of("log")]
    return {event["message"] for event in logged if event["level"] != "INFO"}


def told(pods: PodCluster) -> str:
    """Return the details of a failed run."""
    return "\n".join(
        f"{pod.nodes} {pod.code}\n{pod.stderr[-1500:]}\n{pod.events[-3:]}" for pod in pods.pods
    )


def test_the_same_data_is_cached_and_changed_data_is_not(pods: PodCluster, tmp_path: Path) -> None:
    name = f"test-{uuid.uuid4().hex[:6]}"
    package = kit.compiled(tmp_path, name)
    assert pods.run(package, {}), told(pods)
    assert warnings(pods) == set()
    first, ids = states(pods), {pod.arguments["--run-id"] for pod in pods.pods}
    assert len(pods.pods) == 3
    assert first["ImageExampleGen"] == first["Trainer"] == first["Pusher"] == "complete"

    started = time.monotonic()
    assert pods.run(package, {}), told(pods)
    print(f"cached: {time.monotonic() - started:.0f} s in {len(pods.pods)} pods")
    same = states(pods)
    assert same.keys() == first.keys()
    assert same["ImageExampleGen"] == same["Trainer"] == "cached"
    assert ids.isdisjoint(pod.arguments["--run-id"] for pod in pods.pods)

    assert pods.run(package, {"data_root": f"{kit.DATA}/second"}), told(pods)
    changed = states(pods)
    assert changed["ImageExampleGen"] == changed["Trainer"] == "complete"


def test_data_that_is_not_there_fails_the_run(pods: PodCluster, tmp_path: Path) -> None:
    package = kit.compiled(tmp_path, f"test-{uuid.uuid4().hex[:6]}")
    assert not pods.run(package, {"data_root": "/nowhere"})
    (pod,) = pods.pods
    (error,) = {event["message"] for event in pod.of("error")}
    assert "/nowhere" in error
    assert "Trainer" not in states(pods)


def test_a_deleted_trainer_goes_on(pods: PodCluster, tmp_path: Path) -> None:
    package = kit.compiled(tmp_path, f"test-{uuid.uuid4().hex[:6]}", training=RUN_AGAIN)
    pods.delete = lambda pod, event: (
        event["event"] == "epoch" and event["epoch"] == 3 and len(trainers(pods)) == 1
    )
    assert pods.run(package, {"epochs": "6"}), told(pods)
    deleted, last = trainers(pods)
    assert deleted.code is not None
    assert deleted.code < 0
    epochs = [event["epoch"] for event in last.of("epoch")]
    assert min(epochs) > 1
    assert max(epochs) == 6
    assert states(pods)["Trainer"] == "complete"
    assert warnings(pods) == set()


def trainers(pods: PodCluster) -> list[Pod]:
    return [pod for pod in pods.pods if "Trainer" in pod.nodes]
