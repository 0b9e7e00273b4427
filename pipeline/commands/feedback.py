"""`perennial feedback`: corrected labels as a new span of the data."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

SHOWN = 5


def feedback(
    table: Annotated[
        Path,
        typer.Argument(
            metavar="CSV",
            help="Table with the columns image (a path relative to the table) and label.",
        ),
    ],
    data: Annotated[
        str,
        typer.Option(metavar="'ROOT/{SPAN}'", help="Data to add the span to."),
    ],
    new_class: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME", help="Accept this label, which no span has yet. Repeatable."),
    ] = None,
) -> None:
    """Add images with their true labels to the data, as its next span.

    The labels replace those that the same images have in earlier spans. A row whose label is not a
    class of the data is refused, and the message suggests the nearest class. The span appears
    completely or not at all.
    """
    from pipeline.retraining.feedback import BAD_ROWS, add

    made = add(table, data, new_classes=new_class or ())
    print(f"{made.span}: {made}")
    for row in made.bad[:SHOWN]:
        print(f"  line {row.line}: {row.image!r}, {row.label!r}: {row.reason}")
    if len(made.bad) > SHOWN:
        print(f"  and {len(made.bad) - SHOWN:,} more; all are in {made.span / BAD_ROWS}")
