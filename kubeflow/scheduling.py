"""Create, list, pause, resume and delete recurring runs on Kubeflow."""

from __future__ import annotations

from pathlib import Path

from kubeflow import submission
from kubeflow.client import Kubeflow
from kubeflow.commands.connection import Connection
from kubeflow.commands.submit import Request
from kubeflow.cron import in_words
from pipeline.errors import ConfigError


def create(
    path: Path, cron: str, name: str | None, request: Request, connection: Connection
) -> None:
    """Schedule runs of a compiled pipeline, and print the page of the schedule."""
    words = in_words(cron)
    package, values = submission.prepare(path, request, connection)
    kubeflow = Kubeflow(connection, dry_run=request.dry_run)
    version = kubeflow.upload(package)
    page = kubeflow.schedule(
        version,
        cron=cron,
        experiment=request.experiment or package.name,
        name=name or package.name,
        arguments=values,
        service_account=request.service_account,
    )
    if request.dry_run:
        submission.print_requests(kubeflow)
        return
    submission.print_version(package, version)
    print(f"Schedule  {name or package.name}: {words}")
    print("          in Kubeflow's time zone: UTC unless its CRON_SCHEDULE_TIMEZONE is set")
    print(f"Page      {page}")


def list_schedules(connection: Connection) -> None:
    """Print all schedules, with their times in words."""
    schedules = Kubeflow(connection).schedules()
    if not schedules:
        print("no schedules; make one with perennial schedule create")
        return
    width = max(len(schedule.name) for schedule in schedules)
    for schedule in schedules:
        state = "runs  " if schedule.enabled else "paused"
        print(f"{schedule.name:<{width}}  {state}  {_meaning(schedule.cron)}")


def pause(name: str, connection: Connection) -> None:
    """Pause a schedule."""
    kubeflow = Kubeflow(connection)
    kubeflow.pause(kubeflow.find_schedule(name))
    print(f"paused {name}; a current run continues")


def resume(name: str, connection: Connection) -> None:
    """Resume a schedule."""
    kubeflow = Kubeflow(connection)
    schedule = kubeflow.find_schedule(name)
    kubeflow.resume(schedule)
    print(f"{name} runs again: {_meaning(schedule.cron)}")


def delete(name: str, connection: Connection) -> None:
    """Delete a schedule."""
    kubeflow = Kubeflow(connection)
    kubeflow.delete(kubeflow.find_schedule(name))
    print(f"deleted {name}")


def _meaning(cron: str | None) -> str:
    """Put a schedule in words, including one that another tool has made."""
    if cron is None:
        return "by an interval"
    try:
        return f"{in_words(cron)} ({cron})"
    except ConfigError as error:
        return str(error)
