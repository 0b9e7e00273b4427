"""`perennial submit`: one run of a compiled pipeline on Kubeflow."""

from __future__ import annotations

import contextlib
import datetime
import json
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from components import progress
from kubeflow.commands.connection import Connection, connected
from pipeline.commands.options import LogFormat, LogFormatOption

if TYPE_CHECKING:
    from kubeflow.client import Kubeflow, Version
    from kubeflow.package import Package

PackageArgument = Annotated[
    Path, typer.Argument(metavar="FILE", help="Pipeline, as written by `perennial compile`.")
]
ParamOption = Annotated[
    list[str] | None,
    typer.Option(
        "--param",
        metavar="NAME=VALUE",
        help="Set a parameter of the pipeline. Repeatable.",
    ),
]
ExperimentOption = Annotated[
    str | None,
    typer.Option(metavar="NAME", help="Experiment of Kubeflow. Default: the name of the pipeline."),
]
ServiceAccountOption = Annotated[
    str, typer.Option(metavar="NAME", help="Kubernetes service account of the pods.")
]
CheckOption = Annotated[
    bool,
    typer.Option(
        "--check/--no-check",
        help="Check first that the cluster has the claims, secrets and machines of the pods.",
    ),
]
DryRunOption = Annotated[
    bool, typer.Option("--dry-run", help="Print the requests as JSON instead of sending them.")
]
SERVICE_ACCOUNT = "perennial-pipeline"


@connected
def submit(
    package: PackageArgument,
    param: ParamOption = None,
    experiment: ExperimentOption = None,
    name: Annotated[
        str | None,
        typer.Option(
            metavar="NAME", help="Name of the run. Default: name of the pipeline and time."
        ),
    ] = None,
    service_account: ServiceAccountOption = SERVICE_ACCOUNT,
    wait: Annotated[
        bool,
        typer.Option(
            "--wait",
            help="Follow the run to its end, with exit code 5 if it fails. A run whose pod does "
            "not start within kubeflow.start_timeout is ended.",
        ),
    ] = False,
    check: CheckOption = True,
    dry_run: DryRunOption = False,
    log_format: LogFormatOption = LogFormat.AUTO,
    *,
    connection: Connection,
) -> None:
    """Run a compiled pipeline on Kubeflow.

    The file is uploaded as a version of the pipeline, unless Kubeflow has the same content already.
    """
    from kubeflow.client import Kubeflow
    from kubeflow.package import arguments, read

    found = read(package)
    values = arguments(found, param or [])
    if check and not dry_run:
        check_cluster(found, connection, service_account)
    now = datetime.datetime.now(datetime.UTC)
    kubeflow = Kubeflow(connection, dry_run=dry_run)
    version = kubeflow.upload(found)
    run_id, page = kubeflow.run(
        version,
        experiment=experiment or found.name,
        name=name or f"{found.name} {now:%Y-%m-%d %H:%M:%S}",
        arguments=values,
        service_account=service_account,
    )
    if dry_run:
        print_requests(kubeflow)
        return
    if log_format is not LogFormat.JSON:
        print_version(found, version)
        print(f"Run       {page}", flush=True)
    elif not wait:
        print(json.dumps({"run_id": run_id, "page": page, "version": found.version}))
    if wait:
        _wait(kubeflow, run_id, page, found.nodes, log_format)


def _wait(
    kubeflow: Kubeflow, run_id: str, page: str, nodes: Sequence[str], log_format: LogFormat
) -> None:
    from kubeflow.follow import follow
    from pipeline.console import Console
    from pipeline.formatting import duration

    with _not_repeated(), Console.create(log_format.resolved, sys.stdout) as console:
        try:
            ending = follow(kubeflow, run_id, nodes)
        except KeyboardInterrupt:
            progress.report("note", text=f"the run goes on without being watched: {page}")
            raise
        outcome = dict(ending.outcome)
        rows = [("Run", f"succeeded after {duration(ending.wall_s)}")]
        if "accuracy" in outcome:
            verdict = "blessed" if outcome["blessed"] else "not blessed"
            rows.append(("Accuracy", f"{outcome['accuracy']:.4f}, {verdict}"))
        if "pushed" in outcome:
            rows.append(("Pushed", outcome["pushed"] or "nothing"))
        if "report" in outcome:
            outcome["report"] = kubeflow.artifact(outcome["report"])
            rows.append(("Report", outcome["report"]))
        rows.append(("Page", page))
        console.summary(rows, {"run_id": run_id, "state": "complete", **outcome, "page": page})


@contextlib.contextmanager
def _not_repeated() -> Iterator[None]:
    """Keep events from the root logger: kfp's libraries have it print whatever reaches it."""
    before = progress.LOGGER.propagate
    progress.LOGGER.propagate = False
    try:
        yield
    finally:
        progress.LOGGER.propagate = before


def check_cluster(package: Package, connection: Connection, service_account: str) -> None:
    """Refuse what could never start, where Kubernetes can be looked at. Raises ConfigError."""
    from kubeflow.cluster import check

    for remark in check(package, connection.namespace, service_account):
        print(f"perennial: note: {remark}", file=sys.stderr)


def print_requests(kubeflow: Kubeflow) -> None:
    """What a dry run would have sent."""
    print(json.dumps(kubeflow.requests, indent=2, ensure_ascii=False))


def print_version(package: Package, version: Version) -> None:
    """Which version of which pipeline runs."""
    state = "uploaded" if version.uploaded else "uploaded before"
    print(f"Pipeline  {package.name}, version {package.version} ({state})")
