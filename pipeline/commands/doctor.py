"""`perennial doctor` and `version`: what there is on this machine."""

from __future__ import annotations

from pathlib import Path

import typer

from pipeline.commands.options import LogFormat, LogFormatOption, WorkspaceOption


def doctor(workspace: WorkspaceOption = None, log_format: LogFormatOption = LogFormat.AUTO) -> None:
    """Say what this machine has and lacks for a run."""
    from pipeline.doctor import main_doctor

    raise typer.Exit(main_doctor(Path(workspace or "workspace"), log_format.resolved))


def version() -> None:
    """Print the versions of perennial and of what it runs on."""
    from pipeline.installed import PACKAGES, version_of

    for package in PACKAGES:
        print(package, version_of(package) or "not installed")
