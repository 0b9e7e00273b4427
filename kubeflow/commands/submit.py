"""`perennial submit`: one run of a compiled pipeline on Kubeflow."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from kubeflow.commands.connection import Connection, connected
from pipeline.commands.options import LogFormat, LogFormatOption

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
    from kubeflow import submission

    submission.submit(
        package,
        param or [],
        connection,
        experiment=experiment,
        name=name,
        service_account=service_account,
        wait=wait,
        check=check,
        dry_run=dry_run,
        log_format=log_format,
    )
