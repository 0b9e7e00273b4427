"""The DAG with data, artifacts and pushed models in an object store, run node by node."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from ml_metadata.proto import metadata_store_pb2
from tfx.orchestration import metadata

from components.storage import staging
from kubeflow import dag, plan
from pipeline.config import load
from pipeline.local_runner import NodeResult, NodeRunner
from pipeline.settings import Config
from tests.kit.cli import UNGATED
from tests.kit.runs import TINY

SETTINGS: Mapping[str, Any] = {
    **{f"evaluate.{name}": value for name, value in UNGATED.items()},
    **TINY,
    "evaluate.min_accuracy": 0.01,
    "evaluate.max_accuracy_drop": 1.0,
    "infra_validation.enabled": False,
    "train.batch_size": 16,
    "train.epochs": 1,
    "name": "digits",
    "data.spans": 2,
    "data.min_eval": 0,
}


class Site(NamedTuple):
    """Settings, the pipeline root, and the folder of the database and of copies."""

    settings: Mapping[str, Any]
    root: str
    folder: Path

    @property
    def config(self) -> Config:
        return load(None, self.settings).config

    @property
    def connection(self) -> metadata_store_pb2.ConnectionConfig:
        file = str(self.folder / "metadata.sqlite")
        return metadata_store_pb2.ConnectionConfig(sqlite={"filename_uri": file})

    def run(self, run_id: str) -> dict[str, NodeResult]:
        """Run every node as the pods of a cluster do. Returns what became of each."""
        ir = plan.decode(plan.encode(dag.make(self.config, self.root)), run_id)
        runner = NodeRunner(ir, metadata.Metadata(self.connection), lambda: None, "the log")
        found = {}
        with pytest.MonkeyPatch.context() as patch:
            for node in ir.nodes:
                name = node.pipeline_node.node_info.id
                patch.setenv(staging.FOLDER, str(self.folder / "copies" / run_id / name))
                found[name] = runner.run(node.pipeline_node)
        return found
