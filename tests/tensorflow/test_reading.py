"""Each input is read once for the cache key and once to be decoded, wherever that is done."""

from __future__ import annotations

import hashlib
import types
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from apache_beam.options.pipeline_options import PipelineOptions, StandardOptions

from components import jobs, launch
from components.errors import JobError
from components.image_example_gen import files, inputs, writing
from components.image_example_gen.sources import cifar10, records
from components.jobs import Job
from pipeline import local_runner
from pipeline.config import load
from pipeline.errors import NodeFailed
from pipeline.execution import build_pipeline
from pipeline.local_runner import NodeResult
from pipeline.workspace import Workspace
from tests.kit import image_corpus as corpus
from tests.kit.data_sources import example, write_records

IMAGES = 24


def run(source: str | Path, root: Path, name: str) -> NodeResult:
    overrides = {
        "data.source": str(source),
        "data.min_eval": 0,
        "workspace": str(root / "workspace"),
    }
    config = load(None, overrides).config
    workspace = Workspace(config.workspace)
    with workspace.lock():
        pipeline = build_pipeline(config, workspace, ("ImageExampleGen",))
        (node,) = local_runner.run(pipeline, workspace, name).nodes
    return node


def a_folder(root: Path) -> Path:
    for number in range(IMAGES):
        path = root / "ab"[number % 2] / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(corpus.make("PNG", number))
    return root


def records_in_parts(root: Path) -> Path:
    pets = [example(image=corpus.make("PNG", n), label=n % 2) for n in range(IMAGES)]
    return write_records(root / "x.tfrecord", *pets)


def batches_in_parts(root: Path) -> Path:
    root.mkdir()
    rows = np.random.default_rng(0).integers(0, 256, (IMAGES, cifar10._ROW), np.uint8)
    rows[:, 0] %= 2
    (root / "data_batch_1.bin").write_bytes(rows.tobytes())
    return root


@pytest.fixture
def read(monkeypatch: pytest.MonkeyPatch) -> Iterator[Counter[tuple[object, ...]]]:
    """Count the readings of each file, or part of one, and the hashes of each image."""
    found: Counter[tuple[object, ...]] = Counter()

    def counted(owner: Any, name: str, key: Callable[..., tuple[object, ...]]) -> None:
        original = getattr(owner, name)

        def call(*arguments: Any, **named: Any) -> Any:
            found[key(*arguments)] += 1
            return original(*arguments, **named)

        monkeypatch.setattr(owner, name, call)

    monkeypatch.setattr(records, "UNIT_FILES", 10)
    monkeypatch.setattr(cifar10, "UNIT_FILES", 10)
    counted(files, "read", lambda path, _: ("read", path))
    counted(records, "read", lambda path, position, _: ("read", path, position))
    counted(files, "digest", lambda path: ("digest", path))
    for module in (inputs, writing):
        monkeypatch.setattr(module, "hashlib", types.SimpleNamespace(sha256=hashlib.sha256))
        counted(module.hashlib, "sha256", lambda data: ("hash", data))
    yield found
    cifar10._read.cache_clear()


@pytest.mark.parametrize(
    ("make", "parts", "readings"),
    # All parts of a batch are taken from one reading.
    [(a_folder, IMAGES, 2), (records_in_parts, 3, 2), (batches_in_parts, 1, 1)],
)
def test_nothing_is_read_or_hashed_more_than_once_for_each_purpose(
    make: Callable[[Path], Path],
    parts: int,
    readings: int,
    read: Counter[tuple[object, ...]],
    tmp_path: Path,
) -> None:
    source = make(tmp_path / "data")
    read.clear()
    assert run(source, tmp_path, "1").state == "complete"
    hashes = [count for key, count in read.items() if key[0] == "hash"]
    assert hashes == [2] * IMAGES  # for the key, and to compare what is decoded with it
    assert [count for key, count in read.items() if key[0] == "read"] == [readings] * parts
    assert not [key for key in read if key[0] == "digest"]
    read.clear()
    assert run(source, tmp_path, "2").state == "cached"
    assert {count for key, count in read.items() if key[0] == "hash"} == {1}
    assert all(count == 1 for count in read.values())


def test_workers_elsewhere_read_for_the_driver(
    two_classes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    here = run(two_classes, tmp_path / "here", "1")
    done: list[str] = []
    original = Job.map

    def keep(self: Job, *arguments: Any, **named: Any) -> Any:
        done.append(self._what)
        launch.current().workers_cpu_s += 100
        return original(self, *arguments, **named)

    def is_elsewhere(options: PipelineOptions) -> bool:
        assert options.view_as(StandardOptions).runner == "FnApiRunner"
        return False

    monkeypatch.setattr(jobs, "run_here", is_elsewhere)
    monkeypatch.setattr(Job, "map", keep)
    root = tmp_path / "elsewhere"
    first, second = (run(two_classes, root, name) for name in "12")
    assert [first.state, second.state] == ["complete", "cached"]
    assert done == ["read", "ingest", "read"]
    assert first.cpu_s > 200
    assert 100 < second.cpu_s < 200
    outputs = root / "workspace" / "artifacts" / "ImageExampleGen" / "examples"
    assert [path.name for path in outputs.iterdir()] == [str(first.execution_id)]
    keys = [
        node.outputs["examples"][0].get_string_custom_property("input_fingerprint")
        for node in (here, first)
    ]
    assert keys[0] == keys[1] != ""


def test_a_job_that_fails_while_the_driver_reads_leaves_nothing(
    two_classes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise JobError("the job ended as FAILED on Beam's job server: it is gone")

    monkeypatch.setattr(jobs, "run_here", lambda _: False)
    with monkeypatch.context() as patch:
        patch.setattr(Job, "run", fail)
        with pytest.raises(NodeFailed, match="Beam's job server"):
            run(two_classes, tmp_path, "1")
    assert not list((tmp_path / "workspace" / "artifacts").glob("ImageExampleGen/examples/*"))
    assert run(two_classes, tmp_path, "2").state == "complete"


@pytest.mark.parametrize(
    ("args", "is_here"),
    [
        (["--runner=FnApiRunner"], True),
        (["--runner=FnApiRunner", "--direct_running_mode=multi_threading"], False),
        (["--runner=FnApiRunner", "--direct_running_mode=multi_processing"], False),
        (["--runner=PortableRunner", "--job_endpoint=beam:8099"], False),
    ],
)
def test_where_jobs_run(args: list[str], is_here: bool) -> None:
    assert jobs.run_here(PipelineOptions(args)) is is_here
