"""`perennial gc`: the disk that old runs take."""

from __future__ import annotations

import datetime
from pathlib import Path
from typing import Annotated

import typer

from pipeline.commands.options import ConfigOption, WorkspaceOption, load


def collect(
    config: ConfigOption = None,
    workspace: WorkspaceOption = None,
    keep: Annotated[int, typer.Option(min=1, help="Latest runs that are kept.")] = 10,
    older_than: Annotated[
        float, typer.Option("--older-than", metavar="DAYS", min=0, help="Younger runs are kept.")
    ] = 30.0,
    apply: Annotated[
        bool, typer.Option("--apply", help="Remove; without it, say what would be.")
    ] = False,
) -> None:
    """Remove the artifacts of old runs, but for those of a champion or of a pushed version.

    Of the recorded traffic in monitor.logs, files go that are older than monitor.retention_days.

    Nothing is removed without --apply. The runs' reports, logs and history stay.
    """
    from components.errors import PushRefusedError
    from pipeline.errors import ConfigError
    from pipeline.retraining import hygiene
    from pipeline.workspace import Workspace

    settings = load(config, {"workspace": workspace}, None).config
    place = Workspace(settings.workspace)
    now = datetime.datetime.now(datetime.UTC)
    if not place.root.exists():
        raise ConfigError(
            f"workspace {place.root}: there is no such folder; name another with --workspace"
        )
    with place.lock():
        try:
            doomed = hygiene.find(settings, place, keep, older_than, now)
        except PushRefusedError as error:
            raise ConfigError(str(error)) from error
        for each in doomed:
            print(each.folder)
        if apply:
            hygiene.remove(place, doomed)
    if settings.monitor.logs:
        _expire(settings.monitor.logs, settings.monitor.retention_days, apply)
    if not doomed:
        print(
            f"nothing to remove: all artifacts are of the latest {keep} runs, of runs of the last "
            f"{older_than:g} days, of a champion or of a pushed version"
        )
        return
    freed = sum(each.size for each in doomed) / 1e6
    done = "removed" if apply else "could be removed; --apply does it"
    print(f"{len(doomed):,} artifacts, {freed:,.1f} MB: {done}")


def _expire(logs: Path, days: float, apply: bool) -> None:
    from pipeline.monitoring.retention import expired

    old = expired(logs, days)
    for path in old if apply else ():
        path.unlink(missing_ok=True)
    done = "removed" if apply else "could be removed; --apply does it"
    if old:
        print(f"{len(old):,} files of traffic older than {days:g} days: {done}")
