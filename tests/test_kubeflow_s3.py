"""A compiled pipeline on S3: data, what nodes write and pushed models are all in a bucket.

The pods are processes that share nothing but the database: each has its own folder for copies.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import fsspec
import pytest

from components import storage
from components.storage import staging
from components.storage.content import MANIFEST
from tests import s3_kit
from tests.cli import process, sets
from tests.kubeflow_cluster import Cluster, Pod, Watcher
from tests.test_kubeflow_run import DATA_NODES, JUDGEMENT, POOLS, SETTINGS, Result

pytestmark = pytest.mark.timeout(1800)

DATA, ROOT, PUSHED = "s3://bucket/photos", "s3://bucket/runs", "s3://bucket/models/digits"
SPANS = f"{DATA}/{{SPAN}}"


class Machines(Cluster):
    """Pods on machines of their own: what one has copied, another has not."""

    def _start(self, command: list[str], env: Mapping[str, str], watch: Watcher) -> Pod:
        own = {staging.FOLDER: tempfile.mkdtemp()}
        return super()._start(command, {**env, **own}, watch)


class Site(NamedTuple):
    """A cluster, the folder of its files, and the server."""

    cluster: Cluster
    folder: Path
    server: s3_kit.S3

    def run(self, name: str, **parameters: Any) -> Result:
        given = {"data_root": SPANS, "pipeline_root": ROOT, "epochs": "2", **parameters}
        return Result(self.cluster.run(self.folder / f"{name}.yaml", given), self.cluster.pods)


@pytest.fixture(scope="module")
def site(
    tmp_path_factory: pytest.TempPathFactory, few_digits: Callable[..., Path]
) -> Iterator[Site]:
    folder = tmp_path_factory.mktemp("s3")
    metadata = str(folder / "metadata.sqlite")
    env = {"PERENNIAL_METADATA_KIND": "sqlite", "PERENNIAL_METADATA_PATH": metadata}
    with s3_kit.moto() as server, pytest.MonkeyPatch.context() as patch:
        for name, value in server.env.items():
            patch.setenv(name, value)
        s3_kit.make_bucket()
        images = few_digits("014")
        storage_copy(images, f"{DATA}/1")
        site = Site(Machines(folder / "kfp", env | server.env), folder, server)
        settings = {
            **SETTINGS,
            **POOLS,
            "push.directory": PUSHED,
            "storage.endpoint_url": server.url,
        }
        settings |= {"data.source": SPANS, "kubeflow.pipeline_root": ROOT}
        for name, options in (("run", ()), ("retrain", ("--retrain",))):
            file = str(folder / f"{name}.yaml")
            done = process("compile", "--output", file, *options, *sets(settings))
            assert done.returncode == 0, done.stderr
        yield site
    fsspec.filesystem("s3").clear_instance_cache()


def storage_copy(folder: Path, uri: str) -> None:
    for name in storage.files(str(folder)):
        storage.copy(str(folder / name), f"{uri}/{name}")


@pytest.fixture(scope="module")
def first(site: Site) -> Result:
    return site.run("run")


def test_a_model_is_trained_judged_and_pushed(site: Site, first: Result) -> None:
    assert first.succeeded, first.pods[-1].of("error")
    assert first.states("complete") == DATA_NODES | {"Trainer"} | JUDGEMENT
    assert "1" in storage.names(PUSHED)
    assert first.metrics("Pusher")["pushed"] == 1


def test_artifacts_are_named_by_where_they_are_in_the_store(site: Site, first: Result) -> None:
    assert first.succeeded
    database = Path(site.cluster.metadata["PERENNIAL_METADATA_PATH"]).read_bytes()
    assert b".staged" not in database
    names = {name for name in storage.files(ROOT) if ".staged" in name}
    assert names == set()
    texts = [name for name in storage.files(ROOT) if name.endswith((".json", ".pbtxt"))]
    for name in texts:
        assert ".staged" not in (storage.read_text(f"{ROOT}/{name}") or "")


def test_every_artifact_has_its_list(first: Result) -> None:
    assert first.succeeded
    files = storage.files(ROOT)
    lists = {name.removesuffix(MANIFEST) for name in files if name.endswith(MANIFEST)}
    outputs = {"/".join(name.split("/")[:3]) for name in files if name.split("/")[2:3] != []}
    artifacts = {name for name in outputs if name.rpartition("/")[2].isdecimal()}
    assert artifacts <= lists
    assert lists


@pytest.fixture(scope="module")
def second(site: Site, first: Result) -> Result:
    site.server.faults.log.clear()
    return site.run("run")


def test_the_second_run_is_cached(site: Site, second: Result) -> None:
    assert second.succeeded, second.pods[-1].of("error")
    assert second.states("cached") >= DATA_NODES | {"Trainer"}
    assert [name for name in storage.names(PUSHED) if name.isdecimal()] == ["1"]
    records = [line for line in site.server.faults.log if "GET" in line and "/Split-" in line]
    assert records == []  # nothing was copied that nobody reads


def test_new_data_is_retrained_on_and_old_work_is_taken_over(
    site: Site, second: Result, few_digits: Callable[..., Path]
) -> None:
    same = site.run("retrain")
    assert same.succeeded, same.pods[-1].of("error")
    assert len(same.pods) == 1  # there is nothing to do
    images = few_digits("014")
    for number, name in enumerate(sorted(storage.files(str(images)))[::3]):
        kind, _, _ = name.partition("/")
        storage.copy(str(images / name), f"{DATA}/2/{kind}/new-{number}.png")
    again = site.run("retrain")
    assert again.succeeded, again.pods[-1].of("error")
    assert again.states("complete") >= {"ImageExampleGen", "Trainer"}
