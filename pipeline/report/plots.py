"""The figures of the pages, each drawn once, as an SVG image that follows the page's colours.

Units are those of the SVG: on a page of its own width one is a CSS pixel. No figure is so wide that
its text could not be read on a phone, but for the matrix of many classes.
"""

from __future__ import annotations

import io
import math
import re
from collections.abc import Callable, Iterator, Sequence
from statistics import fmean
from typing import TYPE_CHECKING, NamedTuple

from pipeline.console import printable
from pipeline.report.facts import Data, Facts, Promotion, Run, Training

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from matplotlib.ticker import PercentFormatter

    from components.image_evaluator.figures import Figures, ModelFigures

# Colours by the CSS property that stands in for them on a page. Blue and orange are told apart
# by every kind of eye, and each comes with a line or a marker of its own.
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

_WIDTH, _HEIGHT = 360.0, 220.0
_LABELLED = 40  # classes: of more no name would be readable
_COUNTED = 16  # classes: of more no number would be
_DRAWN = 640  # classes: of more a cell or a bar would be less than a pixel
_FLAT = 20  # times the least value: on a linear axis that could not be told from none
_LONGEST = 18  # characters of a class name
NOTHING = "\N{EN DASH}"  # in the place of a figure that there is not

_STYLE = {
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
    """A drawn figure: `name` of its files, a title, what it shows in words, and its width."""

    name: str
    title: str
    text: str
    svg: str
    png: bytes
    width: float

    @property
    def inline(self) -> str:
        """The SVG element for a page, whose stylesheet colours it."""
        svg = self.svg[self.svg.index("<svg") :]
        # Its own size would not shrink with the page.
        svg = re.sub(r'(<svg[^>]*?) width="[^"]*"', r"\1", svg, count=1)
        svg = re.sub(r'(<svg[^>]*?) height="[^"]*"', r"\1", svg, count=1)
        # Ids of groups are the same in every figure and nothing refers to them.
        svg = re.sub(r'<g id="[^"]*"', "<g", svg)
        svg = re.sub(r'(id="|href="#|url\(#)', rf"\g<1>{self.name}-", svg)
        svg = re.sub(r"font: [^;\"]*?([\d.]+px)[^;\"]*", r"font-size: \1", svg)
        for color, name in _PROPERTIES.items():
            svg = svg.replace(color, f"var({name})")
        return svg


def draw(facts: Facts) -> list[Plot]:
    """All figures that the facts of a run have data for."""
    import matplotlib as mpl

    with mpl.rc_context(_STYLE):
        return list(_draw(facts))


def draw_history(runs: Sequence[Run], promotions: Sequence[Promotion]) -> Plot:
    """The accuracy of every candidate, and of the baseline it was held against.

    runs: oldest first. promotions: drawn between those runs that were started before and after.
    """
    import matplotlib as mpl

    with mpl.rc_context(_STYLE):
        return _finished("history", *_history(runs, promotions))


def _draw(facts: Facts) -> Iterator[Plot]:
    if facts.data:
        yield _finished("classes", *_classes(facts.data))
    if facts.training:
        for name, curves in _CURVES.items():
            yield _finished(name, *curves(facts.training))
    if facts.evaluation:
        if len(facts.evaluation.candidate.classes) <= _DRAWN:
            yield _finished("confusion", *_confusion(facts.evaluation))
        yield _finished("reliability", *_reliability(facts.evaluation))
        if len(facts.evaluation.candidate.per_class) <= _LABELLED:
            yield _finished("recall", *_recall(facts.evaluation))


_Drawn = tuple[str, str, "Figure"]


def _figure(width: float = _WIDTH, height: float = _HEIGHT) -> tuple[Figure, Axes]:
    # Not pyplot: it keeps what it makes, and thinks of windows.
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width / 72, height / 72), layout="constrained")
    return figure, figure.add_subplot()


def _finished(name: str, title: str, text: str, figure: Figure) -> Plot:
    svg, png = io.StringIO(), io.BytesIO()
    figure.savefig(svg, format="svg", metadata=_NO_METADATA)
    figure.savefig(png, format="png", dpi=144)
    width = float(figure.get_size_inches()[0] * 72)
    return Plot(name, title, text, svg.getvalue(), png.getvalue(), width)


def shortened(name: str) -> str:
    """A class name as it fits into a figure."""
    shown = printable(name)
    return shown if len(shown) <= _LONGEST else f"{shown[: _LONGEST - 1]}…"


def _classes(data: Data) -> _Drawn:
    order = sorted(data.classes, key=lambda name: -_total(data, name))
    shown = len(order) <= _LABELLED
    figure, axes = _figure(height=max(120.0, 60 + 15 * len(order)) if shown else _HEIGHT)
    several = math.ceil(len(order) / _DRAWN)
    bars = [order[first : first + several] for first in range(0, len(order), several)]
    places = range(0, len(order), several)
    start = [0.0] * len(bars)
    for split, color in zip(data.splits, (FIRST, SECOND, MUTED), strict=False):
        counts = [fmean(data.splits[split].get(name, 0) for name in bar) for bar in bars]
        if shown:
            axes.barh(places, counts, 0.7, start, color=color, label=split)
        else:
            axes.bar(places, counts, several, start, color=color, label=split)
        start = [low + count for low, count in zip(start, counts, strict=True)]
    if shown:
        axes.set_yticks(range(len(order)), [shortened(name) for name in order])
        axes.invert_yaxis()
        axes.set_xlabel("images")
        axes.grid(axis="y", visible=False)
    else:
        means = f", means of {several}" if several > 1 else ""
        axes.set_xlabel(f"{len(order):,} classes, largest first{means}")
        axes.set_ylabel("images")
        axes.grid(axis="x", visible=False)
    _legend(axes)
    most, least = order[0], order[-1]
    text = (
        f"Images of each class by split: from {_total(data, most):,} of {most} "
        f"to {_total(data, least):,} of {least}."
    )
    return "Class balance", text, figure


def _total(data: Data, name: str) -> int:
    return sum(counts.get(name, 0) for counts in data.splits.values())


def _legend(axes: Axes) -> None:
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


def _pair_of_curves(training: Training, key: str, title: str) -> _Drawn:
    figure, axes = _figure()
    epochs = [row["epoch"] for row in training.epochs]
    for name, prefix, color, style in (
        ("training", "", FIRST, "--"),
        ("evaluation", "val_", SECOND, "-"),
    ):
        values = [row[prefix + key] for row in training.epochs]
        axes.plot(epochs, values, style, color=color, label=name, **_marker(epochs))
    if key == "accuracy":
        axes.yaxis.set_major_formatter(_percents())
    best = training.epochs[training.best_epoch - 1]
    axes.plot(best["epoch"], best[f"val_{key}"], "o", color=SECOND, markersize=6)
    _epochs(axes, training)
    _legend(axes)
    text = (
        f"{title} by epoch; at the best epoch, {training.best_epoch}: {best[key]:.4g} in training, "
        f"{best[f'val_{key}']:.4g} on the evaluation split."
    )
    return title, text, figure


def _accuracy(training: Training) -> _Drawn:
    return _pair_of_curves(training, "accuracy", "Accuracy")


def _loss(training: Training) -> _Drawn:
    return _pair_of_curves(training, "loss", "Loss")


def _learning_rate(training: Training) -> _Drawn:
    rates = [row["learning_rate"] for row in training.epochs]
    text = f"Learning rate at the end of each epoch: from {rates[0]:.3g} to {rates[-1]:.3g}."
    return "Learning rate", text, _one_curve(training, rates)


def _throughput(training: Training) -> _Drawn:
    speeds = [row["images_per_s"] for row in training.epochs]
    text = f"Training images a second: {speeds[-1]:,.0f} in the last epoch."
    return "Training images per second", text, _one_curve(training, speeds)


def _one_curve(training: Training, values: Sequence[float]) -> Figure:
    figure, axes = _figure(height=150)
    epochs = [row["epoch"] for row in training.epochs]
    axes.plot(epochs, values, color=FIRST, **_marker(epochs))
    positive = [value for value in values if value > 0]
    if len(positive) == len(values) and max(values) > _FLAT * min(values):
        _logarithmic(axes, values)
    else:
        axes.set_ylim(0, 1.25 * max(values) or 1)
    _epochs(axes, training)
    return figure


def _logarithmic(axes: Axes, values: Sequence[float]) -> None:
    """Show what lies orders of magnitude apart, such as epochs with and without frozen features."""
    from matplotlib.ticker import LogLocator, NullLocator

    axes.set_yscale("log")
    axes.set_ylim(min(values) / 2, max(values) * 2)
    axes.yaxis.set_major_locator(LogLocator(numticks=5))
    axes.yaxis.set_minor_locator(NullLocator())
    axes.yaxis.set_major_formatter(lambda value, _: f"{value:,.6g}")


def _percents() -> PercentFormatter:
    """Shares as percentages, with the digits that the range of the axis takes."""
    from matplotlib.ticker import PercentFormatter

    return PercentFormatter(1.0)


def _marker(epochs: Sequence[float]) -> dict[str, object]:
    # A line through one point is nothing.
    return {"marker": "o", "markersize": 3.5} if len(epochs) <= 5 else {}


def _epochs(axes: Axes, training: Training) -> None:
    from matplotlib.ticker import MaxNLocator

    axes.xaxis.set_major_locator(MaxNLocator(6, integer=True))
    axes.set_xlim(0.5, len(training.epochs) + 0.5)
    axes.set_xlabel("epoch")
    for start in training.phase_starts[1:]:
        axes.axvline(start - 0.5, color=INK, linewidth=1, linestyle=":")
        axes.annotate(
            "fine-tuning",
            (start - 0.5, 1),
            xycoords=("data", "axes fraction"),
            xytext=(3, -1),
            textcoords="offset points",
            va="top",
            fontsize=10,
            color=INK,
        )


_CURVES: dict[str, Callable[[Training], _Drawn]] = {
    "accuracy": _accuracy,
    "loss": _loss,
    "learning_rate": _learning_rate,
    "throughput": _throughput,
}


def _confusion(evaluation: Figures) -> _Drawn:
    import numpy as np
    from matplotlib.colors import to_rgb

    names = evaluation.candidate.classes
    counts = evaluation.candidate.confusion_matrix()
    shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    few = len(names) <= _LABELLED
    side = min(640.0, 110 + (26 * len(names) if len(names) <= _COUNTED else 15 * len(names)))
    figure, axes = _figure(max(side, _WIDTH), max(side, 240.0))
    # Transparent where nothing is, so that it shows on any background.
    cells = np.zeros((*counts.shape, 4))
    cells[..., :3] = to_rgb(FIRST)
    cells[..., 3] = np.where(counts > 0, 0.12 + 0.88 * shares, 0)
    axes.imshow(cells, interpolation="nearest")
    axes.set_xlabel("predicted")
    axes.set_ylabel("true")
    axes.grid(visible=False)
    ticks = range(len(names)) if few else []
    shown = [shortened(name) for name in names]
    axes.set_yticks(ticks, shown if few else [])
    flat = max(map(len, shown)) <= 2
    axes.set_xticks(ticks, shown if few else [], rotation=0 if flat else 90)
    axes.spines[["left", "bottom", "right", "top"]].set_visible(True)
    if len(names) <= _COUNTED:
        for row, column in zip(*np.nonzero(counts), strict=True):
            color = "white" if shares[row, column] > 0.7 else INK
            axes.text(
                column, row, f"{counts[row, column]:.0f}", ha="center", va="center", color=color
            )
    right = int(counts.trace())
    text = (
        f"Confusion matrix of {len(names)} classes, one row for each true class, coloured by the "
        f"share of the row: {right:,} of {int(counts.sum()):,} images lie on the diagonal."
    )
    return "Confusion matrix", text, figure


def _reliability(evaluation: Figures) -> _Drawn:
    figure, axes = _figure(height=300)
    axes.plot([0, 1], [0, 1], color=MUTED, linewidth=1, linestyle=":")
    for name, model, color, marker in _models(evaluation):
        bins = [each for each in model.reliability if each.count]
        largest = max((each.count for each in bins), default=1)
        axes.plot(
            [each.confidence for each in bins],
            [each.accuracy for each in bins],
            color=color,
            linewidth=0.8,
            label=name,
        )
        axes.scatter(
            [each.confidence for each in bins],
            [each.accuracy for each in bins],
            [12 + 90 * each.count / largest for each in bins],
            color=color,
            marker=marker,
        )
    axes.set_xlim(-0.03, 1.04)
    axes.set_ylim(-0.03, 1.06)
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_formatter(_percents())
    axes.set_xlabel("confidence")
    axes.set_ylabel("accuracy")
    _legend(axes)
    ece = evaluation.candidate.metrics.get("ece")
    error = (
        "" if ece is None or ece.value is None else f"; expected calibration error {ece.value:.3f}"
    )
    text = (
        f"How often predictions of each confidence are right{error}. Points on the dotted line "
        "are exactly as sure as they should be; larger points stand for more images."
    )
    return "Reliability", text, figure


def _models(evaluation: Figures) -> Iterator[tuple[str, ModelFigures, str, str]]:
    if evaluation.baseline:
        yield "baseline", evaluation.baseline, SECOND, "s"
    yield "candidate", evaluation.candidate, FIRST, "o"


def _recall(evaluation: Figures) -> _Drawn:
    classes = sorted(
        evaluation.candidate.per_class,
        key=lambda each: -1 if each.recall.value is None else each.recall.value,
    )
    names = [each.name for each in classes]
    figure, axes = _figure(height=70 + 15 * len(names))
    for label, model, color, marker in _models(evaluation):
        known = {each.name: each.recall for each in model.per_class}
        shift = 0.0 if evaluation.baseline is None else (0.17 if label == "baseline" else -0.17)
        rows = [
            (row + shift, known[name])
            for row, name in enumerate(names)
            if name in known and known[name].value is not None
        ]
        for row, recall in rows:
            if recall.low is not None and recall.high is not None:
                axes.plot([recall.low, recall.high], [row, row], color=color, linewidth=1.2)
        axes.plot(
            [recall.value for _, recall in rows],
            [row for row, _ in rows],
            marker,
            color=color,
            markersize=5,
            label=label,
        )
    axes.set_yticks(range(len(names)), [shortened(name) for name in names])
    axes.set_ylim(len(names) - 0.4, -0.6)
    axes.set_xlim(right=1.02)
    axes.xaxis.set_major_formatter(_percents())
    axes.grid(axis="y", visible=False)
    axes.set_xlabel("recall")
    _legend(axes)
    worst = classes[0]
    text = (
        "Recall of each class with its 95% interval, worst first: "
        f"{worst.name} with {percent(worst.recall.value)}."
    )
    return "Recall by class", text, figure


def percent(value: float | None, digits: int = 1) -> str:
    """A share as text."""
    return NOTHING if value is None else f"{value:.{digits}%}"


def _history(runs: Sequence[Run], promotions: Sequence[Promotion]) -> _Drawn:
    known = [(run, run.accuracy) for run in runs if run.accuracy]
    figure, axes = _figure(720, 260)
    places = range(len(known))
    held = [
        (place, run.baseline_accuracy)
        for place, (run, _) in enumerate(known)
        if run.baseline_accuracy is not None
    ]
    axes.plot(
        [place for place, _ in held],
        [value for _, value in held],
        "s--",
        color=SECOND,
        markersize=4,
        linewidth=1,
        label="baseline on the same images",
    )
    for label, pushed, face in (("pushed", True, FIRST), ("not pushed", False, PAPER)):
        chosen = [(p, a) for p, (run, a) in enumerate(known) if bool(run.pushed) is pushed]
        for place, each in chosen:
            if each.low is not None and each.high is not None:
                axes.plot([place, place], [each.low, each.high], color=FIRST, linewidth=1.2)
        axes.plot(
            [place for place, _ in chosen],
            [each.value for _, each in chosen],
            "o",
            color=FIRST,
            markerfacecolor=face,
            label=f"candidate, {label}",
        )
    for place, (run, each) in enumerate(known):
        if run.version:
            axes.annotate(
                f"v{run.version}",
                (place, each.high or each.value or 0),
                xytext=(0, 4),
                textcoords="offset points",
                ha="center",
                fontsize=10,
            )
    _mark_promotions(axes, [run for run, _ in known], promotions)
    axes.set_xlim(-0.6, max(len(known) - 0.4, 0.6))
    every = max(1, len(known) // 8)
    ticks = list(places)[::-1][::every][::-1]
    axes.set_xticks(ticks, [known[place][0].started[5:16].replace("T", "\n") for place in ticks])
    axes.yaxis.set_major_formatter(_percents())
    axes.set_ylabel("accuracy")
    _legend(axes)
    last = f"; the latest is {percent(known[-1][1].value, 2)}" if known else ""
    text = f"Accuracy of {len(known)} candidates in the order of their runs{last}."
    return "Accuracy by run", text, figure


def _mark_promotions(axes: Axes, runs: Sequence[Run], promotions: Sequence[Promotion]) -> None:
    for promotion in promotions:
        between = sum(run.started <= promotion.at for run in runs) - 0.5
        axes.axvline(between, color=MUTED, linewidth=1, linestyle=":")
        axes.annotate(
            ", ".join(f"{label} v{version}" for label, version in promotion.labels.items()),
            (between, 0),
            xycoords=("data", "axes fraction"),
            xytext=(3, 4),
            textcoords="offset points",
            rotation=90,
            fontsize=10,
            color=MUTED,
        )
