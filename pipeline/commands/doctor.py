"""`perennial doctor` and `version`: the state of this machine."""

from __future__ import annotations

from pathlib import Path

import typer

from pipeline.commands.options import RUNS, SettingsOptions, with_options
from pipeline.doctor import main_doctor
from pipeline.installed import PACKAGES, version_of


@with_options(common=SettingsOptions)
def doctor(*, common: SettingsOptions) -> None:
    """Check whether this machine has what a run needs.

    With --config or --set, the command also checks whether Beam's runner answers, and whether its
    workers have the same version of the project and can reach the workspace.
    """
    shown_as = common.log_format.resolved
    if common.config is None and not common.settings:
        raise typer.Exit(main_doctor(Path(common.workspace or RUNS), shown_as))
    loaded = common.load().config
    raise typer.Exit(main_doctor(loaded.workspace, shown_as, loaded.beam))


def version() -> None:
    """Print the versions of perennial, TFX, TensorFlow and Keras."""
    for package in PACKAGES:
        print(package, version_of(package) or "not installed")
