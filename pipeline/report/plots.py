"""The figures of the pages. All but large confusion matrices are readable on a phone."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Iterator, Sequence
from statistics import fmean

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, MaxNLocator, NullLocator, PercentFormatter

from components.image_evaluator.figures import Figures, ModelFigures
from components.wording import counted
from pipeline.formatting import percent
from pipeline.report import figure as styled
from pipeline.report.facts import Data, Facts, Promotion
from pipeline.report.figure import (
    FIRST,
    HEIGHT,
    INK,
    MUTED,
    PAPER,
    SECOND,
    WIDTH,
    Drawn,
    Plot,
    drawn,
    legend,
    shortened,
)
from pipeline.report.history import Row
from trainer_module.history import History

_LABELLED = 40  # classes: of more no name would be readable
_COUNTED = 16  # classes: of more no number would be
_DRAWN = 640  # classes: of more a cell or a bar would be less than a pixel
_VERSIONS = 40  # labels of versions that fit beside each other
_FLAT = 20  # times the least value: on a linear axis it would look like zero


def draw(facts: Facts) -> list[Plot]:
    """Draw all figures for which the run has data."""
    return [drawn(name, make) for name, make in _figures(facts)]


def draw_history(runs: Sequence[Row], promotions: Sequence[Promotion]) -> Plot:
    """Draw the accuracy of each candidate and of its baseline.

    runs: oldest first. promotions: drawn between the runs by time.
    """
    return drawn("history", functools.partial(_history, runs, promotions))


def _figures(facts: Facts) -> Iterator[tuple[str, Callable[[], Drawn]]]:
    if facts.data:
        yield "classes", functools.partial(_classes, facts.data)
    if facts.training:
        for name, curves in _CURVES.items():
            yield name, functools.partial(curves, facts.training)
    if evaluation := facts.evaluation:
        if len(evaluation.candidate.classes) <= _DRAWN:
            yield "confusion", functools.partial(_confusion, evaluation)
        yield "reliability", functools.partial(_reliability, evaluation)
        if len(evaluation.candidate.per_class) <= _LABELLED:
            yield "recall", functools.partial(_recall, evaluation)


def _classes(data: Data) -> Drawn:
    order = sorted(data.classes, key=lambda name: -_total(data, name))
    shown = len(order) <= _LABELLED
    figure, axes = styled.new_figure(height=max(120.0, 60 + 15 * len(order)) if shown else HEIGHT)
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
    legend(axes)
    most, least = order[0], order[-1]
    text = (
        f"Images of each class by split: from {_total(data, most):,} of {most} "
        f"to {_total(data, least):,} of {least}."
    )
    return "Class balance", text, figure


def _total(data: Data, name: str) -> int:
    return sum(counts.get(name, 0) for counts in data.splits.values())


def _pair_of_curves(training: History, key: str, title: str) -> Drawn:
    figure, axes = styled.new_figure()
    epochs = [row["epoch"] for row in training.epochs]
    for name, prefix, color, style in (
        ("training", "", FIRST, "--"),
        ("evaluation", "val_", SECOND, "-"),
    ):
        values = [row[prefix + key] for row in training.epochs]
        axes.plot(epochs, values, style, color=color, label=name, **_marker(epochs))
    if key == "accuracy":
        axes.yaxis.set_major_formatter(PercentFormatter(1.0))
    best = training.epochs[training.best_epoch - 1]
    axes.plot(best["epoch"], best[f"val_{key}"], "o", color=SECOND, markersize=6)
    _epochs(axes, training)
    legend(axes)
    text = (
        f"{title} by epoch; at the best epoch, {training.best_epoch}: {best[key]:.4g} in training, "
        f"{best[f'val_{key}']:.4g} on the evaluation split."
    )
    return title, text, figure


def _accuracy(training: History) -> Drawn:
    return _pair_of_curves(training, "accuracy", "Accuracy")


def _loss(training: History) -> Drawn:
    return _pair_of_curves(training, "loss", "Loss")


def _learning_rate(training: History) -> Drawn:
    rates = [row["learning_rate"] for row in training.epochs]
    text = f"Learning rate at the end of each epoch: from {rates[0]:.3g} to {rates[-1]:.3g}."
    return "Learning rate", text, _one_curve(training, rates)


def _throughput(training: History) -> Drawn:
    speeds = [row["images_per_s"] for row in training.epochs]
    text = f"Training images a second: {speeds[-1]:,.0f} in the last epoch."
    return "Training images per second", text, _one_curve(training, speeds)


def _one_curve(training: History, values: Sequence[float]) -> Figure:
    figure, axes = styled.new_figure(height=150)
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
    """Use a logarithmic axis for values of different magnitude, such as with frozen features."""
    axes.set_yscale("log")
    axes.set_ylim(min(values) / 2, max(values) * 2)
    axes.yaxis.set_major_locator(LogLocator(numticks=5))
    axes.yaxis.set_minor_locator(NullLocator())
    axes.yaxis.set_major_formatter(lambda value, _: f"{value:,.6g}")


def _marker(epochs: Sequence[float]) -> dict[str, object]:
    # A line through one point is nothing.
    return {"marker": "o", "markersize": 3.5} if len(epochs) <= 5 else {}


def _epochs(axes: Axes, training: History) -> None:
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


_CURVES: dict[str, Callable[[History], Drawn]] = {
    "accuracy": _accuracy,
    "loss": _loss,
    "learning_rate": _learning_rate,
    "throughput": _throughput,
}


def _confusion(evaluation: Figures) -> Drawn:
    names = evaluation.candidate.classes
    counts = evaluation.candidate.confusion_matrix()
    shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    few = len(names) <= _LABELLED
    side = min(640.0, 110 + (26 * len(names) if len(names) <= _COUNTED else 15 * len(names)))
    figure, axes = styled.new_figure(max(side, WIDTH), max(side, 240.0))
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


def _reliability(evaluation: Figures) -> Drawn:
    figure, axes = styled.new_figure(height=300)
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
        axis.set_major_formatter(PercentFormatter(1.0))
    axes.set_xlabel("confidence")
    axes.set_ylabel("accuracy")
    legend(axes)
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


def _recall(evaluation: Figures) -> Drawn:
    classes = sorted(
        evaluation.candidate.per_class,
        key=lambda each: -1 if each.recall.value is None else each.recall.value,
    )
    names = [each.name for each in classes]
    figure, axes = styled.new_figure(height=70 + 15 * len(names))
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
    axes.xaxis.set_major_formatter(PercentFormatter(1.0))
    axes.grid(axis="y", visible=False)
    axes.set_xlabel("recall")
    legend(axes)
    worst = classes[0]
    text = (
        "Recall of each class with its 95% interval, worst first: "
        f"{worst.name} with {percent(worst.recall.value)}."
    )
    return "Recall by class", text, figure


def _history(runs: Sequence[Row], promotions: Sequence[Promotion]) -> Drawn:
    known = [run for run in runs if run["accuracy"] is not None]
    figure, axes = styled.new_figure(720, 260)
    places = range(len(known))
    held = [place for place in places if known[place]["baseline_accuracy"] is not None]
    axes.plot(
        held,
        [known[place]["baseline_accuracy"] for place in held],
        "s--",
        color=SECOND,
        markersize=4,
        linewidth=1,
        label="baseline on the same images",
    )
    bounded = [place for place in places if known[place]["accuracy_low"] is not None]
    axes.vlines(
        bounded,
        [known[place]["accuracy_low"] for place in bounded],
        [known[place]["accuracy_high"] for place in bounded],
        color=FIRST,
        linewidth=1.2,
    )
    for label, pushed, face in (("pushed", True, FIRST), ("not pushed", False, PAPER)):
        chosen = [place for place in places if bool(known[place]["pushed"]) is pushed]
        axes.plot(
            chosen,
            [known[place]["accuracy"] for place in chosen],
            "o",
            color=FIRST,
            markerfacecolor=face,
            label=f"candidate, {label}",
        )
    free = 0.0  # from where on a label is not written over the one before
    for place, run in enumerate(known):
        if run["version"] and place >= free:
            free = place + len(known) / _VERSIONS
            axes.annotate(
                f"v{run['version']}",
                (place, run["accuracy_high"] or run["accuracy"] or 0),
                xytext=(0, 4),
                textcoords="offset points",
                ha="center",
                fontsize=10,
            )
    _mark_promotions(axes, known, promotions)
    axes.set_xlim(-0.6, max(len(known) - 0.4, 0.6))
    every = max(1, len(known) // 8)
    ticks = list(places)[::-1][::every][::-1]
    axes.set_xticks(ticks, [known[place]["started"][5:16].replace("T", "\n") for place in ticks])
    axes.yaxis.set_major_formatter(PercentFormatter(1.0))
    axes.set_ylabel("accuracy")
    legend(axes)
    last = f"; the latest is {percent(known[-1]['accuracy'], 2)}" if known else ""
    text = f"Accuracy of {counted(len(known), 'candidate')} in the order of their runs{last}."
    return "Accuracy by run", text, figure


def _mark_promotions(axes: Axes, runs: Sequence[Row], promotions: Sequence[Promotion]) -> None:
    for promotion in promotions:
        between = sum(run["started"] <= promotion.at for run in runs) - 0.5
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
