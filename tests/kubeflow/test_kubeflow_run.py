"""The compiled pipeline, executed by kfp's orchestrator with a process for each pod.

What is killed, retried, cached and refused is that of a real run on real images.
"""

from __future__ import annotations

import json
import re
import shutil
import signal
import subprocess
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import ml_metadata
import numpy as np
import pytest
from ml_metadata.proto import metadata_store_pb2

from kubeflow.metadata import connection_config
from kubeflow.results import metrics_of
from tests.kit.cli import UNGATED, process, sets
from tests.kit.kubeflow_cluster import Cluster, Pod, kill_pod, kill_program
from tests.kit.runs import TINY

# Twenty processes that import TensorFlow: minutes on a machine that does something else as well.
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
    "kubeflow.pools.cpu.retries": "1",
    "kubeflow.pools.train.retries": "1",
    "kubeflow.pools.train.retry_delay": "0",
    "kubeflow.nodes": '{Trainer = "train"}',
}
DATA_NODES = {"ImageExampleGen", "StatisticsGen", "SchemaGen", "ExampleValidator", "Transform"}
JUDGEMENT = {"InfraValidator", "Evaluator", "Pusher"}
EPOCHS = 6


class Site(NamedTuple):
    """What the runs share: images, compiled pipelines, a cluster and where the nodes write."""

    data: Path
    folder: Path
    cluster: Cluster
    root: Path

    def compile(self, name: str, *options: str, **changes: str) -> None:
        """Compile a pipeline that `run` finds by its name. changes: further kubeflow settings."""
        settings = {
            **SETTINGS,
            **POOLS,
            **{f"kubeflow.{key}": each for key, each in changes.items()},
        }
        file = str(self.folder / f"{name}.yaml")
        done = process("compile", "--output", file, *options, *sets(settings))
        assert done.returncode == 0, done.stderr

    def run(self, *args: Any, pipeline: str = "stages", **parameters: Any) -> Result:
        given = {"data_root": str(self.data), "pipeline_root": str(self.root), **parameters}
        file = self.folder / f"{pipeline}.yaml"
        return Result(self.cluster.run(file, given, *args), self.cluster.pods)

    @property
    def model(self) -> Path:
        return self.root / "serving" / "perennial"

    def executed(self, run: str) -> list[tuple[str, str]]:
        """Each execution of a run in ML Metadata: node and state."""
        store = ml_metadata.MetadataStore(connection_config(self.cluster.metadata))
        context = store.get_context_by_type_and_name("pipeline_run", run)
        found = store.get_executions_by_context(context.id)
        nodes = {each.id: each.name for each in store.get_contexts_by_type("node")}
        name = metadata_store_pb2.Execution.State.Name
        return [
            (nodes[context.id].rpartition(".")[2], name(each.last_known_state))
            for each in found
            for context in store.get_contexts_by_execution(each.id)
            if context.id in nodes
        ]

    def fingerprint(self, run: str) -> str:
        """Of the data that a run ingested."""
        store = ml_metadata.MetadataStore(connection_config(self.cluster.metadata))
        context = store.get_context_by_type_and_name("pipeline_run", run)
        properties = [
            each.custom_properties
            for each in store.get_artifacts_by_context(context.id)
            if "input_fingerprint" in each.custom_properties
        ]
        (found,) = {each["input_fingerprint"].string_value for each in properties}
        return found


class Result(NamedTuple):
    succeeded: bool
    pods: list[Pod]

    @property
    def id(self) -> str:
        (found,) = {pod.arguments["--run-id"] for pod in self.pods}
        return found

    def pod(self, node: str) -> Pod:
        """Return the last attempt at a node."""
        return [pod for pod in self.pods if node in pod.nodes][-1]

    def states(self, state: str) -> set[str]:
        """Return the nodes that ended in a state."""
        return {node for pod in self.pods for node, ended in pod.ended().items() if ended == state}

    def shown(self, node: str) -> dict[str, Any]:
        """Return the artifacts of a node that its pod wrote for Kubeflow."""
        message = json.loads(self.pod(node).arguments["--executor-input"])
        output = json.loads(Path(message["outputs"]["outputFile"]).read_text())
        return {key: value["artifacts"][0] for key, value in output["artifacts"].items()}

    def metrics(self, node: str) -> dict[str, float]:
        found: dict[str, float] = self.shown(node)[metrics_of(node)]["metadata"]
        return found


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory, few_digits: Callable[..., Path]) -> Site:
    folder = tmp_path_factory.mktemp("kubeflow")
    metadata = str(folder / "metadata.sqlite")
    env = {"PERENNIAL_METADATA_KIND": "sqlite", "PERENNIAL_METADATA_PATH": metadata}
    site = Site(few_digits("014"), folder, Cluster(folder / "kfp", env), folder / "root")
    site.compile("stages")
    return site


@pytest.fixture(scope="module")
def first(site: Site) -> Result:
    """Run the pipeline, and kill its Trainer once, after the second epoch."""
    killed: list[int] = []

    def kill(pod: Pod, event: Mapping[str, Any], process: subprocess.Popen[str]) -> None:
        if event["event"] == "epoch" and event["epoch"] == 2 and not killed:
            killed.append(process.pid)
            kill_pod(process)

    return site.run(kill, epochs=str(EPOCHS))


@pytest.fixture(scope="module")
def local(site: Site, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Run the same settings locally, and return the workspace."""
    workspace = tmp_path_factory.mktemp("local") / "workspace"
    places = ("--data", str(site.data), "--workspace", str(workspace))
    done = process("run", *places, "--epochs", str(EPOCHS), *sets(SETTINGS))
    assert done.returncode == 0, done.stderr
    return workspace


@pytest.fixture(scope="module")
def second(site: Site, first: Result) -> Result:
    """Run again with another seed, and kill the program in the Trainer's pod once."""
    killed: list[int] = []

    def kill(_: Pod, event: Mapping[str, Any], process: subprocess.Popen[str]) -> None:
        if event["event"] == "epoch" and event["epoch"] == 2 and not killed:
            killed.append(process.pid)
            kill_program(process)

    return site.run(kill, epochs=str(EPOCHS), seed=1, max_accuracy_drop=1.0)


def only(root: Path, pattern: str) -> Any:
    (path,) = root.glob(pattern)
    return json.loads(path.read_text())


def figures(history: Mapping[str, Any]) -> list[dict[str, float]]:
    """Return the metrics of a training by epoch, without its speed."""
    return [
        {key: value for key, value in row.items() if key != "images_per_s"}
        for row in history["epochs"]
    ]


def test_every_node_runs_and_the_model_is_pushed(first: Result, site: Site) -> None:
    assert first.succeeded, first.pods[-1].stderr[-2000:]
    assert first.states("complete") == DATA_NODES | {"Trainer"} | JUDGEMENT
    assert first.states("resolved") == {"PreviousStatistics", "Resolver"}
    assert [path.name for path in site.model.iterdir() if path.name.isdigit()] == ["1"]


def test_a_killed_trainer_is_retried_and_continues(first: Result) -> None:
    assert [pod.plans for pod in first.pods] == [True, False, False, False]
    attempts = first.pods[1:3]
    assert [pod.nodes for pod in attempts] == [["Trainer"]] * 2
    assert [pod.code for pod in attempts] == [-signal.SIGKILL, 0]
    before, after = ([event["epoch"] for event in attempt.of("epoch")] for attempt in attempts)
    assert before[:2] == [1, 2]
    assert after == list(range(after[0], EPOCHS + 1))
    assert 1 not in after
    notes = " ".join(event["text"] for event in attempts[1].of("note"))
    assert "Trainer was cut" in notes
    assert re.search(r"after step \d+", notes)


def test_all_output_of_pods_is_json_and_names_the_node(first: Result) -> None:
    for pod in first.pods:
        assert all({"ts", "event"} <= event.keys() for event in pod.events)
        assert [event["node"] for event in pod.of("node_start")] == pod.nodes


def test_parameters_of_the_run_reach_the_plan(first: Result, site: Site) -> None:
    (config,) = first.pods[0].of("config")
    assert config["origins"]["train.epochs"] == "parameter epochs"
    assert config["origins"]["data.source"] == "parameter data_root"
    assert config["origins"]["train.batch_size"] == "as compiled"


def test_kubeflow_is_shown_metrics_and_the_report(first: Result) -> None:
    metrics = first.metrics("Evaluator")
    assert metrics["blessed"] == 1
    assert 0.2 <= metrics["accuracy"] <= 1
    assert "baseline_accuracy" not in metrics
    assert first.metrics("Trainer")["seconds"] > 0
    assert first.metrics("Transform")["seconds"] > 0
    assert first.metrics("Pusher")["pushed"] == 1
    page = Path(first.shown("Pusher")["report"]["uri"]).read_text()
    assert re.search(r"\bpushed as version 1\b", page)


def test_it_reproduces_the_local_run(first: Result, site: Site, local: Path) -> None:
    artifacts = local / "artifacts"
    accounting = "ImageExampleGen/examples/*/accounting.json"
    assert only(site.root, accounting) == only(artifacts, accounting)
    ours, theirs = (
        only(root, "Trainer/model_run/*/history.json") for root in (site.root, artifacts)
    )
    assert figures(ours) == figures(theirs)
    verdict = json.loads(next(local.glob("runs/*/run.json")).read_text())["verdict"]
    assert first.metrics("Evaluator")["accuracy"] == verdict["accuracy"]

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
    assert second.states("complete") == {"Trainer"} | JUDGEMENT
    assert (
        second.metrics("Evaluator")["baseline_accuracy"] == first.metrics("Evaluator")["accuracy"]
    )
    assert (site.model / "2").is_dir()
    assert second.id != first.id
    assert site.fingerprint(second.id) == site.fingerprint(first.id)


def test_a_program_that_is_killed_is_tried_again_in_its_pod_and_continues(second: Result) -> None:
    assert [pod.code for pod in second.pods] == [0, 0, 0]
    trainer = second.pod("Trainer")
    epochs = [event["epoch"] for event in trainer.of("epoch")]
    assert (epochs[:2], epochs[-1]) == ([1, 2], EPOCHS)
    assert epochs.count(1) == 1
    again, *others = [event["text"] for event in trainer.of("note")]
    assert again.startswith(f"signal {signal.SIGKILL.value} ")
    assert "Trainer was cut" in " ".join(others)


def test_a_pod_for_each_node_takes_from_the_cache_what_others_made(
    second: Result, site: Site
) -> None:
    site.compile("nodes", grouping="nodes")
    run = site.run(pipeline="nodes", epochs=str(EPOCHS), seed=1, max_accuracy_drop=1.0)
    assert run.succeeded, run.pods[-1].stderr[-2000:]
    assert [pod.nodes for pod in run.pods[1:]] == [[*pod.ended()] for pod in run.pods[1:]]
    assert {len(pod.nodes) for pod in run.pods[1:]} == {1}
    assert DATA_NODES | {"Trainer"} <= run.states("cached")
    assert run.metrics("Trainer")["cached"] == 1


def test_with_nothing_to_do_there_is_one_pod(second: Result, site: Site) -> None:
    site.compile("retrain", "--retrain")
    run = site.run(pipeline="retrain", epochs="1")
    assert run.succeeded, run.pods[-1].stderr[-2000:]
    (pod,) = run.pods
    assert pod.ended() == {}


def test_new_data_is_retrained_on_also_where_the_pod_of_the_data_is_killed(
    first: Result, second: Result, site: Site, few_digits: Callable[..., Path], tmp_path: Path
) -> None:
    """The second attempt keeps the plan and the decision, and goes on after the last node."""
    data = shutil.copytree(few_digits("014", count=50), tmp_path / "data")
    site.compile("retrain", "--retrain")
    killed: list[int] = []

    def kill(_: Pod, event: Mapping[str, Any], process: subprocess.Popen[str]) -> None:
        if (event["event"], event.get("node")) == ("node_start", "ExampleValidator") and not killed:
            killed.append(process.pid)
            kill_pod(process)
            shutil.rmtree(data / "4")  # another attempt would ingest something else, if it did

    run = site.run(kill, pipeline="retrain", data_root=str(data), epochs="1", max_accuracy_drop=1.0)
    assert run.succeeded, run.pods[-1].stderr[-2000:]
    assert [pod.code for pod in run.pods] == [-signal.SIGKILL, 0, 0, 0]
    assert run.states("cached") == set()
    assert run.id not in (first.id, second.id)
    assert site.fingerprint(run.id) != site.fingerprint(first.id)
    executed = site.executed(run.id)
    done = [node for node, state in executed if state in ("COMPLETE", "CACHED")]
    assert sorted(done) == sorted(
        {*DATA_NODES, *JUDGEMENT, "PreviousStatistics", "WarmStart", "Trainer", "Resolver"}
    )
    notes = [event["text"] for event in run.pods[1].of("note")]
    assert any("plan" in note for note in notes)
    journal = (site.root / "retraining.jsonl").read_text().splitlines()
    last = [json.loads(line)["retrain"] for line in journal if '"decision"' in line]
    assert last[-1:] == [True]
    assert last.count(True) == 1
    assert "seconds" not in run.metrics("ImageExampleGen")
    assert run.metrics("Transform")["seconds"] > 0


def test_data_that_is_not_there_fails_the_run_before_its_first_node(
    site: Site, tmp_path: Path
) -> None:
    run = site.run(data_root=str(tmp_path / "absent"))
    assert not run.succeeded
    (pod,) = run.pods
    assert (pod.of("node_start"), pod.code) == ([], 3)
    (error,) = pod.of("error")
    assert str(tmp_path / "absent") in error["message"]
    assert error["exit_code"] == 3


def test_a_failing_node_fails_the_run(site: Site, tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / "data" / name).mkdir(parents=True)
        (tmp_path / "data" / name / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\n")
    run = site.run(data_root=str(tmp_path / "data"))
    assert not run.succeeded
    (pod,) = run.pods
    assert (pod.ended(), pod.code) == ({"ImageExampleGen": "failed"}, 3)
    (error,) = pod.of("error")
    assert error["exit_code"] == 3


def test_a_parameter_of_the_wrong_type_is_one_clear_line(site: Site) -> None:
    run = site.run(epochs="many")
    (pod,) = run.pods
    assert (pod.plans, pod.code) == (True, 2)
    (event,) = pod.events
    assert event["message"].startswith("parameter epochs: train.epochs = 'many': ")
