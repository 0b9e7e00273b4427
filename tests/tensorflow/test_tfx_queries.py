"""What TFX reads of ML Metadata for a run does not grow with the runs behind it."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import ml_metadata
import pytest

from pipeline import local_runner
from pipeline.workspace import Workspace
from tests import REPO
from tests.kit import toy_pipeline

pytestmark = pytest.mark.filterwarnings("ignore:label\\(\\) is deprecated")


class Reads:
    """Counts the executions, artifacts and events that the store gives out."""

    def __init__(self) -> None:
        self.count = 0

    def patch(self, monkeypatch: pytest.MonkeyPatch) -> None:
        for name in dir(ml_metadata.MetadataStore):
            if name.startswith(("get_executions", "get_artifacts", "get_events")):
                monkeypatch.setattr(ml_metadata.MetadataStore, name, self._counted(name))

    def _counted(self, name: str) -> Any:
        method = getattr(ml_metadata.MetadataStore, name)

        def call(*args: Any, **kwargs: Any) -> Any:
            found = method(*args, **kwargs)
            self.count += len(found)
            return found

        return call

    def take(self) -> int:
        found, self.count = self.count, 0
        return found


@pytest.fixture
def reads(monkeypatch: pytest.MonkeyPatch) -> Reads:
    counter = Reads()
    counter.patch(monkeypatch)
    return counter


@pytest.fixture
def place(tmp_path: Path) -> Workspace:
    (tmp_path / "control").mkdir()
    return Workspace(tmp_path / "workspace")


def run(place: Workspace, number: int, make: Any = toy_pipeline.create) -> list[str]:
    with place.lock():
        pipeline = make(place, place.root.parent / "control")
        result = local_runner.run(pipeline, place, f"run-{number}-{os.getpid()}")
    return [node.state for node in result.nodes]


def test_a_cached_run_reads_as_much_after_many_others(place: Workspace, reads: Reads) -> None:
    run(place, 0)
    costs = []
    for number in range(1, 16):
        reads.take()
        assert run(place, number) == ["cached"] * 3
        costs.append(reads.take())
    # Of each cache key the ten newest executions are read, and of the workspace the newest hundred.
    assert costs[-1] - costs[10] <= 4 * 3


def test_a_resolver_finds_the_newest_of_a_pipeline(place: Workspace) -> None:
    run(place, 0)
    assert run(place, 1, toy_pipeline.create_resolving) == ["resolved", "complete"]
    uris = [str(path) for path in place.artifacts.glob("Taker/text/*/text")]
    assert Path(uris[0]).read_text() == "First Second Third Taker "


def test_opening_a_database_prints_no_later_records(tmp_path: Path) -> None:
    code = (
        "import logging, sys\n"
        "from ml_metadata.proto import metadata_store_pb2\n"
        "from components.lineage import Lineage\n"
        "connection = metadata_store_pb2.ConnectionConfig()\n"
        "connection.sqlite.filename_uri = sys.argv[1]\n"
        "connection.sqlite.connection_mode = 3\n"
        "Lineage.at(connection)\n"
        "progress = logging.getLogger('perennial.progress')\n"
        "progress.setLevel(logging.INFO)\n"
        "progress.info('step')\n"
    )
    command = [sys.executable, "-c", code, str(tmp_path / "metadata.sqlite")]
    done = subprocess.run(command, cwd=REPO, capture_output=True, text=True, check=True)
    assert "step" not in done.stderr
