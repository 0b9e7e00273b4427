"""beam.runner and beam.args reach the Beam pipeline of every node that has one, unchanged."""

from __future__ import annotations

import importlib
import tempfile
from pathlib import Path

import pytest
from apache_beam.options import pipeline_options
from tfx.dsl.compiler import compiler
from tfx.orchestration.local import runner_utils
from tfx.proto.orchestration import executable_spec_pb2

from pipeline import dag, local_runner
from pipeline.config import load
from pipeline.execution import build_pipeline
from pipeline.workspace import Workspace
from tests.kit.runs import DATA_NODES

BEAM_NODES = {"ImageExampleGen", "StatisticsGen", "Transform", "Evaluator"}
IMAGE = "--sdk_container_image=registry/perennial:1"
# Runner, arguments, and where Beam must find one of their values.
RUNNERS = {
    "FlinkRunner": (
        ["--flink_master=flink:8081", "--parallelism=8", "--environment_type=DOCKER", IMAGE],
        (pipeline_options.FlinkRunnerOptions, "flink_master", "flink:8081"),
    ),
    "SparkRunner": (
        ["--spark_master_url=spark://spark:7077", "--environment_type=DOCKER", IMAGE],
        (pipeline_options.SparkRunnerOptions, "spark_master_url", "spark://spark:7077"),
    ),
    "DataflowRunner": (
        [
            "--project=a-project",
            "--region=europe-west1",
            "--temp_location=gs://bucket/tmp",
            IMAGE,
        ],
        (pipeline_options.GoogleCloudOptions, "project", "a-project"),
    ),
}


@pytest.mark.parametrize("runner", RUNNERS)
def test_options_reach_every_beam_node(runner: str, tmp_path: Path) -> None:
    args, (view, option, value) = RUNNERS[runner]
    config = load(None, {"beam.runner": runner, "beam.args": args}).config
    locations = dag.Locations(pipeline_root=str(tmp_path), push_directory=str(tmp_path))
    ir = compiler.Compiler().compile(dag.create_pipeline(config, locations))
    deployment = runner_utils.extract_local_deployment_config(ir)
    specs = {
        node.pipeline_node.node_info.id: runner_utils.extract_executor_spec(
            deployment, node.pipeline_node.node_info.id
        )
        for node in ir.nodes
    }
    beam_specs = {
        name: spec
        for name, spec in specs.items()
        if isinstance(spec, executable_spec_pb2.BeamExecutableSpec)
    }
    assert set(beam_specs) == BEAM_NODES
    for name, spec in beam_specs.items():
        assert list(spec.beam_pipeline_args) == [f"--runner={runner}", *args], name
        module, _, class_name = spec.python_executor_spec.class_path.rpartition(".")
        executor_class = getattr(importlib.import_module(module), class_name)
        context = executor_class.Context(beam_pipeline_args=list(spec.beam_pipeline_args))
        options = pipeline_options.PipelineOptions(executor_class(context)._beam_pipeline_args)
        assert options.view_as(pipeline_options.StandardOptions).runner == runner
        assert getattr(options.view_as(view), option) == value


def test_the_data_nodes_run_on_a_job_service(two_classes: Path, tmp_path: Path) -> None:
    """Flink and Spark are sent the same jobs by the same protocol; Beam carries a small service."""
    config = load(
        None,
        {
            "data.source": str(two_classes),
            "workspace": str(tmp_path / "workspace"),
            "transform.image_size": 12,
            "train.hyperparameters.patch_size": 4,
            "beam.runner": "PortableRunner",
            "beam.args": ["--job_endpoint=embed", "--environment_type=LOOPBACK", IMAGE],
        },
    ).config
    workspace = Workspace(config.workspace)
    with workspace.lock():
        result = local_runner.run(
            build_pipeline(config, workspace, DATA_NODES), workspace, "portable"
        )
    assert {node.state for node in result.nodes} == {"complete", "resolved"}
    (examples,) = result.nodes[-1].outputs["transformed_examples"]
    for split in ("train", "eval"):
        assert any(Path(examples.uri, f"Split-{split}").iterdir())


@pytest.mark.parametrize("runner", ["FnApiRunner", "DirectRunner"])
def test_nothing_is_packed_up_for_workers_that_are_in_this_process(
    runner: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from components.image_transform.executor import Executor

    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    config = load(None, {"beam.runner": runner}).config
    Executor(Executor.Context(beam_pipeline_args=config.beam.jobs["Transform"].pipeline_args))
    assert list(tmp_path.iterdir()) == []
