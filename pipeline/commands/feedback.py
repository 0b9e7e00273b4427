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
    new_class: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME", help="A label that no span has yet; can be repeated."),
    ] = None,
) -> None:
    """Make the next span of the data out of images and their true labels.

    It appears as a whole or not at all, and corrects labels of the same images in earlier spans. A
    label that is no class of the data is refused, with the nearest one: it may be mistyped.
    """
    from pipeline.retraining.feedback import BAD_ROWS, add

    made = add(table, data, new_classes=new_class or ())
    print(f"{made.span}: {made}")
    for row in made.bad[:SHOWN]:
        print(f"  line {row.line}: {row.image!r}, {row.label!r}: {row.reason}")
    if len(made.bad) > SHOWN:
        print(f"  and {len(made.bad) - SHOWN:,} more; all are in {made.span / BAD_ROWS}")
