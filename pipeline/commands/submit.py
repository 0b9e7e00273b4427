"""`perennial submit`: run a compiled pipeline on Kubeflow once."""

from __future__ import annotations

import datetime
import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from pipeline.commands.connection import Connection, connected

if TYPE_CHECKING:
    from kubeflow.client import Kubeflow, Version
    from kubeflow.package import Package

PackageArgument = Annotated[
    Path, typer.Argument(metavar="FILE", help="What perennial compile wrote.")
]
ParamOption = Annotated[
    list[str] | None,
    typer.Option(
        "--param",
        metavar="NAME=VALUE",
        help="A parameter of the pipeline, checked against its type; can be repeated.",
    ),
]
ExperimentOption = Annotated[
    str | None, typer.Option(help="Groups runs in Kubeflow's pages; default: the pipeline's name.")
]
ServiceAccountOption = Annotated[
    str, typer.Option(help="Of Kubernetes, whose rights the pods have.")
]
DryRunOption = Annotated[
    bool, typer.Option("--dry-run", help="Print the requests as JSON and send nothing.")
]
SERVICE_ACCOUNT = "perennial-pipeline"


@connected
def submit(
    package: PackageArgument,
    param: ParamOption = None,
    experiment: ExperimentOption = None,
    name: Annotated[
        str | None, typer.Option(help="Of the run; default: the pipeline's and the time.")
    ] = None,
    service_account: ServiceAccountOption = SERVICE_ACCOUNT,
    wait: Annotated[
        bool, typer.Option("--wait", help="Until the run is over; exit code 5 where it failed.")
    ] = False,
    dry_run: DryRunOption = False,
    *,
    connection: Connection,
) -> None:
    """Run a compiled pipeline on Kubeflow now.

    The file becomes a version of the pipeline, once: the same content is not uploaded again.
    """
    from kubeflow.client import Kubeflow
    from kubeflow.package import arguments, read

    found = read(package)
    values = arguments(found, param or [])
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
    print_version(found, version)
    print(f"Run       {page}", flush=True)
    if wait:
        kubeflow.wait(run_id)


def print_requests(kubeflow: Kubeflow) -> None:
    """What a dry run would have sent."""
    print(json.dumps(kubeflow.requests, indent=2, ensure_ascii=False))


def print_version(package: Package, version: Version) -> None:
    """Which version of which pipeline runs."""
    state = "uploaded" if version.uploaded else "uploaded before"
    print(f"Pipeline  {package.name}, version {package.version} ({state})")
