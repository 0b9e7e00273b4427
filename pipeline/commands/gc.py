"""`perennial gc`: frees the disk space of old runs."""

from __future__ import annotations

import datetime
from pathlib import Path
from typing import Annotated

import typer

from components.wording import counted
from pipeline.commands.options import ConfigOption, WorkspaceOption, load
from pipeline.errors import ConfigError
from pipeline.monitoring.retention import expired
from pipeline.retraining import garbage
from pipeline.workspace import Workspace


def collect(
    config: ConfigOption = None,
    workspace: WorkspaceOption = None,
    keep: Annotated[int, typer.Option(min=1, metavar="N", help="Keep the latest N runs.")] = 10,
    older_than: Annotated[
        float,
        typer.Option(
            "--older-than", metavar="DAYS", min=0, help="Keep the runs of the last DAYS days."
        ),
    ] = 30.0,
    apply: Annotated[
        bool, typer.Option("--apply", help="Remove the artifacts instead of listing them.")
    ] = False,
) -> None:
    """Remove the artifacts of old runs.

    Artifacts of baselines and of pushed versions are kept, and so are reports, logs and the
    history. Without --apply, the command only lists what it would remove. Recorded traffic in
    monitor.logs is removed too, if it is older than monitor.retention_days.
    """
    settings = load(config, {"workspace": workspace}, None).config
    place = Workspace(settings.workspace)
    now = datetime.datetime.now(datetime.UTC)
    if not place.root.exists():
        raise ConfigError(
            f"workspace {place.root}: there is no such folder; name another with --workspace"
        )
    with place.lock():
        removable = garbage.find(settings, place, keep, older_than, now)
        for each in removable:
            print(each.folder)
        if apply:
            garbage.remove(place, removable)
    if settings.monitor.logs:
        _expire(settings.monitor.logs, settings.monitor.retention_days, apply)
    if not removable:
        kept = counted(keep, "run")
        days = counted(older_than, "day")
        print(
            f"nothing to remove: all artifacts belong to the latest {kept}, to runs of the last "
            f"{days}, to a baseline or to a pushed version"
        )
        return
    freed = sum(each.size for each in removable) / 1e6
    done = "removed" if apply else "not removed; add --apply to remove them"
    print(f"{counted(len(removable), 'artifact')}, {freed:,.1f} MB: {done}")


def _expire(logs: Path, days: float, apply: bool) -> None:
    old = expired(logs, days)
    for path in old if apply else ():
        path.unlink(missing_ok=True)
    done = "removed" if apply else "not removed; add --apply to remove them"
    if old:
        files, age = counted(len(old), "file"), counted(days, "day")
        print(f"{files} of traffic older than {age}: {done}")
