"""HTML pages. The templates escape class and file names, which can be any text."""

from __future__ import annotations

import base64
import functools
import math
import shlex
from collections.abc import Collection, Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import jinja2
from markupsafe import Markup

from components.image_evaluator.figures import Estimate
from components.wording import counted
from pipeline.formatting import NOTHING, duration, percent
from pipeline.report.facts import Facts, Promotion, Run, State

if TYPE_CHECKING:
    from components.image_evaluator.figures import ClassFigures, Figures
    from pipeline.report.figure import Plot
    from pipeline.report.history import Row

MAX_CLASSES = 200
MAX_CONFUSIONS = 12
MAX_SLICES = 40

# Metrics in the order in which they are shown: name, title, as a share, the higher the better.
METRICS = {
    "accuracy": ("Accuracy", True, True),
    "top_5_accuracy": ("Top-5 accuracy", True, True),
    "balanced_accuracy": ("Balanced accuracy", True, True),
    "macro_precision": ("Macro precision", True, True),
    "macro_recall": ("Macro recall", True, True),
    "macro_f1": ("Macro F1", True, True),
    "macro_auc": ("Macro AUC", False, True),
    "log_loss": ("Log loss", False, False),
    "ece": ("Calibration error (ECE)", False, False),
}


def render(
    facts: Facts, plots: Sequence[Plot], tables: Iterable[str] = (), index: str | None = None
) -> str:
    """Render the self-contained page of a run.

    Args:
      facts: about the run.
      plots: of `plots.draw`; linked as files in figures/.
      tables: names of the CSV files in tables/ that are linked.
      index: link to the page of all runs, if any.
    """
    evaluation = facts.evaluation
    return template("run.html").render(
        facts=facts,
        run=facts.run,
        plots={plot.name: plot for plot in plots},
        headline=headline(facts),
        metrics=metric_rows(evaluation) if evaluation else [],
        weakest=_weakest(evaluation) if evaluation else None,
        confusions=confusions(evaluation)[:MAX_CONFUSIONS] if evaluation else [],
        worst_first=worst_first(evaluation)[:MAX_CLASSES] if evaluation else [],
        slices=_slices(evaluation) if evaluation else [],
        rerun=rerun(facts),
        weights=_weights(facts.run),
        tables=tables,
        index=index,
    )


def render_index(
    workspace: str,
    rows: Sequence[Row],
    shown: int,
    pages: Collection[str],
    promotions: Sequence[Promotion],
    plot: Plot | None,
) -> str:
    """Render the page of runs.

    Args:
      workspace: its folder.
      rows: of all runs, newest first.
      shown: number of the newest ones that are listed.
      pages: ids of those with a page of their own.
      promotions: those to show, newest first.
      plot: the accuracy of the runs that are listed.
    """
    return template("index.html").render(
        workspace=workspace, rows=rows, shown=shown, pages=pages, promotions=promotions, plot=plot
    )


def headline(facts: Facts) -> tuple[str, str]:
    """Summarize the outcome of a run, and the reason."""
    run, verdict = facts.run, facts.verdict
    failed = [check.reason for check in verdict.checks if not check.passed] if verdict else []
    match run.state:
        case State.PUSHED:
            passed = f"{counted(len(verdict.checks), 'check')} passed" if verdict else ""
            return f"Blessed and pushed as version {run.version}", passed
        case State.REJECTED:
            return "Not blessed, so not pushed", "; ".join(failed) or run.error or ""
        case State.FAILED:
            return "Failed", run.error or ""
        case State.INTERRUPTED:
            return "Interrupted", "run again to continue"
    return run.state.capitalize(), ""


def metric_rows(evaluation: Figures) -> list[dict[str, Any]]:
    """List the metrics, each with key, title, share, candidate, baseline, test and better.

    better: whether the candidate is better than the baseline; None if they are not comparable.
    """
    found = evaluation.candidate.metrics
    rows = []
    for key in [*(key for key in METRICS if key in found), *(found.keys() - METRICS.keys())]:
        title, share, higher = METRICS.get(key, (key.replace("_", " "), False, True))
        baseline = evaluation.baseline.metrics.get(key) if evaluation.baseline else None
        rows.append(
            {
                "key": key,
                "title": title,
                "share": share,
                "candidate": found[key],
                "baseline": baseline,
                "test": evaluation.test.metrics.get(key) if evaluation.test else None,
                "better": _better(found[key], baseline, higher),
            }
        )
    return rows


def _better(candidate: Estimate, baseline: Estimate | None, higher: bool) -> bool | None:
    if baseline is None or candidate.value is None or baseline.value is None:
        return None
    if math.isclose(candidate.value, baseline.value):
        return None
    return (candidate.value > baseline.value) is higher


def confusions(evaluation: Figures) -> list[tuple[str, str, int, float]]:
    """List true class, predicted class, images and their share of the true class; most first."""
    names = evaluation.candidate.classes
    of_class = evaluation.candidate.per_class
    found = [
        (names[true], names[predicted], count, count / of_class[true].support)
        for true, predicted, count in evaluation.candidate.confusion
        if predicted != true
    ]
    return sorted(found, key=lambda each: (-each[2], -each[3]))


def worst_first(evaluation: Figures) -> list[dict[str, Any]]:
    """Sort the classes by F1, with the baseline's figures for classes that it knows."""
    before = (
        {each.name: each for each in evaluation.baseline.per_class} if evaluation.baseline else {}
    )
    rows = [
        {"candidate": each, "baseline": before.get(each.name)}
        for each in evaluation.candidate.per_class
    ]
    return sorted(rows, key=lambda row: -1.0 if (f1 := row["candidate"].f1.value) is None else f1)


def _weakest(evaluation: Figures) -> ClassFigures | None:
    """Return the class of the lowest recall."""
    judged = [each for each in evaluation.candidate.per_class if each.recall.value is not None]
    return min(judged, key=lambda each: each.recall.value or 0.0, default=None)


def _slices(evaluation: Figures) -> list[dict[str, Any]]:
    before = (
        {(each.feature, each.value): each for each in evaluation.baseline.slices}
        if evaluation.baseline
        else {}
    )
    # One that holds all images repeats the accuracy.
    found = [
        each for each in evaluation.candidate.slices if each.support < evaluation.candidate.examples
    ]
    return [
        {"candidate": each, "baseline": before.get((each.feature, each.value))}
        for each in found[:MAX_SLICES]
    ]


def rerun(facts: Facts) -> list[str]:
    """List the commands that repeat a run, from the root of the checkout."""
    run = facts.run
    folder = Path(str(run.value("workspace", "workspace"))) / "runs" / run.run_id
    command = f".venv/bin/perennial run --config {shlex.quote(str(folder / 'config.toml'))}"
    if "{" in run.data.source and facts.data and facts.data.spans:
        # The latest spans may be others by now.
        first, last = min(facts.data.spans), max(facts.data.spans)
        command += f" --set data.first_span={first} --set data.last_span={last}"
    return [f"git checkout {run.code.commit}", command] if run.code.commit else [command]


def _weights(run: Run) -> Mapping[str, Any] | None:
    """Return source, sha256 and licence of the pretrained weights."""
    prefix = "train.hyperparameters.weights."
    found = {key.removeprefix(prefix): s.value for key, s in run.settings.items() if prefix in key}
    # Some recipes' weights are a name or a path, and not confirmed by a digest.
    plain = run.value("train.hyperparameters.weights")
    if isinstance(plain, str) and plain != "none":
        found = {"source": plain, "sha256": ""}
    return found if found.get("source") else None


def template(name: str) -> jinja2.Template:
    """Return a file of templates/, which escapes its values."""
    return _environment().get_template(name)


@functools.cache
def _environment() -> jinja2.Environment:
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent / "templates"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {
        "percent": percent,
        "figure": figure,
        "interval": interval,
        "accuracy": _accuracy,
        "duration": duration,
        "thousands": "{:,}".format,
        "counted": counted,
        "picture": _picture,
        "moment": _moment,
        "svg": lambda plot: Markup(plot.inline),  # matplotlib has escaped what it drew
    }
    return environment


def figure(value: float | None, share: bool = False) -> str:
    """Write a share as `98.91%`, and another value as `0.0136` or `12,345`."""
    if value is None:
        return NOTHING
    if share:
        return percent(value, 2)
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.4g}"


def interval(estimate: Estimate, share: bool = False) -> str:
    """Write an interval as `97.9 to 99.5%`; "" for none."""
    if estimate.low is None or estimate.high is None:
        return ""
    if share:
        return f"{100 * estimate.low:.1f} to {100 * estimate.high:.1f}%"
    return f"{estimate.low:.3g} to {estimate.high:.3g}"


def _accuracy(row: Row) -> Estimate:
    low, high = row["accuracy_low"], row["accuracy_high"]
    return Estimate(value=row["accuracy"], low=low, high=high)


def _picture(image: bytes) -> str:
    """Make a data URI."""
    kind = "png" if image.startswith(b"\x89PNG") else "jpeg"
    return f"data:image/{kind};base64,{base64.b64encode(image).decode()}"


def _moment(text: str) -> str:
    """Write a time as `2026-11-22 04:11 UTC`."""
    return f"{text[:16].replace('T', ' ')} UTC"
