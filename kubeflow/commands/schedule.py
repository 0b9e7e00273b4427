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
    check_cluster,
    print_requests,
    print_version,
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

    One run at a time; missed runs are not made up for. In text parameters Kubeflow replaces
    [[ScheduledTime]], [[CurrentTime]] and [[RunUUID]].
    """
    from kubeflow.client import Kubeflow
    from kubeflow.cron import in_words
    from kubeflow.package import arguments, read

    words = in_words(cron)
    found = read(package)
    values = arguments(found, param or [])
    if check and not dry_run:
        check_cluster(found, connection, service_account)
    kubeflow = Kubeflow(connection, dry_run=dry_run)
    version = kubeflow.upload(found)
    page = kubeflow.schedule(
        version,
        cron=cron,
        experiment=experiment or found.name,
        name=name or found.name,
        arguments=values,
        service_account=service_account,
    )
    if dry_run:
        print_requests(kubeflow)
        return
    print_version(found, version)
    print(f"Schedule  {name or found.name}: {words}")
    print("          in Kubeflow's time zone: UTC unless its CRON_SCHEDULE_TIMEZONE is set")
    print(f"Page      {page}")


@connected
def list_schedules(*, connection: Connection) -> None:
    """List all schedules, with their times in words."""
    from kubeflow.client import Kubeflow

    schedules = Kubeflow(connection).schedules()
    if not schedules:
        print("no schedules; make one with perennial schedule create")
        return
    width = max(len(schedule.name) for schedule in schedules)
    for schedule in schedules:
        state = "runs  " if schedule.enabled else "paused"
        print(f"{schedule.name:<{width}}  {state}  {_meaning(schedule.cron)}")


@connected
def pause(name: NameArgument, *, connection: Connection) -> None:
    """Pause a schedule. A run under way goes on."""
    from kubeflow.client import Kubeflow

    kubeflow = Kubeflow(connection)
    kubeflow.pause(kubeflow.find_schedule(name))
    print(f"paused {name}; a run under way goes on")


@connected
def resume(name: NameArgument, *, connection: Connection) -> None:
    """Resume a paused schedule. Missed runs are not made up for."""
    from kubeflow.client import Kubeflow

    kubeflow = Kubeflow(connection)
    schedule = kubeflow.find_schedule(name)
    kubeflow.resume(schedule)
    print(f"{name} runs again: {_meaning(schedule.cron)}")


@connected
def delete(name: NameArgument, *, connection: Connection) -> None:
    """Delete a schedule. Its runs and models stay."""
    from kubeflow.client import Kubeflow

    kubeflow = Kubeflow(connection)
    kubeflow.delete(kubeflow.find_schedule(name))
    print(f"deleted {name}")


def _meaning(cron: str | None) -> str:
    """Put a schedule in words, also one that another tool has made."""
    from kubeflow.cron import in_words
    from pipeline.errors import ConfigError

    if cron is None:
        return "by an interval"
    try:
        return f"{in_words(cron)} ({cron})"
    except ConfigError as error:
        return str(error)
