"""`perennial worker`: does Beam's work for a job server."""

from __future__ import annotations

from typing import Annotated

import typer

from pipeline.errors import ConfigError


def worker(
    port: Annotated[
        int, typer.Option(metavar="PORT", min=1, max=65535, help="Where the runner finds it.")
    ] = 50000,
) -> None:
    """Do the work of the data nodes for a runner of Beam, which sends it here.

    It goes beside each machine of the runner, with the data and the workspace under the paths that
    the pipeline has: --environment_type=EXTERNAL --environment_config=HOST:PORT.
    """
    from pipeline import worker_pool

    try:
        worker_pool.serve(port)
    except OSError as error:
        raise ConfigError(f"--port {port}: {error.strerror}; name another one") from error
