"""The DAG on S3: data, what nodes write and pushed models are all in a bucket.

The nodes run in this process, and not in pods as on Kubeflow. Each of them has a folder for copies
of its own, as on machines that share nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import fsspec
import pytest

from components import storage
from components.lineage import Lineage
from components.storage import staging
from components.storage.content import MANIFEST
from pipeline.local_runner import NodeResult
from pipeline.retraining.observe import decide_in_cluster
from tests.kit import s3 as s3_kit
from tests.kit.bucket_site import SETTINGS, Site

pytestmark = [
    pytest.mark.timeout(1800),
    pytest.mark.filterwarnings("ignore:label\\(\\) is deprecated"),
]

DATA, ROOT, PUSHED = "s3://bucket/photos", "s3://bucket/runs", "s3://bucket/models/digits"
NODES = {"ImageExampleGen", "StatisticsGen", "SchemaGen", "ExampleValidator", "Transform"}
NODES |= {"Trainer", "Evaluator", "Pusher"}


@pytest.fixture(scope="module")
def server() -> Iterator[s3_kit.S3]:
    with s3_kit.moto() as server, pytest.MonkeyPatch.context() as patch:
        for name, value in server.env.items():
            patch.setenv(name, value)
        fsspec.filesystem("s3").clear_instance_cache()
        s3_kit.make_bucket()
        yield server
    fsspec.filesystem("s3").clear_instance_cache()


@pytest.fixture(scope="module")
def site(
    server: s3_kit.S3, tmp_path_factory: pytest.TempPathFactory, few_digits: Callable[..., Path]
) -> Site:
    storage.copy_tree(str(few_digits("014")), f"{DATA}/1")
    settings = {
        **SETTINGS,
        "data.source": f"{DATA}/{{SPAN}}",
        "push.directory": PUSHED,
        "storage.endpoint_url": server.url,
    }
    return Site(settings, ROOT, tmp_path_factory.mktemp("s3"))


@pytest.fixture(scope="module")
def first(site: Site) -> dict[str, NodeResult]:
    return site.run("first")


def states(results: dict[str, NodeResult], state: str) -> set[str]:
    return {name for name, result in results.items() if result.state == state}


def test_a_model_is_trained_judged_and_pushed(site: Site, first: dict[str, NodeResult]) -> None:
    assert states(first, "complete") == NODES
    assert [name for name in storage.names(PUSHED) if name.isdecimal()] == ["1"]
    pushed = first["Pusher"].outputs["pushed_model"][0]
    assert pushed.get_string_custom_property("pushed_destination") == f"{PUSHED}/1"


def test_artifacts_are_named_by_where_they_are_in_the_store(
    site: Site, first: dict[str, NodeResult]
) -> None:
    for artifact in Lineage.at(site.connection).artifacts():
        assert artifact.uri.startswith(f"{ROOT}/")
        assert ".staged" not in str(artifact)
    for name in storage.files(ROOT):
        # TFMA writes down where it has read models, and nobody reads that.
        if name.endswith((".json", ".pbtxt")) and not name.endswith("/eval_config.json"):
            assert ".staged" not in (storage.read_text(f"{ROOT}/{name}") or ""), name


def test_every_artifact_has_its_list(site: Site, first: dict[str, NodeResult]) -> None:
    for artifact in Lineage.at(site.connection).artifacts():
        files = staging.manifest_of(artifact.uri).files
        assert storage.exists(f"{artifact.uri}{MANIFEST}")
        assert {name: file.size for name, file in files.items()} == storage.files(artifact.uri)


def test_a_node_copies_the_files_that_it_reads_only(
    site: Site, first: dict[str, NodeResult]
) -> None:
    def copied(node: str) -> set[str]:
        folder = site.folder / "copies" / "first" / node
        found = (path.relative_to(folder).parts for path in folder.rglob("*") if path.is_file())
        return {parts[4] for parts in found if not parts[-1].endswith((MANIFEST, ".lock"))}

    assert copied("SchemaGen") == {"SchemaGen", "StatisticsGen", "ImageExampleGen"}
    splits = {
        path.parent.name
        for path in (site.folder / "copies" / "first" / "Evaluator").rglob("data_tfrecord-*")
    }
    assert splits == {"Split-eval"}


def test_the_second_run_is_cached(
    site: Site, server: s3_kit.S3, first: dict[str, NodeResult]
) -> None:
    site.run("second")  # of which the Evaluator has another baseline
    server.faults.log.clear()
    again = site.run("third")
    assert states(again, "cached") == NODES
    assert [name for name in storage.names(PUSHED) if name.isdecimal()] == ["1"]
    assert not any("GET" in line and "/Split-" in line for line in server.faults.log)


def test_new_data_is_a_reason_to_retrain_and_old_work_is_taken_over(
    site: Site,
    server: s3_kit.S3,
    first: dict[str, NodeResult],
    few_digits: Callable[..., Path],
) -> None:
    assert not decide_in_cluster(site.config, site.connection, ROOT).retrain
    images = few_digits("014", 52)
    for name in storage.files(str(images)):
        if not storage.exists(f"{DATA}/1/{name}"):
            storage.copy(str(images / name), f"{DATA}/2/{name}")
    decision = decide_in_cluster(site.config, site.connection, ROOT)
    assert decision.retrain
    server.faults.log.clear()
    again = site.run("again")
    assert states(again, "complete") == NODES
    examples = again["ImageExampleGen"].outputs["examples"][0]
    assert examples.get_int_custom_property("images_reused") > 0
    old = [line for line in server.faults.log if f"GET /bucket/{DATA[12:]}/1/" in line]
    shards = [line for line in server.faults.log if "GET" in line and "data_tfrecord" in line]
    assert not any("Transform" in line and "transformed" not in line for line in shards)
    assert storage.exists(f"{PUSHED}/2/saved_model.pb")
    assert len(old) <= 2 * 120  # digests are asked for, and each image is read once at most
