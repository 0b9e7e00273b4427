"""The compiled pipeline, executed by kfp's own orchestrator with a process for each pod.

What is killed, retried, cached and refused is that of a real run on real images.
"""

from __future__ import annotations

import json
import signal
import subprocess
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest

from tests.cli import UNGATED, process, sets
from tests.kubeflow_cluster import PLAN, Cluster, Pod
from tests.test_e2e import TINY

# Ten processes that import TensorFlow: minutes on a machine that does something else as well.
pytestmark = pytest.mark.timeout(1800)

SETTINGS = {
    "evaluate.min_accuracy": "0.2",
    **{f"evaluate.{name}": str(value) for name, value in UNGATED.items()},
    "infra_validation.examples": "1",
    "train.batch_size": "16",
    **{key: str(value) for key, value in TINY.items()},
}
POOLS = {
    "data.source": "digits",
    "kubeflow.image": "registry.example/perennial:1.2.0",
    "kubeflow.pipeline_root": "/nowhere",
    "kubeflow.parameters": '["train.epochs", "train.seed", "evaluate.max_accuracy_drop"]',
    "kubeflow.pools.cpu.retries": "0",
    "kubeflow.pools.train.retries": "1",
    "kubeflow.nodes": '{Trainer = "train"}',
}
DATA_NODES = {"ImageExampleGen", "StatisticsGen", "SchemaGen", "ExampleValidator", "Transform"}
EPOCHS = 6


class Site(NamedTuple):
    """What the runs share: images, a compiled pipeline, a cluster and where the nodes write."""

    data: Path
    file: Path
    cluster: Cluster
    root: Path

    def run(self, *args: Any, **parameters: Any) -> Result:
        given = {"data_root": str(self.data), "pipeline_root": str(self.root), **parameters}
        return Result(self.cluster.run(self.file, given, *args), self.cluster.pods)

    @property
    def model(self) -> Path:
        return self.root / "serving" / "perennial"


class Result(NamedTuple):
    succeeded: bool
    pods: list[Pod]

    def pod(self, name: str) -> Pod:
        """The last attempt at a node."""
        return [pod for pod in self.pods if pod.name == name][-1]

    def states(self, state: str) -> set[str]:
        return {pod.name for pod in self.pods if pod.state == state}

    def shown(self, name: str) -> dict[str, Any]:
        """What Kubeflow is told of a node, by artifact."""
        message = json.loads(self.pod(name).arguments["--executor-input"])
        output = json.loads(Path(message["outputs"]["outputFile"]).read_text())
        return {key: value["artifacts"][0] for key, value in output["artifacts"].items()}


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory, few_digits: Callable[..., Path]) -> Site:
    folder = tmp_path_factory.mktemp("kubeflow")
    file = folder / "pipeline.yaml"
    done = process("compile", "--output", str(file), *sets({**SETTINGS, **POOLS}))
    assert done.returncode == 0, done.stderr
    assert "Pool        train (2 CPUs, 8Gi): Trainer" in done.stdout
    metadata = folder / "metadata.sqlite"
    env = {"PERENNIAL_METADATA_KIND": "sqlite", "PERENNIAL_METADATA_PATH": str(metadata)}
    return Site(few_digits("014"), file, Cluster(folder / "kfp", env), folder / "root")


@pytest.fixture(scope="module")
def first(site: Site) -> Result:
    """A run whose Trainer is killed after its second epoch, once."""
    killed: list[int] = []

    def kill(pod: Pod, event: Mapping[str, Any], process: subprocess.Popen[str]) -> None:
        if event["event"] == "epoch" and event["epoch"] == 2 and not killed:
            killed.append(process.pid)
            process.send_signal(signal.SIGKILL)

    return site.run(kill, epochs=str(EPOCHS))


@pytest.fixture(scope="module")
def local(site: Site, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The workspace of a local run with the same settings."""
    workspace = tmp_path_factory.mktemp("local") / "workspace"
    places = ("--data", str(site.data), "--workspace", str(workspace))
    done = process("run", *places, "--epochs", str(EPOCHS), *sets(SETTINGS))
    assert done.returncode == 0, done.stderr
    return workspace


@pytest.fixture(scope="module")
def second(site: Site, first: Result) -> Result:
    """The same again with another seed."""
    return site.run(epochs=str(EPOCHS), seed=1, max_accuracy_drop=1.0)


def only(root: Path, pattern: str) -> Any:
    (path,) = root.glob(pattern)
    return json.loads(path.read_text())


def figures(history: Mapping[str, Any]) -> list[dict[str, float]]:
    """What a training came to by epoch, without how fast it was."""
    return [
        {key: value for key, value in row.items() if key != "images_per_s"}
        for row in history["epochs"]
    ]


def test_every_node_runs_and_the_model_is_pushed(first: Result, site: Site) -> None:
    assert first.succeeded, first.pods[-1].stderr[-2000:]
    assert first.states("complete") == DATA_NODES | {
        "Trainer",
        "Evaluator",
        "InfraValidator",
        "Pusher",
    }
    assert [path.name for path in site.model.iterdir() if path.name.isdigit()] == ["1"]


def test_a_killed_trainer_is_retried_and_continues(first: Result) -> None:
    attempts = [pod for pod in first.pods if pod.name == "Trainer"]
    assert [pod.code for pod in attempts] == [-signal.SIGKILL, 0]
    before, after = ([event["epoch"] for event in attempt.of("epoch")] for attempt in attempts)
    assert before[:2] == [1, 2]
    assert after == list(range(after[0], EPOCHS + 1))
    assert 1 not in after
    notes = " ".join(event["text"] for event in attempts[1].of("note"))
    assert "Trainer was cut off in an earlier attempt" in notes
    assert "training continues after step" in notes


def test_all_output_of_pods_is_json_and_names_the_node(first: Result) -> None:
    for pod in first.pods:
        assert all({"ts", "event"} <= event.keys() for event in pod.events)
        if pod.name != PLAN:
            assert [event["node"] for event in pod.of("node_start")] == [pod.name]


def test_parameters_of_the_run_reach_the_plan(first: Result, site: Site) -> None:
    (config,) = first.pod(PLAN).of("config")
    assert config["origins"]["train.epochs"] == "parameter epochs"
    assert config["origins"]["data.source"] == "parameter data_root"
    assert config["origins"]["train.batch_size"] == "as compiled"


def test_kubeflow_is_shown_metrics_and_the_report(first: Result) -> None:
    metrics = first.shown("Evaluator")["metrics"]["metadata"]
    assert metrics["blessed"] == 1
    assert 0.2 <= metrics["accuracy"] <= 1
    assert "baseline_accuracy" not in metrics
    assert first.shown("Trainer")["metrics"]["metadata"]["seconds"] > 0
    assert first.shown("Pusher")["metrics"]["metadata"]["pushed"] == 1
    page = Path(first.shown("Pusher")["report"]["uri"]).read_text()
    assert "Blessed and pushed as version 1" in page


def test_it_reproduces_the_local_run(first: Result, site: Site, local: Path) -> None:
    artifacts = local / "artifacts"
    accounting = "ImageExampleGen/examples/*/accounting.json"
    assert only(site.root, accounting) == only(artifacts, accounting)
    ours, theirs = (
        only(root, "Trainer/model_run/*/history.json") for root in (site.root, artifacts)
    )
    assert figures(ours) == figures(theirs)
    verdict = json.loads(next(local.glob("runs/*/run.json")).read_text())["verdict"]
    shown = first.shown("Evaluator")["metrics"]["metadata"]
    assert shown["accuracy"] == verdict["accuracy"]

    from trainer_module.export import IMAGES, run_in_session

    images = [file.read_bytes() for file in sorted(site.data.glob("*/*.png"))[::5]]
    ours, theirs = (
        run_in_session(str(model / "1"), IMAGES, images)["probabilities"]
        for model in (site.model, local / "serving" / "perennial")
    )
    np.testing.assert_array_equal(ours, theirs)


def test_the_second_run_takes_the_data_from_the_cache_and_compares_with_the_first_model(
    second: Result, first: Result, site: Site
) -> None:
    assert second.succeeded, second.pods[-1].stderr[-2000:]
    assert second.states("cached") == DATA_NODES
    assert second.states("complete") == {"Trainer", "Evaluator", "InfraValidator", "Pusher"}
    metrics = second.shown("Evaluator")["metrics"]["metadata"]
    before = first.shown("Evaluator")["metrics"]["metadata"]
    assert metrics["baseline_accuracy"] == before["accuracy"]
    assert (site.model / "2").is_dir()


def test_a_failing_node_fails_the_run(second: Result, site: Site, tmp_path: Path) -> None:
    run = site.run(data_root=str(tmp_path / "absent"))
    assert not run.succeeded
    assert [(pod.name, pod.code) for pod in run.pods] == [(PLAN, 0), ("ImageExampleGen", 3)]
    (error,) = run.pods[-1].of("error")
    assert str(tmp_path / "absent") in error["message"]
    assert error["exit_code"] == 3


def test_a_parameter_of_the_wrong_type_is_one_clear_line(site: Site) -> None:
    run = site.run(epochs="many")
    assert [(pod.name, pod.code) for pod in run.pods] == [(PLAN, 2)]
    (event,) = run.pods[0].events
    assert event["message"] == "parameter epochs: train.epochs = 'many': must be a valid integer"
