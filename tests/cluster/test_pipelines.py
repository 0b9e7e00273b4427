"""Retraining where Kubeflow Pipelines answers at KF_PIPELINES_ENDPOINT: what its backend makes of
the compiled pipeline, which kfp's own local orchestrator cannot show.

Runs are in CLUSTER_KFP_NAMESPACE, which is Kubeflow's own unless it is set.
"""

from __future__ import annotations

import json
import os
import re
import time
import uuid
from pathlib import Path
from typing import Any

import pytest

from kubeflow.client import Kubeflow
from kubeflow.commands.connection import Connection
from kubeflow.follow import explain
from kubeflow.workflow import events as parsed
from pipeline.errors import NodeFailed
from tests.cluster import kit

ENDPOINT = os.environ.get("KF_PIPELINES_ENDPOINT", "")
NAMESPACE = os.environ.get("CLUSTER_KFP_NAMESPACE", "kubeflow")
RUN_LABEL = "pipeline/runid"
# Of less than a second on a machine that does nothing else, and of two on one that is busy: enough
# for several checkpoints, which are half a minute apart.
EPOCHS = 300
LONG_ENOUGH_S = 45.0
TRAINED_S = 1800.0

pytestmark = [
    pytest.mark.cluster,
    pytest.mark.skipif(not ENDPOINT, reason="KF_PIPELINES_ENDPOINT names no Kubeflow Pipelines"),
]


@pytest.fixture(scope="module")
def installed() -> str:
    """Create the resources of runs in Kubeflow's namespace, and two different folders of images."""
    secret = {"user": "perennial", "password": uuid.uuid4().hex}
    name = "perennial-metadata"
    if kit.run_kubectl("get", "secret", name, "-n", NAMESPACE).returncode:
        kit.apply([kit.resource("v1", "Secret", name, NAMESPACE, stringData=secret)])
    overlay = "standalone" if NAMESPACE == "kubeflow" else "profile"
    resources = kit.moved(kit.kustomized(kit.MANIFESTS / "overlays" / overlay), NAMESPACE)
    # One with another image is none that a Job can become.
    kit.kubectl("delete", "job", "prepare-volume", "-n", NAMESPACE, "--ignore-not-found")
    # A machine for tests grants no 64 CPUs, and has no need of a bound.
    kit.apply([each for each in resources if each["kind"] != "ResourceQuota"])
    kit.kubectl("rollout", "status", f"statefulset/{name}", "-n", NAMESPACE, "--timeout=500s")
    assert kit.ended("prepare-volume", NAMESPACE)[0] == 0
    kit.write_images(NAMESPACE)
    return NAMESPACE


def submitted(package: Path, *options: str) -> str:
    """Run it to its end; returns the run's id. Prints how long that took, for the record."""
    started = time.monotonic()
    done = kit.perennial("submit", package, "--wait", *options)
    assert done.returncode == 0, done.stdout + done.stderr
    run = run_of(done.stdout)
    print(f"{time.monotonic() - started:.0f} s, {executors(run)} pods besides Kubeflow's own")
    return run


def run_of(output: str) -> str:
    page = next(line for line in output.splitlines() if "/runs/details/" in line)
    return page.rpartition("/")[2].strip()


def events(run: str) -> list[dict[str, Any]]:
    """Return the logs of the pods of a run."""
    return [event for told in events_by_pod(run) for event in told]


def events_by_pod(run: str) -> list[list[dict[str, Any]]]:
    """Each pod's, as Kubeflow gives it out: see kubeflow/client.py. Pods in their order."""
    kubeflow = Kubeflow(Connection(host=ENDPOINT))
    workflow = kubeflow.workflow(run)
    assert workflow is not None
    pods = [pod for pod in workflow.pods if not pod.driver]
    return [kubeflow.log(run, workflow.namespace, pod.name) for pod in pods]


def executors(run: str) -> int:
    """How many pods a run had, without Kubeflow's drivers."""
    workflow = Kubeflow(Connection(host=ENDPOINT)).workflow(run)
    assert workflow is not None
    return sum(not pod.driver for pod in workflow.pods)


def states(run: str) -> dict[str, str]:
    """How each node of a run ended."""
    return {e["node"]: e["state"] for e in events(run) if e["event"] == "node_end"}


@pytest.fixture(scope="module")
def name() -> str:
    return f"test-{uuid.uuid4().hex[:6]}"


def test_the_same_data_is_cached_and_changed_data_is_not(
    installed: str, tmp_path: Path, name: str
) -> None:
    package = kit.compiled(tmp_path, name)
    run = submitted(package)
    assert executors(run) <= 4
    first = states(run)
    assert first["ImageExampleGen"] == first["Trainer"] == first["Pusher"] == "complete"

    same = states(submitted(package))
    assert same.keys() == first.keys()
    assert same["ImageExampleGen"] == same["Trainer"] == "cached"

    changed = states(submitted(package, "--param", f"data_root={kit.DATA}/second"))
    assert changed["ImageExampleGen"] == changed["Trainer"] == "complete"

    # What is not there must not succeed.
    done = kit.perennial("submit", package, "--wait", "--param", "data_root=/nowhere")
    assert done.returncode != 0


def test_a_schedule_decides_for_itself(installed: str, tmp_path: Path, name: str) -> None:
    from kfp import Client

    package = kit.compiled(tmp_path, f"{name}-retrain", "--retrain")
    first = submitted(package)
    assert states(first)["Trainer"] == "complete"
    schedule = f"{name}-nightly"
    done = kit.perennial(
        "schedule", "create", package, "--name", schedule, "--cron", "0 * * * * *"
    )  # every minute
    assert done.returncode == 0, done.stderr
    try:
        client = Client(host=ENDPOINT, namespace=NAMESPACE)
        recurring = {
            each.display_name: each.recurring_run_id
            for each in client.list_recurring_runs(
                page_size=100, namespace=NAMESPACE
            ).recurring_runs
        }
        kit.wait_until(lambda: bool(of_schedule(client, recurring[schedule])), "a run of it")
        run = of_schedule(client, recurring[schedule])[0].run_id
        kit.wait_until(lambda: client.get_run(run).state in ("SUCCEEDED", "FAILED"), "its end")
        assert client.get_run(run).state == "SUCCEEDED"
        told = [e["text"] for e in events(run) if e["event"] == "note"]
        assert any(text.startswith("Nothing ") for text in told), told
        assert "Trainer" not in states(run)
        assert executors(run) == 1
    finally:
        assert kit.perennial("schedule", "delete", schedule).returncode == 0


def of_schedule(client: Any, recurring: str) -> list[Any]:
    listed = client.list_runs(page_size=100, sort_by="created_at desc", namespace=NAMESPACE)
    return [run for run in listed.runs or () if run.recurring_run_id == recurring]


def test_a_killed_trainer_goes_on(installed: str, tmp_path: Path, name: str) -> None:
    package = kit.compiled(tmp_path, name)
    done = kit.perennial("submit", package, "--param", f"epochs={EPOCHS}", "--param", "seed=7")
    assert done.returncode == 0, done.stderr
    run = run_of(done.stdout)

    def trainer() -> str:
        """Return the pod that has written a checkpoint."""
        text = kit.kubectl(
            "get", "pods", "-n", NAMESPACE, "-l", f"{RUN_LABEL}={run}", "-o", "json",
            "--field-selector=status.phase=Running",
        )  # fmt: skip
        for pod in json.loads(text)["items"]:
            pod_name = pod["metadata"]["name"]
            log = kit.kubectl("logs", pod_name, "-n", NAMESPACE, "--all-containers", check=False)
            moments = [e["timestamp"] for e in parsed(log) if e["event"] == "epoch"]
            if moments and moments[-1] - moments[0] > LONG_ENOUGH_S:
                return str(pod_name)
        return ""

    found: list[str] = []
    kubeflow = Kubeflow(Connection(host=ENDPOINT))

    def looked() -> bool:
        assert not kubeflow.look(run).over
        found[:] = filter(None, [trainer()])
        return bool(found)

    kit.wait_until(looked, "a checkpoint")
    kit.kubectl("delete", "pod", found[0], "-n", NAMESPACE, "--grace-period=0", "--force")
    kit.wait_until(lambda: kubeflow.look(run).over, "its end", TRAINED_S)
    assert kubeflow.look(run).state == "SUCCEEDED"
    # Argo makes the next pod under the same name or under another one.
    by_pod = [[e["epoch"] for e in told if e["event"] == "epoch"] for told in events_by_pod(run)]
    epochs = [each for each in by_pod if each][-1]
    assert min(epochs) > 1
    assert max(epochs) == EPOCHS


def test_a_pool_without_machines_blocks_nobody(installed: str, tmp_path: Path, name: str) -> None:
    """Refused at once, or ended by a deadline: not RUNNING for ever."""
    nowhere = 'node_selector = { "perennial/test" = "nowhere" }\ntimeout = 60\nretries = 0'
    package = kit.compiled(tmp_path, f"{name}-nowhere", training=nowhere)
    done = kit.perennial("submit", package, "--wait")
    assert done.returncode not in (0, 1), done.stdout + done.stderr


def test_it_is_told_why_a_run_was_ended(installed: str, tmp_path: Path, name: str) -> None:
    """By a deadline and by a person, which both end it in the state FAILED."""
    late = kit.compiled(tmp_path, f"{name}-late", kubeflow="run_timeout = 20")
    done = kit.perennial("submit", late, "--wait")
    assert done.returncode == NodeFailed.exit_code
    assert re.search(r"\bkubeflow\.run_timeout .*20 s", done.stderr)

    done = kit.perennial("submit", kit.compiled(tmp_path, f"{name}-ended"))
    kubeflow, run = Kubeflow(Connection(host=ENDPOINT)), run_of(done.stdout)
    kit.wait_until(lambda: bool(kubeflow.workflow(run)), "its workflow")
    kubeflow.terminate(run)
    kit.wait_until(lambda: kubeflow.look(run).over, "its end")
    assert "terminated" in explain(kubeflow, kubeflow.look(run), kubeflow.workflow(run))
