"""A runner of Beam that cannot work is refused before anything is read."""

from __future__ import annotations

import socket
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from pipeline import beam_runner, doctor, local_runner
from pipeline.config import load
from pipeline.errors import ConfigError
from pipeline.execution import build_pipeline
from pipeline.settings.beam import BeamConfig, BeamJob, BeamNode
from pipeline.workspace import Workspace

EXTERNAL = ("--environment_type=EXTERNAL", "--environment_config=localhost:50000")
SERVER = "--job_endpoint=beam:8099"
LOOPBACK = "--environment_type=LOOPBACK"
DATAFLOW = ("--project=a", "--region=b", "--temp_location=gs://c/d")


def job(runner: str, *args: str) -> BeamJob:
    return BeamJob("beam", runner, args)


@pytest.mark.parametrize(
    ("runner", "args", "named"),
    [
        ("PortableRunner", EXTERNAL, "--job_endpoint"),
        ("PortableRunner", ("--job_endpoint=beam", *EXTERNAL), "--job_endpoint=beam "),
        ("PortableRunner", ("--job_endpoint=beam:http", *EXTERNAL), "--job_endpoint=beam:http"),
        ("PortableRunner", ("--job_endpoint=beam:99999", *EXTERNAL), "--job_endpoint=beam:99999"),
        ("PortableRunner", (SERVER,), "--environment_type=EXTERNAL"),
        ("PortableRunner", (SERVER, EXTERNAL[0]), "--environment_config=HOST:PORT"),
        ("PortableRunner", (SERVER, "--environment_type=DOCKER"), "--sdk_container_image"),
        ("FlinkRunner", (SERVER,), "--environment_type=EXTERNAL"),
        ("SparkRunner", (SERVER, EXTERNAL[0], "--environment_config=x"), "--environment_config"),
        ("DataflowRunner", DATAFLOW[:2], "--temp_location="),
    ],
)
def test_what_cannot_work_is_refused(runner: str, args: tuple[str, ...], named: str) -> None:
    for pod in (False, True):
        with pytest.raises(ConfigError) as caught:
            beam_runner.check_options(job(runner, *args), pod=pod)
        assert named in str(caught.value)
        assert str(caught.value).startswith("beam: ")


@pytest.mark.parametrize(
    ("runner", "args", "named"),
    [
        (
            "PortableRunner",
            ("--job_endpoint=localhost:8099", *EXTERNAL),
            "--job_endpoint=localhost:8099 is ",
        ),
        (
            "PortableRunner",
            ("--job_endpoint=127.0.0.1:8099", *EXTERNAL),
            "--job_endpoint=127.0.0.1:8099 is ",
        ),
        ("PortableRunner", ("--job_endpoint=embed", *EXTERNAL), "--job_endpoint=embed"),
        ("PortableRunner", (SERVER, LOOPBACK), "LOOPBACK"),
        ("FlinkRunner", ("--flink_master=flink:8081", *EXTERNAL), "Java"),
        ("SparkRunner", EXTERNAL, "Java"),
        ("PrismRunner", (), "PrismRunner"),
    ],
)
def test_what_cannot_work_in_a_pod_is_refused_there(
    runner: str, args: tuple[str, ...], named: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pipeline.beam_runner.shutil.which", lambda _: "/usr/bin/java")
    beam_runner.check_options(job(runner, *args))
    with pytest.raises(ConfigError) as caught:
        beam_runner.check_options(job(runner, *args), pod=True)
    assert named in str(caught.value)


@pytest.mark.parametrize(
    ("runner", "args"),
    [
        ("FnApiRunner", ()),
        ("FnApiRunner", ("--direct_num_workers=2", "--direct_running_mode=multi_processing")),
        ("PortableRunner", (SERVER, *EXTERNAL)),
        ("FlinkRunner", (SERVER, *EXTERNAL)),
        ("PortableRunner", (SERVER, "--environment_type=DOCKER", "--sdk_container_image=a:1")),
        ("DataflowRunner", (*DATAFLOW, "--sdk_container_image=a:1")),
        ("some.module.Runner", ()),
    ],
)
def test_what_can_work_in_a_pod_is_let_through(runner: str, args: tuple[str, ...]) -> None:
    beam_runner.check_options(job(runner, *args), pod=True)


def test_java_that_is_missing_here_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pipeline.beam_runner.shutil.which", lambda _: None)
    with pytest.raises(ConfigError, match=r"SparkRunner.*[Jj]ava"):
        beam_runner.check_options(job("SparkRunner", *EXTERNAL))


def unused_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        return int(server.getsockname()[1])


def test_a_job_server_that_does_not_answer_is_named() -> None:
    endpoint = f"127.0.0.1:{unused_port()}"
    with pytest.raises(ConfigError, match=endpoint):
        beam_runner.reach(job("PortableRunner", f"--job_endpoint={endpoint}", *EXTERNAL))


def test_doctor_tells_of_each_runner(tmp_path: Path) -> None:
    endpoint = f"127.0.0.1:{unused_port()}"
    node = BeamNode(runner="PortableRunner", args=(f"--job_endpoint={endpoint}", *EXTERNAL))
    config = BeamConfig(nodes={"Transform": node})
    facts = {fact.name: fact for fact in doctor.beam_facts(config, tmp_path)}
    assert facts.keys() == {"beam", "beam.nodes.Transform"}
    assert not facts["beam"].problem
    assert endpoint in facts["beam.nodes.Transform"].problem
    assert facts["beam.nodes.Transform"].remedy


@pytest.mark.parametrize(
    ("nodes", "runner", "args"),
    [
        ({}, "PortableRunner", ("--a=1",)),
        ({"Transform": {"args": ["--b=2"]}}, "PortableRunner", ("--b=2",)),
        ({"Transform": {"args": []}}, "PortableRunner", ()),
        ({"Transform": {"runner": "FnApiRunner"}}, "FnApiRunner", ()),
        ({"Transform": {"runner": "FnApiRunner", "args": ["--c"]}}, "FnApiRunner", ("--c",)),
        ({"Evaluator": {"runner": "FnApiRunner"}}, "PortableRunner", ("--a=1",)),
    ],
)
def test_a_node_can_have_its_own_settings(
    nodes: Mapping[str, Any], runner: str, args: tuple[str, ...]
) -> None:
    overrides = {"beam.runner": "PortableRunner", "beam.args": ["--a=1"], "beam.nodes": nodes}
    found = load(None, overrides).config.beam.jobs["Transform"]
    assert (found.runner, found.args) == (runner, args)


def test_how_a_node_is_run_is_no_part_of_its_cache_key(two_classes: Path, tmp_path: Path) -> None:
    states = []
    for number, args in enumerate(([], ["--direct_num_workers=1"])):
        settings = {
            "data.source": str(two_classes),
            "workspace": str(tmp_path / "workspace"),
            "beam.args": args,
        }
        if number:
            settings["beam.nodes.StatisticsGen.args"] = ["--direct_running_mode=in_memory"]
        config = load(None, settings).config
        workspace = Workspace(config.workspace)
        nodes = ("ImageExampleGen", "StatisticsGen")
        with workspace.lock():
            pipeline = build_pipeline(config, workspace, nodes)
            result = local_runner.run(pipeline, workspace, f"run-{number}")
        states.append([node.state for node in result.nodes])
    assert states == [["complete"] * 2, ["cached"] * 2]
