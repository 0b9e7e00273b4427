"""`perennial feedback`: corrections from serving become a span of the data."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

SHOWN = 5


def feedback(
    table: Annotated[
        Path,
        typer.Argument(metavar="CSV", help="Columns image, a path relative to it, and label."),
    ],
    data: Annotated[
        str,
        typer.Option(metavar="'ROOT/{SPAN}'", help="The data that gets a new span."),
    ],
) -> None:
    """Make the next span of the data out of images and their true labels.

    It appears as a whole or not at all, and corrects labels of the same images in earlier spans.
    """
    from pipeline.retraining.feedback import BAD_ROWS, add

    made = add(table, data)
    print(f"{made.span}: {made}")
    for row in made.bad[:SHOWN]:
        print(f"  line {row.line}: {row.image!r}, {row.label!r}: {row.reason}")
    if len(made.bad) > SHOWN:
        print(f"  and {len(made.bad) - SHOWN:,} more; all are in {made.span / BAD_ROWS}")
