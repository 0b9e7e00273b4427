"""Nodes run on copies where their artifacts are in a bucket; nothing half-done is in it."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import fsspec
import pytest
from ml_metadata.proto import metadata_store_pb2
from tfx.dsl.compiler import compiler, constants
from tfx.orchestration import metadata
from tfx.orchestration.pipeline import Pipeline
from tfx.orchestration.portable import runtime_parameter_utils

from components import storage
from components.lineage import Lineage
from components.storage import staging
from components.storage.content import MANIFEST
from pipeline.errors import DataError, NodeFailed
from pipeline.local_runner import NodeResult, NodeRunner
from tests.kit import s3 as s3_kit
from tests.kit import toy_pipeline

pytestmark = pytest.mark.filterwarnings("ignore:label\\(\\) is deprecated")
ROOT = "s3://bucket/root"


@dataclasses.dataclass
class Toy:
    """First -> Second -> Third, with their artifacts in a bucket."""

    folder: Path
    server: s3_kit.S3
    runs: int = 0

    @property
    def connection(self) -> metadata_store_pb2.ConnectionConfig:
        return metadata_store_pb2.ConnectionConfig(
            sqlite={"filename_uri": str(self.folder / "metadata.sqlite")}
        )

    def run(self, setting: str = "") -> list[NodeResult]:
        self.runs += 1
        first = toy_pipeline.Node("First", self.folder)
        second = toy_pipeline.Node(
            "Second", self.folder, source=first.outputs["text"], setting=setting
        )
        third = toy_pipeline.Node("Third", self.folder, source=second.outputs["text"])
        ir = compiler.Compiler().compile(
            Pipeline(
                "toy", pipeline_root=ROOT, components=[first, second, third], enable_cache=True
            )
        )
        run_id = f"run-{self.runs}"
        runtime_parameter_utils.substitute_runtime_parameter(
            ir, {constants.PIPELINE_RUN_ID_PARAMETER_NAME: run_id}
        )
        runner = NodeRunner(ir, metadata.Metadata(self.connection), lambda: None, "the log")
        return [runner.run(node.pipeline_node) for node in ir.nodes]

    def tell(self, node: str, action: str | None) -> None:
        toy_pipeline.tell(self.folder, node, action)

    def executed(self) -> list[str]:
        record = self.folder / "executed"
        nodes = record.read_text().split() if record.exists() else []
        record.unlink(missing_ok=True)
        return nodes


@pytest.fixture
def toy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Toy]:
    monkeypatch.setenv(staging.FOLDER, str(tmp_path / "copies"))
    with s3_kit.moto() as server:
        for name, value in server.env.items():
            monkeypatch.setenv(name, value)
        fsspec.filesystem("s3").clear_instance_cache()
        s3_kit.make_bucket()
        yield Toy(tmp_path, server)
    fsspec.filesystem("s3").clear_instance_cache()


def test_nodes_meet_local_files_and_their_artifacts_are_in_the_bucket(toy: Toy) -> None:
    first, _, third = toy.run()
    assert first.state == third.state == "complete"
    (artifact,) = third.outputs["text"]
    assert artifact.uri.startswith(f"{ROOT}/Third/text/")
    assert storage.read_text(f"{artifact.uri}/text") == "First Second Third "
    assert set(staging.manifest_of(artifact.uri).files) == {"text"}
    assert [each for each in storage.files(ROOT) if ".system" in each] == []


def test_the_second_run_is_cached_and_a_change_runs_what_follows(toy: Toy) -> None:
    toy.run()
    toy.executed()
    assert {each.state for each in toy.run()} == {"cached"}
    toy.run("other")
    assert toy.executed() == ["Second", "Third"]


def test_an_artifact_that_was_removed_from_the_bucket_is_made_again(toy: Toy) -> None:
    *_, third = toy.run()
    toy.executed()
    storage.remove_tree(third.outputs["text"][0].uri)
    toy.run()
    assert toy.executed() == ["Third"]


@pytest.mark.parametrize("action", ["bad data"])
def test_a_node_that_fails_leaves_nothing(toy: Toy, action: str) -> None:
    toy.tell("Second", action)
    with pytest.raises(DataError):
        toy.run()
    assert not any("Second" in name for name in storage.files(ROOT))
    copies = [path for path in (toy.folder / "copies").rglob("text") if path.is_file()]
    assert [path.parts[-4] for path in copies] == ["First"]
    toy.tell("Second", None)
    toy.executed()
    toy.run()
    assert toy.executed() == ["Second", "Third"]


def test_an_upload_that_fails_fails_the_node_and_is_not_found_later(
    toy: Toy, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")
    monkeypatch.setattr("s3fs.core.S3FileSystem.retries", 1)
    fsspec.filesystem("s3").clear_instance_cache()
    toy.server.faults.refused = f"Second/.*{MANIFEST}"  # the last object of all
    with pytest.raises(NodeFailed, match=r"Second failed: .*(SlowDown|Reduce)"):
        toy.run()
    states = [each.state for each in Lineage.at(toy.connection).artifacts()]
    assert states == [metadata_store_pb2.Artifact.LIVE]
    toy.server.faults.refused = ""
    toy.executed()
    toy.run()
    assert toy.executed() == ["Second", "Third"]


def test_copies_of_another_pod_are_not_needed(toy: Toy, monkeypatch: pytest.MonkeyPatch) -> None:
    toy.run()
    monkeypatch.setenv(staging.FOLDER, str(toy.folder / "another pod"))
    outputs: Any = toy.run("other")[-1].outputs
    assert storage.read_text(f"{outputs['text'][0].uri}/text") == "First Second Third "
