"""`perennial report`, `runs`, `show` and `compare`: the results of runs, as a page and as text."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from pipeline.commands.options import RUNS, JsonLinesOption, RunsOption
from pipeline.output import announce
from pipeline.report import text

JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON.")]
_RUN = "Run: its id, the beginning or end of an id, or latest."


def report(
    run: Annotated[str, typer.Argument(metavar="RUN", help=_RUN)] = "latest",
    workspace: RunsOption = RUNS,
    output: Annotated[
        Path | None,
        typer.Option(metavar="DIR", help="Folder to write to. Default: the run's own."),
    ] = None,
) -> None:
    """Write the report of a run again: page, figures, JSON and CSV, and the index of all runs."""
    announce(f"Writing the report of {run} ...")
    from pipeline.report import write

    for page in write.rewrite(workspace, run, output):
        print(page)


def runs(
    workspace: RunsOption = RUNS,
    as_json: JsonLinesOption = False,
) -> None:
    """List the runs, newest first."""
    text.print_runs(workspace, as_json)


def show(
    run: Annotated[str, typer.Argument(metavar="RUN", help=_RUN)] = "latest",
    workspace: RunsOption = RUNS,
    as_json: JsonOption = False,
) -> None:
    """Print the report of a run."""
    facts = text.read(workspace, run)
    if as_json:
        print(facts.model_dump_json(indent=2))
    else:
        text.show(facts)


def compare(
    a: Annotated[str, typer.Argument(metavar="A", help=_RUN)],
    b: Annotated[str, typer.Argument(metavar="B", help="Second run.")],
    workspace: RunsOption = RUNS,
    as_json: JsonOption = False,
) -> None:
    """Compare two runs: their metrics, classes, data and settings."""
    text.print_differences(text.read(workspace, a), text.read(workspace, b), as_json)
