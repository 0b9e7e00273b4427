"""A candidate schema, inferred from the statistics of a run."""

from __future__ import annotations

from pathlib import Path

from tensorflow_metadata.proto.v0 import schema_pb2
from tfx.components.statistics_gen import stats_artifact_utils
from tfx.types import Artifact, artifact_utils, standard_artifacts  # noqa: F401 - registers them

from components.image_schema_gen import inference
from components.image_schema_gen.schema import class_counts
from components.lineage import Lineage
from pipeline import schemas
from pipeline.errors import ConfigError
from pipeline.settings import Config
from pipeline.workspace import Workspace


def latest(config: Config) -> Artifact:
    """Return the newest statistics in the workspace. Raises ConfigError where there are none."""
    workspace = Workspace.open(config.workspace)
    if workspace.metadata.exists():
        known = Lineage.at(workspace.connection())
        for artifact in known.of_type("ExampleStatistics"):
            (kind,) = known.store.get_artifact_types_by_id([artifact.type_id])
            return artifact_utils.deserialize_artifact(kind, artifact)
    raise ConfigError(
        f"workspace {config.workspace} has no statistics yet: give --data, or run `perennial run` "
        "first"
    )


def infer(statistics: Artifact, committed: Path | None) -> schema_pb2.Schema:
    """Widen the committed schema to fit the data; without one, infer all of it.

    New classes come after the known ones, whose ids stay. Raises DataError.
    """
    splits = [
        stats_artifact_utils.load_statistics(statistics, split).proto()
        for split in artifact_utils.decode_split_names(statistics.split_names)
    ]
    classes = {name for split in splits for name in class_counts(split)}
    base = schemas.read(committed) if committed and committed.exists() else None
    return inference.infer(splits, classes, base)
