"""`perennial schedule`: recurring runs of a compiled pipeline on Kubeflow."""

from __future__ import annotations

from typing import Annotated

import typer

from kubeflow.commands.connection import Connection, connected
from kubeflow.commands.submit import PackageArgument, Request
from pipeline.commands.options import with_options

NameArgument = Annotated[str, typer.Argument(metavar="NAME", help="Name of the schedule.")]


@with_options(request=Request, connection=Connection)
def create(
    package: PackageArgument,
    cron: Annotated[
        str,
        typer.Option(
            metavar="CRON",
            help="Times: six fields with seconds first, such as '0 0 3 * * *' for 03:00 every "
            "day, or @daily.",
        ),
    ],
    name: Annotated[
        str | None,
        typer.Option(metavar="NAME", help="Name of the schedule. Default: name of the pipeline."),
    ] = None,
    *,
    request: Request,
    connection: Connection,
) -> None:
    """Schedule recurring runs of a compiled pipeline.

    There is one run at a time, and missed runs are skipped. Kubeflow replaces [[ScheduledTime]],
    [[CurrentTime]] and [[RunUUID]] in text parameters.
    """
    from kubeflow import scheduling

    scheduling.create(package, cron, name, request, connection)


@connected
def list_schedules(*, connection: Connection) -> None:
    """List all schedules, with their times in words."""
    from kubeflow import scheduling

    scheduling.list_schedules(connection)


@connected
def pause(name: NameArgument, *, connection: Connection) -> None:
    """Pause a schedule. A run that has started continues."""
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
