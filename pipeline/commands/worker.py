"""`perennial worker`: a Beam worker for a job server."""

from __future__ import annotations

from typing import Annotated

import typer

from pipeline.errors import ConfigError


def worker(
    port: Annotated[
        int, typer.Option(metavar="PORT", min=1, max=65535, help="Port for the runner.")
    ] = 50000,
) -> None:
    """Run a Beam worker for the data nodes.

    Start one on each machine of the runner. The data and the workspace must have the same paths
    there as for the pipeline. Add these Beam options to beam.args: --environment_type=EXTERNAL
    --environment_config=HOST:PORT.
    """
    from pipeline import worker_pool

    try:
        worker_pool.serve(port)
    except OSError as error:
        raise ConfigError(f"--port {port}: {error.strerror}; name another one") from error
