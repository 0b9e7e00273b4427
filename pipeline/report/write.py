"""Writing of reports: pages, figures, JSON and CSV.

runs/index.html, history.svg, history.png, runs.json, runs.csv
runs/<run>/report.html, report.json, figures/*.svg, figures/*.png, tables/*.csv
"""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from components import storage
from pipeline.errors import ConfigError
from pipeline.noise import redirect_output
from pipeline.report import history, page, plots
from pipeline.report.collect import artifacts_of, collect
from pipeline.report.facts import Facts, Run
from pipeline.workspace import Workspace

if TYPE_CHECKING:
    from components.image_evaluator.figures import Estimate, Figures

PAGE = "report.html"
INDEX = "index.html"
INDEXED = 200  # runs and promotions on the page
LABELS = "labels"  # table of images that are probably mislabelled


def rewrite(workspace: Path, name: str, output: Path | None = None) -> list[Path]:
    """Rewrite the report of a run, in `output` or its own folder; return the pages.

    name: as for `history.find`. Raises ConfigError.
    """
    place = Workspace.open(workspace)
    run = history.find(place, name)
    try:
        with redirect_output(place.log_path(run.run_id)):
            if output is None:
                return [report(place, run), place.runs / INDEX]
            return [write_report(collect(run, artifacts_of(place, run.run_id)), output)]
    except OSError as error:
        raise ConfigError(f"{error.filename}: cannot be written: {error.strerror}") from None


def report(workspace: Workspace, run: Run) -> Path:
    """Write a run's page into its folder, and the index. Returns the page."""
    folder = workspace.run_dir(run.run_id)
    facts = collect(run, artifacts_of(workspace, run.run_id))
    path = write_report(facts, folder, index=f"../{INDEX}")
    write_index(workspace)
    return path


def write_report(facts: Facts, folder: Path, index: str | None = None) -> Path:
    """Write the page and its figures and tables, each file atomically. Returns the page.

    index: link to the page of all runs, if there is one. Raises OSError.
    """
    drawn = plots.draw(facts)
    for plot in drawn:
        write_file(folder / "figures" / f"{plot.name}.svg", plot.svg)
        write_file(folder / "figures" / f"{plot.name}.png", plot.png)
    tables = dict(_tables(facts))
    for name, rows in tables.items():
        write_file(folder / "tables" / f"{name}.csv", _csv(rows))
    write_file(folder / history.FACTS, facts.model_dump_json(indent=1) + "\n")
    # Last: what it links to is there.
    path = folder / PAGE
    write_file(path, page.render(facts, drawn, tables, index))
    return path


def write_index(workspace: Workspace) -> Path:
    """Write the page of the newest runs, and the tables of all. Raises OSError."""
    rows = history.rows(workspace)
    shown = rows[:INDEXED]
    promotions = history.promotions(workspace)[:INDEXED]
    plot = None
    if any(row["accuracy"] is not None for row in shown):
        plot = plots.draw_history(shown[::-1], promotions)
        write_file(workspace.runs / f"{plot.name}.svg", plot.svg)
        write_file(workspace.runs / f"{plot.name}.png", plot.png)
    write_file(workspace.runs / history.TABLE, json.dumps(rows, indent=1) + "\n")
    write_file(workspace.runs / "runs.csv", _csv(rows))
    path = workspace.runs / INDEX
    pages = {row["run"] for row in shown if (workspace.run_dir(row["run"]) / PAGE).exists()}
    root = str(workspace.root)
    write_file(path, page.render_index(root, rows, INDEXED, pages, promotions, plot))
    return path


def write_file(path: Path, content: str | bytes) -> None:
    """Replace a file atomically."""
    encoded = content if isinstance(content, bytes) else content.encode()
    storage.write_bytes(str(path), encoded, durable=False)


_Row = Mapping[str, Any]


def _tables(facts: Facts) -> Iterator[tuple[str, list[_Row]]]:
    if facts.data:
        splits = facts.data.splits
        yield (
            "data",
            [
                {"class": name, **{split: splits[split].get(name, 0) for split in splits}}
                for name in facts.data.classes
            ],
        )
    if facts.training:
        yield "epochs", list(facts.training.epochs)
    if facts.evaluation:
        yield from _evaluation_tables(facts.evaluation)
    judged = [each.suspects for each in (facts.predictions, facts.test_predictions) if each]
    if suspects := [each for found in (*judged, facts.suspects) for each in found]:
        # The columns that `perennial feedback` takes, and what to judge them by.
        yield (
            LABELS,
            [
                {
                    "image": each.image,
                    "label": each.label,
                    "given": each.given,
                    "probability": each.probability[0],
                    "probability_of_given": each.probability[1],
                }
                for each in suspects
            ],
        )


def _evaluation_tables(evaluation: Figures) -> Iterator[tuple[str, list[_Row]]]:
    models = [
        (name, model)
        for name, model in (
            ("candidate", evaluation.candidate),
            ("baseline", evaluation.baseline),
            ("test", evaluation.test),
        )
        if model
    ]
    yield (
        "metrics",
        [
            {"model": name, "metric": metric, **_estimate("value", value)}
            for name, model in models
            for metric, value in model.metrics.items()
        ],
    )
    yield (
        "classes",
        [
            {
                "model": name,
                "class": each.name,
                "support": each.support,
                "predicted": each.predicted,
                **_estimate("precision", each.precision),
                **_estimate("recall", each.recall),
                **_estimate("f1", each.f1),
                "auc": each.auc,
            }
            for name, model in models
            for each in model.per_class
        ],
    )
    yield (
        "confusion",
        [
            {
                "model": name,
                "true": model.classes[true],
                "predicted": model.classes[predicted],
                "images": count,
            }
            for name, model in models
            for true, predicted, count in model.confusion
        ],
    )
    for title in ("reliability", "slices"):
        yield (
            title,
            [
                {"model": name, **_flat(each.model_dump())}
                for name, model in models
                for each in getattr(model, title)
            ],
        )


def _flat(row: _Row) -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in row.items():
        if isinstance(value, dict):
            flat |= {key if name == "value" else f"{key}_{name}": v for name, v in value.items()}
        else:
            flat[key] = value
    return flat


def _estimate(name: str, estimate: Estimate | None) -> dict[str, float | None]:
    value, low, high = (
        (estimate.value, estimate.low, estimate.high) if estimate else (None, None, None)
    )
    return {name: value, f"{name}_low": low, f"{name}_high": high}


def _csv(rows: Iterable[_Row]) -> str:
    rows = list(rows)
    buffer = io.StringIO()
    writer = csv.DictWriter(buffer, list(rows[0]) if rows else [], lineterminator="\n")
    writer.writerow({key: _cell(key) for key in writer.fieldnames})
    writer.writerows({key: _cell(value) for key, value in row.items()} for row in rows)
    return buffer.getvalue()


def _cell(value: Any) -> Any:
    """Quote text that a spreadsheet would evaluate as a formula."""
    is_formula = isinstance(value, str) and value.startswith(("=", "+", "-", "@", "\t", "\r"))
    return f"'{value}" if is_formula else value
