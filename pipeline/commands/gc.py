"""`perennial gc`: the disk that old runs take."""

from __future__ import annotations

import datetime
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

    Nothing is removed without --apply. The runs' reports, logs and history stay.
    """
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
        doomed = hygiene.find(settings, place, keep, older_than, now)
        for each in doomed:
            print(each.folder)
        if apply:
            hygiene.remove(place, doomed)
    if not doomed:
        print(
            f"nothing to remove: all artifacts are of the latest {keep} runs, of runs of the last "
            f"{older_than:g} days, of a champion or of a pushed version"
        )
        return
    freed = sum(each.size for each in doomed) / 1e6
    done = "removed" if apply else "could be removed; --apply does it"
    print(f"{len(doomed):,} artifacts, {freed:,.1f} MB: {done}")
