"""What of a workspace's artifacts nobody needs any more.

A run is kept whole, with all that its nodes read and wrote. Kept are the latest runs, those that
are young enough, and whatever the next run needs or someone is served: the runs of the last two
blessed models, one of which is the baseline, and those that pushed a version that is there still.
"""

from __future__ import annotations

import dataclasses
import datetime
import shutil
from collections.abc import Collection, Iterable
from pathlib import Path
from typing import TYPE_CHECKING

from pipeline.retraining.judged import BLESSED, MODEL
from pipeline.settings import Config
from pipeline.workspace import Workspace

if TYPE_CHECKING:
    from ml_metadata import MetadataStore
    from ml_metadata.proto import metadata_store_pb2

_RUN = "pipeline_run"
_BASELINES = 2  # a rerun of the last one is measured against the one before


@dataclasses.dataclass(frozen=True)
class Doomed:
    """An artifact that can go: its id in ML Metadata, folder, and bytes that only it takes."""

    artifact: int
    folder: Path
    size: int


def find(
    config: Config, workspace: Workspace, keep: int, days: float, now: datetime.datetime
) -> list[Doomed]:
    """The artifacts of runs that are neither among the `keep` latest, nor younger than `days`.

    Raises ConfigError where it cannot be told which versions are served.
    """
    if not workspace.metadata.exists():
        return []
    import ml_metadata

    store = ml_metadata.MetadataStore(workspace.connection())
    runs = _runs(store)
    oldest = (now - datetime.timedelta(days=days)).timestamp() * 1000
    needed = {run.id for run in runs[-keep:]}
    needed |= {run.id for run in runs if run.create_time_since_epoch > oldest}
    needed |= _of_served(config, runs)
    artifacts = {each.id: each for each in store.get_artifacts()}
    in_use = {artifact for run in needed for artifact in _touched(store, [run])}
    in_use |= _of_baselines(store, artifacts.values())
    doomed = []
    for each in artifacts.values():
        folder = Path(each.uri)
        is_ours = folder.is_relative_to(workspace.artifacts) and folder != workspace.artifacts
        if each.id not in in_use and is_ours and each.state == each.LIVE:
            doomed.append(Doomed(each.id, folder, _size(folder)))
    return doomed


def remove(workspace: Workspace, doomed: Iterable[Doomed]) -> None:
    """Remove artifacts, and mark them as deleted. The caller holds the workspace's lock.

    First in ML Metadata: what is marked and still there is removed by the next call, whereas the
    reverse would leave nodes to read what is gone.
    """
    import ml_metadata
    from ml_metadata.proto import metadata_store_pb2

    store = ml_metadata.MetadataStore(workspace.connection())
    chosen = {each.artifact: each for each in doomed}
    artifacts = store.get_artifacts_by_id(list(chosen))
    for artifact in artifacts:
        artifact.state = metadata_store_pb2.Artifact.DELETED
    if artifacts:
        store.put_artifacts(artifacts)
    deleted = [each for each in store.get_artifacts() if each.state == each.DELETED]
    for artifact in deleted:
        folder = Path(artifact.uri)
        if folder.is_relative_to(workspace.artifacts) and folder.exists():
            shutil.rmtree(folder)


def _runs(store: MetadataStore) -> list[metadata_store_pb2.Context]:
    """All runs, oldest first."""
    return sorted(store.get_contexts_by_type(_RUN), key=lambda run: run.id)


def _of_served(config: Config, runs: Iterable[metadata_store_pb2.Context]) -> set[int]:
    """The runs that pushed the versions that are there."""
    names = {str(each.record.get("run")) for each in config.registry.versions() if each.record}
    return {run.id for run in runs if run.name in names}


def _of_baselines(
    store: MetadataStore, artifacts: Collection[metadata_store_pb2.Artifact]
) -> set[int]:
    """What the last blessed models were made of, and all that was made with it."""
    verdicts = sorted(
        (
            each.custom_properties[MODEL].int_value,
            each.id,
            each.custom_properties[BLESSED].int_value == 1,
        )
        for each in artifacts
        if each.type == "ModelBlessing"
    )
    blessed = [each for each in verdicts if each[2]]
    in_use: set[int] = set()
    # And of the last one that was judged: what is new is told by the difference from its data.
    for model, verdict, _ in {*blessed[-_BASELINES:], *verdicts[-1:]}:
        in_use |= _touched(store, [*_made_in(store, model), *_made_in(store, verdict)])
    return in_use


def _made_in(store: MetadataStore, artifact: int) -> list[int]:
    """The run that made an artifact; others took it from the cache, or resolved it as an input."""
    from ml_metadata.proto import metadata_store_pb2

    made = [
        event.execution_id
        for event in store.get_events_by_artifact_ids([artifact])
        if event.type == metadata_store_pb2.Event.OUTPUT
    ]
    contexts = store.get_contexts_by_execution(min(made)) if made else []
    return [each.id for each in contexts if each.type == _RUN]


def _touched(store: MetadataStore, contexts: Iterable[int]) -> set[int]:
    """The artifacts that any execution in these contexts read or wrote."""
    executions = [
        each.id for context in contexts for each in store.get_executions_by_context(context)
    ]
    return {each.artifact_id for each in store.get_events_by_execution_ids(executions)}


def _size(folder: Path) -> int:
    """Bytes that are freed with `folder`: files that are linked from elsewhere too free none."""
    sizes = (path.stat() for path in folder.rglob("*") if path.is_file())
    return sum(status.st_size for status in sizes if status.st_nlink == 1)
