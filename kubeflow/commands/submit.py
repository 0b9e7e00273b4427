"""`perennial submit`: one run of a compiled pipeline on Kubeflow."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Annotated

import typer

from kubeflow.commands.connection import Connection
from pipeline.commands.options import LogFormat, LogFormatOption, with_options

PackageArgument = Annotated[
    Path, typer.Argument(metavar="FILE", help="Pipeline, as written by `perennial compile`.")
]
SERVICE_ACCOUNT = "perennial-pipeline"


@dataclasses.dataclass(frozen=True)
class Request:
    """Options of a run, for `submit` and `schedule create`."""

    param: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME=VALUE", help="Set a parameter of the pipeline. Repeatable."),
    ] = None
    experiment: Annotated[
        str | None,
        typer.Option(
            metavar="NAME", help="Experiment of Kubeflow. Default: the name of the pipeline."
        ),
    ] = None
    service_account: Annotated[
        str, typer.Option(metavar="NAME", help="Kubernetes service account of the pods.")
    ] = SERVICE_ACCOUNT
    check: Annotated[
        bool,
        typer.Option(
            "--check/--no-check",
            help="First check that the cluster has the claims, secrets and machines that the pods "
            "need.",
        ),
    ] = True
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Print the requests as JSON instead of sending them.")
    ] = False


@with_options(request=Request, connection=Connection)
def submit(
    package: PackageArgument,
    name: Annotated[
        str | None,
        typer.Option(
            metavar="NAME", help="Name of the run. Default: name of the pipeline and time."
        ),
    ] = None,
    wait: Annotated[
        bool,
        typer.Option(
            "--wait",
            help="Follow the run to its end. The exit code is 5 if it fails. A run is ended if a "
            "pod does not start within kubeflow.start_timeout.",
        ),
    ] = False,
    log_format: LogFormatOption = LogFormat.AUTO,
    *,
    request: Request,
    connection: Connection,
) -> None:
    """Run a compiled pipeline on Kubeflow.

    The file is uploaded as a version of the pipeline, unless Kubeflow already has the same content.
    """
    from kubeflow import submission

    submission.submit(package, name, request, connection, log_format, wait=wait)
