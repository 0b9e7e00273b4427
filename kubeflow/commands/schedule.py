"""`perennial schedule`: recurring runs of a compiled pipeline on Kubeflow."""

from __future__ import annotations

from typing import Annotated

import typer

from kubeflow.commands.connection import Connection, connected
from kubeflow.commands.submit import (
    SERVICE_ACCOUNT,
    CheckOption,
    DryRunOption,
    ExperimentOption,
    PackageArgument,
    ParamOption,
    ServiceAccountOption,
)

NameArgument = Annotated[str, typer.Argument(metavar="NAME", help="Name of the schedule.")]


@connected
def create(
    package: PackageArgument,
    cron: Annotated[
        str,
        typer.Option(
            metavar="CRON",
            help="Time: six fields, seconds first, such as '0 0 3 * * *' for 03:00 every day, or "
            "@daily.",
        ),
    ],
    param: ParamOption = None,
    experiment: ExperimentOption = None,
    name: Annotated[
        str | None,
        typer.Option(metavar="NAME", help="Name of the schedule. Default: name of the pipeline."),
    ] = None,
    service_account: ServiceAccountOption = SERVICE_ACCOUNT,
    check: CheckOption = True,
    dry_run: DryRunOption = False,
    *,
    connection: Connection,
) -> None:
    """Schedule recurring runs of a compiled pipeline.

    One run at a time; missed runs are skipped. Kubeflow replaces [[ScheduledTime]], [[CurrentTime]]
    and [[RunUUID]] in text parameters.
    """
    from kubeflow import scheduling

    scheduling.create(
        package,
        cron,
        param or [],
        connection,
        experiment=experiment,
        name=name,
        service_account=service_account,
        check=check,
        dry_run=dry_run,
    )


@connected
def list_schedules(*, connection: Connection) -> None:
    """List all schedules, with their times in words."""
    from kubeflow import scheduling

    scheduling.list_schedules(connection)


@connected
def pause(name: NameArgument, *, connection: Connection) -> None:
    """Pause a schedule. A current run continues."""
    from kubeflow import scheduling

    scheduling.pause(name, connection)


@connected
def resume(name: NameArgument, *, connection: Connection) -> None:
    """Resume a paused schedule. Missed runs are skipped."""
    from kubeflow import scheduling

    scheduling.resume(name, connection)


@connected
def delete(name: NameArgument, *, connection: Connection) -> None:
    """Delete a schedule. Its runs and models stay."""
    from kubeflow import scheduling

    scheduling.delete(name, connection)
