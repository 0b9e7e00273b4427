"""`perennial watch`: supervision of the runs on Kubeflow."""

from __future__ import annotations

from typing import Annotated

import typer

from kubeflow.commands.connection import Connection, connected


@connected
def watch(
    every: Annotated[
        float, typer.Option(metavar="SECONDS", min=1, help="Seconds between two checks.")
    ] = 60.0,
    once: Annotated[bool, typer.Option("--once", help="Check once and exit.")] = False,
    *,
    connection: Connection,
) -> None:
    """Report failed runs on Kubeflow, and end those whose pods cannot start.

    Reports go to standard output and to the URL in PERENNIAL_WEBHOOK. A run is ended if a pod waits
    longer than kubeflow.start_timeout. Runs of other projects are ignored.
    """
    from kubeflow import watch

    watch.run(connection, None if once else every)
