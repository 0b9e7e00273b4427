"""Runs of a part of the DAG, for commands that need no model."""

from __future__ import annotations

import contextlib
from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING

from pipeline import preflight
from pipeline.config import check_paths
from pipeline.console import Console
from pipeline.noise import redirect_output
from pipeline.preflight import PreflightContext
from pipeline.run import new_run_id
from pipeline.settings import Config
from pipeline.workspace import Workspace

if TYPE_CHECKING:
    from tfx.types import Artifact


@contextlib.contextmanager
def run_nodes(
    config: Config, nodes: Collection[str], log_format: str, *, check_all: bool = False
) -> Iterator[Mapping[str, Mapping[str, Sequence[Artifact]]]]:
    """Run the nodes with the given ids, whose inputs all come from each other, in the workspace.

    Yields the artifacts by node and output name, with the workspace still locked and output still
    redirected. The next run takes them from the cache. Raises UserError, as a run.
    With `check_all`, everything that a run of the whole DAG needs is checked first.
    """
    # Not needed here, and not necessarily there yet.
    config = config.model_copy(
        update={"data": config.data.model_copy(update={"schema_file": None})}
    )
    check_paths(config)
    workspace = Workspace(config.workspace)
    run_id = new_run_id(workspace)
    with (
        workspace.lock(),
        redirect_output(workspace.log_path(run_id)) as terminal,
        Console.create(log_format, terminal.stdout),
    ):
        if check_all:
            connection = workspace.connection() if workspace.metadata.exists() else None
            preflight.check(PreflightContext(config, connection=connection), [])
        # TFX, which prints while it is imported.
        from pipeline import execution

        result = execution.run_nodes(config, workspace, run_id, nodes)
        yield {node.node: node.outputs for node in result.nodes}
