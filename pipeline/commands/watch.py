"""`perennial watch`: look after the runs on Kubeflow that nobody waits for."""

from __future__ import annotations

from typing import Annotated

import typer

from pipeline.commands.connection import Connection, connected


@connected
def watch(
    every: Annotated[
        float, typer.Option(metavar="SECONDS", min=1, help="Time between two looks.")
    ] = 60.0,
    once: Annotated[bool, typer.Option("--once", help="Look once, and end.")] = False,
    *,
    connection: Connection,
) -> None:
    """End runs whose pods wait longer than kubeflow.start_timeout, and tell of all that fail.

    The URL in PERENNIAL_WEBHOOK gets a line for each, and so does standard output. Runs of other
    projects are left alone.
    """
    from kubeflow.client import Kubeflow
    from kubeflow.watch import Watch

    looking = Watch(Kubeflow(connection), lambda text: print(text, flush=True))
    if once:
        looking.look()
    else:
        looking.forever(every)
