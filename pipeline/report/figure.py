"""Figures as SVG images in the page's colours, and as PNGs.

Lengths are in units of the SVG: one is a CSS pixel if the page is as wide as the figure.
"""

from __future__ import annotations

import io
import re
from collections.abc import Callable
from typing import NamedTuple

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from pipeline.formatting import printable

# Colours by the CSS property that stands in for them on a page. Blue and orange differ
# with any colour vision, and each has a line or a marker of its own.
INK, MUTED, LINE, PAPER = "#1b1f25", "#5b6472", "#d5dae1", "#fefefe"
FIRST, SECOND = "#1f63b4", "#b8500a"
_PROPERTIES = {
    INK: "--ink",
    MUTED: "--muted",
    LINE: "--line",
    PAPER: "--card",
    FIRST: "--first",
    SECOND: "--second",
}

WIDTH, HEIGHT = 360.0, 220.0
_LONGEST = 18  # characters of a class name

STYLE = {
    "svg.fonttype": "none",  # text stays text
    "svg.hashsalt": "perennial",  # the same picture each time
    "text.parse_math": False,  # a dollar sign in a class name
    "font.family": "sans-serif",
    "font.size": 11.0,
    "axes.edgecolor": LINE,
    "axes.labelcolor": MUTED,
    "axes.spines.right": False,
    "axes.spines.top": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "axes.unicode_minus": False,
    "grid.color": LINE,
    "grid.linewidth": 0.7,
    "text.color": INK,
    "xtick.color": MUTED,
    "ytick.color": MUTED,
    "xtick.major.size": 0,
    "ytick.major.size": 0,
    "lines.linewidth": 1.8,
    "legend.frameon": False,
    "legend.fontsize": 11.0,
    "figure.facecolor": PAPER,
    "axes.facecolor": "none",
    "savefig.facecolor": PAPER,
}


_NO_METADATA = dict.fromkeys(("Date", "Creator", "Format", "Type"))


class Plot(NamedTuple):
    """A drawn figure: `name` of its files, title, description, and width."""

    name: str
    title: str
    text: str
    svg: str
    png: bytes
    width: float

    @property
    def inline(self) -> str:
        """The SVG element for a page, coloured by its stylesheet."""
        svg = self.svg[self.svg.index("<svg") :]
        # Its own size would not shrink with the page.
        svg = re.sub(r'(<svg[^>]*?) width="[^"]*"', r"\1", svg, count=1)
        svg = re.sub(r'(<svg[^>]*?) height="[^"]*"', r"\1", svg, count=1)
        # Ids of groups are the same in every figure and nothing refers to them.
        svg = re.sub(r'<g id="[^"]*"', "<g", svg)
        svg = re.sub(r'(id="|href="#|url\(#)', rf"\g<1>{self.name}-", svg)
        svg = re.sub(r"font: [^;\"]*?([\d.]+px)[^;\"]*", r"font-size: \1", svg)
        # The first is the paper, which the page has: its own shadows are seen through the figure.
        svg = svg.replace(f"fill: {PAPER}", "fill: none", 1)
        for color, name in _PROPERTIES.items():
            svg = svg.replace(color, f"var({name})")
        return svg


# A title, what the figure shows in words, and the figure.
Drawn = tuple[str, str, Figure]


def drawn(name: str, draw: Callable[[], Drawn]) -> Plot:
    """Draw a figure in the style of the pages."""
    with mpl.rc_context(STYLE):
        title, text, figure = draw()
        svg, png = io.StringIO(), io.BytesIO()
        figure.savefig(svg, format="svg", metadata=_NO_METADATA)
        figure.savefig(png, format="png", dpi=144)
    width = float(figure.get_size_inches()[0] * 72)
    return Plot(name, title, text, svg.getvalue(), png.getvalue(), width)


def new_figure(width: float = WIDTH, height: float = HEIGHT) -> tuple[Figure, Axes]:
    """Make a figure of one plot."""
    # Not by pyplot, which keeps what it makes and needs a window system.
    figure = Figure(figsize=(width / 72, height / 72), layout="constrained")
    return figure, figure.add_subplot()


def shortened(name: str) -> str:
    """Shorten a class name to fit figures."""
    shown = printable(name)
    return shown if len(shown) <= _LONGEST else f"{shown[: _LONGEST - 1]}…"


def legend(axes: Axes) -> None:
    """Put the legend above the axes in one line, if there are labels."""
    handles, labels = axes.get_legend_handles_labels()
    if labels:
        axes.legend(
            handles,
            labels,
            loc="lower left",
            bbox_to_anchor=(-0.02, 1.0),
            ncols=len(labels),
            borderaxespad=0.2,
            handlelength=1.4,
            columnspacing=1.2,
        )
