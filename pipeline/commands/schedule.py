"""`perennial schedule`: run a compiled pipeline on Kubeflow again and again."""

from __future__ import annotations

from typing import Annotated

import typer

from pipeline.commands.connection import Connection, connected
from pipeline.commands.submit import (
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

NameArgument = Annotated[str, typer.Argument(metavar="NAME", help="Of the schedule.")]


@connected
def create(
    package: PackageArgument,
    cron: Annotated[
        str,
        typer.Option(
            metavar="CRON",
            help="Six fields, seconds first: '0 0 3 * * *' is every day at 03:00; or @daily.",
        ),
    ],
    param: ParamOption = None,
    experiment: ExperimentOption = None,
    name: Annotated[
        str | None, typer.Option(help="Of the schedule; default: the pipeline's.")
    ] = None,
    service_account: ServiceAccountOption = SERVICE_ACCOUNT,
    check: CheckOption = True,
    dry_run: DryRunOption = False,
    *,
    connection: Connection,
) -> None:
    """Run a compiled pipeline by the clock: one run at a time, without those that were missed.

    Kubeflow replaces [[ScheduledTime]], [[CurrentTime]] and [[RunUUID]] in parameters that are
    strings.
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
    print("          by the clock of Kubeflow, UTC unless its CRON_SCHEDULE_TIMEZONE says else")
    print(f"Page      {page}")


@connected
def list_schedules(*, connection: Connection) -> None:
    """Show all schedules and what they mean."""
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
    """Start no more runs until `resume`."""
    from kubeflow.client import Kubeflow

    kubeflow = Kubeflow(connection)
    kubeflow.pause(kubeflow.find_schedule(name))
    print(f"paused {name}; a run that is under way goes on")


@connected
def resume(name: NameArgument, *, connection: Connection) -> None:
    """Start runs again; those that were missed are not made up for."""
    from kubeflow.client import Kubeflow

    kubeflow = Kubeflow(connection)
    schedule = kubeflow.find_schedule(name)
    kubeflow.resume(schedule)
    print(f"{name} runs again: {_meaning(schedule.cron)}")


@connected
def delete(name: NameArgument, *, connection: Connection) -> None:
    """Remove a schedule; its runs and models stay."""
    from kubeflow.client import Kubeflow

    kubeflow = Kubeflow(connection)
    kubeflow.delete(kubeflow.find_schedule(name))
    print(f"deleted {name}")


def _meaning(cron: str | None) -> str:
    """A schedule in words, also of one that this project did not make and would not."""
    from kubeflow.cron import in_words
    from pipeline.errors import ConfigError

    if cron is None:
        return "by an interval"
    try:
        return f"{in_words(cron)} ({cron})"
    except ConfigError as error:
        return str(error)
