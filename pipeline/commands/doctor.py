"""`perennial doctor` and `version`: what there is on this machine."""

from __future__ import annotations

from pathlib import Path

import typer

from pipeline.commands.options import (
    ConfigOption,
    LogFormat,
    LogFormatOption,
    SettingsOption,
    WorkspaceOption,
    load,
)


def doctor(
    workspace: WorkspaceOption = None,
    config: ConfigOption = None,
    settings: SettingsOption = None,
    log_format: LogFormatOption = LogFormat.AUTO,
) -> None:
    """Say what this machine has and lacks for a run.

    With --config or --set, also whether Beam's runner answers, and its workers have this version
    and reach the workspace.
    """
    from pipeline.doctor import main_doctor

    if config is None and not settings:
        raise typer.Exit(main_doctor(Path(workspace or "workspace"), log_format.resolved))
    loaded = load(config, {"workspace": workspace}, settings).config
    raise typer.Exit(main_doctor(loaded.workspace, log_format.resolved, loaded.beam))


def version() -> None:
    """Print the versions of perennial and of what it runs on."""
    from pipeline.installed import PACKAGES, version_of

    for package in PACKAGES:
        print(package, version_of(package) or "not installed")
