"""The data nodes on a real runner of Beam in other processes: Prism, and two pools of workers.

Skipped where `prism` is not in PATH; `make prism` builds it. It is Beam's runner for one machine:
it speaks the protocol of Flink's and Spark's job servers, but gives up a job with its first worker
that is lost, where those try again. `tests/e2e/test_attempts.py` has attempts that overlap.
"""

from __future__ import annotations

import contextlib
import json
import logging
import random
import re
import shutil
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import portpicker
import psutil
import pytest
from ml_metadata.proto import metadata_store_pb2

from components import attempts, progress
from pipeline import beam_runner, local_runner
from pipeline.beam_trial import TrialError
from pipeline.config import load
from pipeline.errors import INTERRUPTED, ConfigError, NodeFailed
from pipeline.execution import build_pipeline
from pipeline.settings.beam import BEAM_NODES, BeamJob
from pipeline.workspace import Workspace
from tests import REPO
from tests.kit.cli import command, sets
from tests.kit.runs import DATA_NODES, SMALL, TINY, Run, run_command

PRISM = shutil.which("prism")
pytestmark = [
    pytest.mark.skipif(PRISM is None, reason="prism is not in PATH: make prism"),
    pytest.mark.timeout(1800),  # a pipeline runs twice, and every job imports TensorFlow
]
ON_BEAM = {"ImageExampleGen", "StatisticsGen", "Transform"}
_START_S = 240.0  # for a machine that much else is done on; imports alone are seconds of CPU
# A worker whose runner is killed while it starts tries for a minute to reach it (SdkHarness).
_END_S = 240.0


class Beam:
    """Prism and two pools, each started when it is needed and gone."""

    def __init__(self) -> None:
        self.job_port, *self.pool_ports = (portpicker.pick_unused_port() for _ in range(3))
        self.prism: subprocess.Popen[bytes] | None = None
        self.pools: list[subprocess.Popen[bytes] | None] = [None, None]

    def start(self) -> None:
        if self.prism is None or self.prism.poll() is not None:
            options = [f"-job_port={self.job_port}", "-serve_http=false"]
            self.prism = _started([str(PRISM), *options], self.job_port)
        for index, port in enumerate(self.pool_ports):
            pool = self.pools[index]
            if pool is None or pool.poll() is not None:
                self.pools[index] = _started(command("worker", "--port", port), port)

    def stop(self) -> None:
        for each in (self.prism, *self.pools):
            if each is not None:
                each.kill()
                each.wait()

    def args(self, pool: int) -> list[str]:
        return [
            f"--job_endpoint=127.0.0.1:{self.job_port}",
            "--environment_type=EXTERNAL",
            f"--environment_config=127.0.0.1:{self.pool_ports[pool]}",
        ]

    @property
    def settings(self) -> dict[str, object]:
        """Transform and Evaluator use the second pool."""
        return {
            "beam.runner": "PortableRunner",
            "beam.args": self.args(0),
            "beam.nodes.Transform.args": self.args(1),
            "beam.nodes.Evaluator.args": self.args(1),
        }

    def workers(self) -> list[psutil.Process]:
        """Return the processes that the pools have started."""
        found = []
        for pool in self.pools:
            with contextlib.suppress(psutil.NoSuchProcess, AttributeError):
                found += psutil.Process(pool.pid).children()  # type: ignore[union-attr]
        return [each for each in found if each.status() != psutil.STATUS_ZOMBIE]


def _started(arguments: list[str], port: int) -> subprocess.Popen[bytes]:
    process = subprocess.Popen(
        arguments, cwd=REPO, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    _wait_for(lambda: _listens(port))
    return process


def _listens(port: int) -> bool:
    with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1):
        return True
    return False


def _wait_for(condition: Callable[[], object], limit_s: float = _START_S) -> None:
    deadline = time.monotonic() + limit_s
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.1)


@pytest.fixture(scope="module")
def servers() -> Iterator[Beam]:
    made = Beam()
    try:
        yield made
    finally:
        made.stop()


@pytest.fixture
def beam(servers: Beam) -> Beam:
    servers.start()
    _wait_for(lambda: not servers.workers(), _END_S)
    return servers


def run(arguments: list[str]) -> Run:
    done = subprocess.run(run_command(*arguments), cwd=REPO, capture_output=True, text=True)
    return Run(
        done.returncode, [json.loads(line) for line in done.stdout.splitlines()], done.stderr
    )


def written(workspace: Path) -> dict[str, bytes]:
    """Return the outputs of the data nodes, by node, output and path."""
    found = {}
    for node in ON_BEAM:
        for path in (workspace / "artifacts").glob(f"{node}/*/*/**/*"):
            parts = path.relative_to(workspace / "artifacts").parts
            # A graph's functions are numbered in the order in which a process has made them.
            if path.is_file() and parts[1] != "transform_graph" and parts[1] != ".system":
                found["/".join((*parts[:2], *parts[3:]))] = path.read_bytes()
    return found


@pytest.mark.in_order
class TestTheWholePipeline:
    """Runs on Prism, then in the process itself with and without the same workspace."""

    @pytest.fixture(scope="class")
    def places(
        self, tmp_path_factory: pytest.TempPathFactory, few_digits: Callable[..., Path]
    ) -> tuple[Path, list[str]]:
        data = few_digits("01", 60)
        return tmp_path_factory.mktemp("prism"), ["--data", str(data), *sets(TINY), *SMALL]

    def test_runs_to_a_push_through_two_pools(
        self, beam: Beam, places: tuple[Path, list[str]]
    ) -> None:
        root, arguments = places
        done = run(["--workspace", str(root / "a"), *arguments, *sets(beam.settings)])
        assert done.code == 0, done.stderr
        assert done.summary["pushed"]
        assert done.states("complete") >= set(BEAM_NODES)
        for event in done.events:
            if event["event"] == "node_end" and event["node"] in BEAM_NODES:
                assert event["cpu_s"] > 1  # workers import TensorFlow, which is not done here
        # What workers do is known here by Beam's metrics only.
        (log,) = (root / "a" / "logs").glob("*.log")
        steps = re.findall(r"progress: step .*'what': '(\w+)'", log.read_text())
        assert set(steps) >= {"read", "ingest", "statistics", "transform"}
        assert not list((root / "a").rglob(attempts.FOLDER))

    def test_is_in_the_cache_of_every_other_runner(
        self, beam: Beam, places: tuple[Path, list[str]]
    ) -> None:
        root, arguments = places
        done = run(["--workspace", str(root / "a"), *arguments])
        assert done.code == 0, done.stderr
        assert done.states("cached") >= {*ON_BEAM, "Trainer"}

    def test_has_written_the_same_as_in_one_process(self, places: tuple[Path, list[str]]) -> None:
        root, arguments = places
        done = run(["--workspace", str(root / "b"), *arguments])
        assert done.code == 0, done.stderr
        there, here = written(root / "a"), written(root / "b")
        assert there.keys() == here.keys()
        assert any("Split-train" in path for path in here)
        assert any(path.endswith("FeatureStats.pb") for path in here)
        assert {path for path in here if here[path] != there[path]} == set()


class _Started(logging.Handler):
    """Knows which nodes have begun."""

    def __init__(self) -> None:
        super().__init__()
        self.nodes: dict[str, threading.Event] = {node: threading.Event() for node in DATA_NODES}

    def emit(self, record: logging.LogRecord) -> None:
        if record.getMessage() == "node_start":
            self.nodes[record.fields["node"]].set()  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("victim", "node"),
    [
        ("worker", "ImageExampleGen"),
        ("worker", "StatisticsGen"),
        ("worker", "Transform"),
        ("pool", "Transform"),
        ("pool", "ImageExampleGen"),
        ("prism", "StatisticsGen"),
        ("prism", "ImageExampleGen"),
    ],
)
def test_a_kill_ends_well_or_in_one_line_and_leaves_nothing(
    victim: str, node: str, beam: Beam, two_classes: Path, tmp_path: Path
) -> None:
    settings = {
        "data.source": str(two_classes),
        "workspace": str(tmp_path / "workspace"),
        "transform.image_size": 12,
        "train.hyperparameters.patch_size": 4,
        **beam.settings,
    }
    config = load(None, settings).config
    workspace = Workspace(config.workspace)
    started = _Started()
    late = random.Random(f"{victim} {node}").uniform(0, 4)

    def kill() -> None:
        started.nodes[node].wait(_START_S)
        _wait_for(beam.workers)
        time.sleep(late)
        pool = beam.pools[1 if node == "Transform" else 0]
        for process in {"worker": beam.workers(), "pool": [pool], "prism": [beam.prism]}[victim]:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()

    progress.LOGGER.addHandler(started)
    progress.LOGGER.setLevel(logging.INFO)
    killer = threading.Thread(target=kill, daemon=True)
    killer.start()
    failure = None
    try:
        with workspace.lock():
            local_runner.run(build_pipeline(config, workspace, DATA_NODES), workspace, "killed")
    except NodeFailed as error:
        failure = str(error)
    finally:
        progress.LOGGER.removeHandler(started)
        killer.join(_START_S)
    assert failure is None or ("\n" not in failure and "job server" in failure)
    assert not list(workspace.root.rglob(attempts.FOLDER))
    _wait_for(lambda: not beam.workers(), _END_S)
    # What has failed is made anew, and all of it.
    beam.start()
    with workspace.lock():
        result = local_runner.run(build_pipeline(config, workspace, DATA_NODES), workspace, "again")
    assert {each.state for each in result.nodes} <= {"complete", "cached", "resolved"}
    (examples,) = result.nodes[0].outputs["examples"]
    shards = json.loads(Path(examples.uri, "shards.json").read_text())
    assert sum(shards.values()) == 80
    assert examples.mlmd_artifact.state == metadata_store_pb2.Artifact.LIVE


def test_an_interrupt_cancels_the_job(beam: Beam, two_classes: Path, tmp_path: Path) -> None:
    arguments = ["--workspace", str(tmp_path), "--data", str(two_classes)]
    with subprocess.Popen(
        run_command(*arguments, *sets(TINY), *SMALL, *sets(beam.settings)),
        cwd=REPO,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
    ) as process:
        _wait_for(beam.workers)
        process.send_signal(signal.SIGINT)
        process.communicate(timeout=_START_S)
    assert process.returncode == INTERRUPTED
    # Not only is the job given up: nothing of it goes on.
    _wait_for(lambda: not beam.workers())
    assert not list((tmp_path / "artifacts").glob("ImageExampleGen/examples/*"))


def test_a_trial_tells_what_is_wrong_with_workers(beam: Beam, tmp_path: Path) -> None:
    job = BeamJob("beam", "PortableRunner", tuple(beam.args(0)))
    assert "version" in beam_runner.try_out(job, tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_a_trial_of_other_code(beam: Beam, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from pipeline import beam_trial

    monkeypatch.setattr(beam_trial, "code", lambda: "another")
    with pytest.raises(TrialError, match="version"):
        beam_trial.run(
            BeamJob("beam", "PortableRunner", tuple(beam.args(0))).pipeline_args, tmp_path
        )


def test_something_else_that_listens_is_no_job_server(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        endpoint = f"--job_endpoint=127.0.0.1:{other.getsockname()[1]}"
        args = (endpoint, "--environment_type=EXTERNAL", "--environment_config=a:1")
        with pytest.raises(ConfigError, match=f"{endpoint}: .*gRPC"):
            beam_runner.reach(BeamJob("beam", "PortableRunner", args))
