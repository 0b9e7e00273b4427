"""Tables of text, for terminals and pipes."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Sequence

from rich.cells import cell_len, set_cell_size
from rich.console import Console
from rich.table import Table
from rich.text import Text

from pipeline.formatting import printable

_WIDE = 80  # columns from which on short cells stay whole
_SHORT = 24  # characters


def percent(share: float | None) -> str:
    """Write a share as a percentage; "" for None."""
    return "" if share is None else f"{share:.2%}"


def table(heading: Sequence[str], rows: Iterable[Sequence[str]], title: str = "") -> None:
    """Print a table, unless it has no rows.

    On a terminal long cells wrap within their column; elsewhere each row is one whole line, for
    grep and cut.
    """
    rows = [[printable(cell) for cell in row] for row in rows]
    if not rows:
        return
    if not sys.stdout.isatty():
        widths = [max(map(cell_len, column)) for column in zip(heading, *rows, strict=True)]
        lines = [map(set_cell_size, row, widths) for row in (heading, *rows)]
        titled = ["", *([title.capitalize()] if title else [])]
        print("\n".join([*titled, *("  ".join(line).rstrip() for line in lines)]))
        return
    console = Console(highlight=False)
    shown = Table(
        box=None,
        header_style="bold",
        pad_edge=False,
        title=title.capitalize() if title else None,
        title_justify="left",
        title_style="bold",
    )
    for name, *cells in zip(heading, *rows, strict=True):
        is_short = max(map(len, [name, *cells])) <= _SHORT
        shown.add_column(
            Text(printable(name)), overflow="fold", no_wrap=is_short and console.width >= _WIDE
        )
    for row in rows:
        # Text, because names may look like Rich's markup.
        shown.add_row(*map(Text, row))
    with console.capture() as capture:
        console.print("", shown)
    print("\n".join(line.rstrip() for line in capture.get().splitlines()))
