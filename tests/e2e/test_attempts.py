"""Attempts at the work of the data nodes may overlap, be killed, or go on when they have lost."""

from __future__ import annotations

import pickle
import random
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import apache_beam as beam
import pytest
import tensorflow as tf

from components import attempts
from components.attempts import Attempt
from components.errors import JobError
from components.jobs import Job, Worker
from tests.kit.image_folders import write_span
from tests.kit.stage import Stage

HERE = ["--runner=FnApiRunner"]
# Jobs of this runner go through Beam, although it is in this process.
BEAM = [*HERE, "--direct_running_mode=multi_threading", "--sdk_container_image=none"]
NODES = ("_Write", "_Columns", "_TransformShards")  # of ImageExampleGen, StatisticsGen, Transform
IMAGES = 300


class Recorded(NamedTuple):
    """What a node gave to Beam, and the files that it has of it."""

    worker: Worker[Any]
    tasks: Sequence[Any]
    files: dict[str, bytes]


def files(folder: Path) -> dict[str, bytes]:
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def run(
    worker: Worker[Any], tasks: Sequence[Any], output: Path, args: Sequence[str] = BEAM
) -> list[Any]:
    pipeline = beam.Pipeline(argv=list(args))
    return list(Job("x", "images").map(pipeline, worker, tasks, str(output), None))


@pytest.fixture(scope="module")
def recorded(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Recorded]:
    """Do the work of each node once, with nothing else going on."""
    root = tmp_path_factory.mktemp("stage")
    found: dict[str, tuple[Worker[Any], list[Any]]] = {}
    original = Job.map

    def keep(
        self: Job, pipeline: Any, worker: Any, tasks: Any, output: str, total: int | None
    ) -> Any:
        listed = list(tasks)
        # As given: a worker holds what it has loaded.
        found[type(worker).__name__] = pickle.loads(pickle.dumps(worker)), listed
        return original(self, pipeline, worker, listed, output, total)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Job, "map", keep)
        # A task for each shard, as on workers.
        patch.setattr("components.image_transform.executor.run_here", lambda _: False)
        stage = Stage(root)
        write_span(stage.data, 1, IMAGES)
        stage.run()
    recorded = {}
    for name, (worker, tasks) in found.items():
        run(worker, tasks, root / name)
        recorded[name] = Recorded(worker, tasks, files(root / name))
        copy = pickle.loads(pickle.dumps(worker))
        assert run(copy, tasks, root / "here" / name, HERE)
        assert files(root / "here" / name) == recorded[name].files
    return recorded


def test_one_stream_of_all_shards_writes_what_a_task_for_each_writes(
    recorded: dict[str, Recorded], tmp_path: Path
) -> None:
    worker, tasks, expected = recorded["_TransformShards"]
    assert len(tasks) > 1
    copy = pickle.loads(pickle.dumps(worker))  # a worker that has loaded its graph has no pickle
    run(copy, [[shard for shards in tasks for shard in shards]], tmp_path, HERE)
    assert files(tmp_path) == expected


@pytest.mark.parametrize("node", NODES)
@pytest.mark.parametrize("outlives", [False, True])
def test_attempts_that_overlap_and_are_killed_change_nothing(
    node: str, outlives: bool, recorded: dict[str, Recorded], tmp_path: Path
) -> None:
    worker, tasks, expected = recorded[node]
    assert expected
    assert any(path.startswith(("Split-", "columns/")) for path in expected)
    work, output = tmp_path / "work", tmp_path / "output"
    work.write_bytes(pickle.dumps((worker, tasks)))
    lag = random.Random(f"{node} {outlives}")
    command = [sys.executable, "-m", "tests.kit.attempts_until_killed", str(work), str(output)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as other:
        assert other.stdin
        assert other.stdout
        assert other.stdout.readline() == b"ready\n"
        other.stdin.write(b"\n")
        other.stdin.flush()
        time.sleep(lag.uniform(0, 0.5))
        try:
            job = Job("x", "images").map(
                beam.Pipeline(argv=BEAM), _Slowly(worker), tasks, str(output), None
            )
            for index, _ in enumerate(job):
                if index == 0 and not outlives:
                    other.kill()
                    other.wait()
        finally:
            if outlives:
                time.sleep(lag.uniform(0, 0.5))
            other.kill()
    found = files(output)
    # What goes on for longer than the job leaves its folder, which nothing reads.
    late = {path for path in found if path.startswith(f"{attempts.FOLDER}/")}
    assert outlives or not late
    assert {path: found[path] for path in found.keys() - late} == expected
    for path in found.keys() - late:
        if path.startswith("Split-"):
            assert sum(1 for _ in tf.data.TFRecordDataset(str(output / path))) > 0


class _Slowly(Worker[Any]):
    """Has other attempts begin, and end, while its own go on."""

    def __init__(self, worker: Worker[Any]) -> None:
        self._worker = worker

    def prepare(self) -> None:
        self._worker.prepare()

    def work(self, task: Any, attempt: Attempt) -> Any:
        outcome = self._worker.work(task, attempt)
        time.sleep(random.uniform(0, 0.3))
        return outcome


class _Two(Worker[str]):
    """Makes every task twice within one attempt of Beam, and has the first one lose."""

    def __init__(self, output: str) -> None:
        self._output = output

    def work(self, task: str, attempt: Attempt) -> str:
        first = Attempt(self._output)
        for each, text in ((first, "lost"), (attempt, "won")):
            Path(each.path(f"Split-x/{task}")).write_text(text)
        first.finish("lost")
        return "won"


def test_files_are_those_of_the_attempts_that_the_runner_went_on_with(tmp_path: Path) -> None:
    assert run(_Two(str(tmp_path)), ["a", "b"], tmp_path) == ["won", "won"]
    assert files(tmp_path) == {"Split-x/a": b"won", "Split-x/b": b"won"}


class _Fails(Worker[str]):
    def work(self, task: str, attempt: Attempt) -> None:
        Path(attempt.path(task)).write_text(task)
        raise JobError("as it should")


@pytest.mark.parametrize(("args", "error"), [(HERE, JobError), (BEAM, RuntimeError)])
def test_an_attempt_that_fails_leaves_nothing(
    args: list[str], error: type[Exception], tmp_path: Path
) -> None:
    with pytest.raises(error, match="as it should"):
        run(_Fails(), ["a"], tmp_path, args)
    assert files(tmp_path) == {}
    assert list(tmp_path.iterdir()) == []


def test_a_file_that_is_not_there_is_told_with_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=rf"^{tmp_path}/\S+: .*\bworkers\b"):
        Attempt(str(tmp_path), name="elsewhere").win()


def test_what_beam_is_given_does_not_grow_with_the_images(tmp_path: Path) -> None:
    sizes = []
    for images in (10, 100_000):
        pipeline = beam.Pipeline(argv=BEAM)
        proto: list[bytes] = []
        pipeline.run = lambda p=pipeline, out=proto: out.append(
            p.to_runner_api().SerializeToString()
        )
        job = Job("x", "images").map(
            pipeline, _Fails(), [" ".join(map(str, range(images)))], str(tmp_path), images
        )
        with pytest.raises((OSError, tf.errors.NotFoundError, AttributeError)):
            list(job)
        sizes.append(len(proto[0]))
    # Pickles of the same classes differ by some bytes; the task alone has half a million.
    assert abs(sizes[0] - sizes[1]) < 1_000
