"""Removal of artifacts that a workspace no longer needs.

A run is kept with all artifacts that its nodes read and wrote. Kept are the latest runs, recent
runs, the runs of the last two blessed models (one of them is the baseline), and the runs that
pushed a version that still exists.
"""

from __future__ import annotations

import dataclasses
import datetime
import shutil
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

from components.lineage import BLESSED, BLESSING, JUDGED_MODEL, Lineage
from pipeline.settings import Config
from pipeline.workspace import Workspace

if TYPE_CHECKING:
    from ml_metadata.proto import metadata_store_pb2

_BASELINES = 2  # a rerun of the last one is measured against the one before


@dataclasses.dataclass(frozen=True)
class Removable:
    """A removable artifact: its id in ML Metadata, folder, and bytes that its removal frees."""

    artifact: int
    folder: Path
    size: int


def find(
    config: Config, workspace: Workspace, keep: int, days: float, now: datetime.datetime
) -> list[Removable]:
    """Find artifacts of runs that are not among the `keep` latest and older than `days`.

    Raises ConfigError if the served versions are unknown.
    """
    if not workspace.metadata.exists():
        return []
    known = Lineage.at(workspace.connection())
    runs = known.runs()
    oldest = (now - datetime.timedelta(days=days)).timestamp() * 1000
    needed = {run.id for run in runs[-keep:]}
    needed |= {run.id for run in runs if run.create_time_since_epoch > oldest}
    needed |= _of_served(config, runs)
    artifacts = known.artifacts()
    in_use = known.touched(needed) | _of_baselines(known, artifacts)
    removable = []
    for each in artifacts:
        folder = Path(each.uri)
        is_ours = folder.is_relative_to(workspace.artifacts) and folder != workspace.artifacts
        if each.id not in in_use and is_ours and each.state == each.LIVE:
            removable.append(Removable(each.id, folder, _size(folder)))
    return removable


def remove(workspace: Workspace, removable: Iterable[Removable]) -> None:
    """Remove artifacts, and mark them as deleted. The caller holds the workspace's lock.

    They are marked first: the next call removes a marked one that still exists. In the reverse
    order, a node could read a missing artifact.
    """
    known = Lineage.at(workspace.connection())
    known.delete([each.artifact for each in removable])
    deleted = [each for each in known.artifacts() if each.state == each.DELETED]
    for artifact in deleted:
        folder = Path(artifact.uri)
        if folder.is_relative_to(workspace.artifacts) and folder.exists():
            shutil.rmtree(folder)


def _of_served(config: Config, runs: Iterable[metadata_store_pb2.Context]) -> set[int]:
    """Return the ids of the runs that pushed versions in the registry."""
    names = {str(each.record.get("run")) for each in config.registry.versions() if each.record}
    return {run.id for run in runs if run.name in names}


def _of_baselines(known: Lineage, artifacts: Iterable[metadata_store_pb2.Artifact]) -> set[int]:
    """Return the ids of all artifacts of the runs of the last blessed models."""
    by_id = {each.id: each for each in artifacts}
    verdicts = sorted(
        (
            each.custom_properties[JUDGED_MODEL].int_value,
            each.id,
            each.custom_properties[BLESSED].int_value == 1,
        )
        for each in by_id.values()
        if each.type == BLESSING
    )
    blessed = [each for each in verdicts if each[2]]
    # And of the last judged model: new images are those that differ from its data.
    wanted = {*blessed[-_BASELINES:], *verdicts[-1:]}
    ids = {each for model, verdict, _ in wanted for each in (model, verdict)} & by_id.keys()
    made = [known.run_of(by_id[each]) for each in ids]
    return known.touched({run.id for run in made if run})


def _size(folder: Path) -> int:
    """Count the bytes that removing `folder` frees; files with another hard link free none."""
    sizes = (path.stat() for path in folder.rglob("*") if path.is_file())
    return sum(status.st_size for status in sizes if status.st_nlink == 1)
