"""Reports of runs as text for terminals and pipes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from components.image_evaluator.figures import Estimate, Verdict
from components.wording import counted
from pipeline.commands import tables
from pipeline.commands.tables import table
from pipeline.formatting import percent, printable
from pipeline.report import history, page
from pipeline.report.facts import Facts
from pipeline.workspace import Workspace

MAX_ROWS = 10  # of confusions, weakest classes and mistakes


def read(workspace: Path, name: str) -> Facts:
    """Read the facts about a run, named as for `history.find`. Raises ConfigError."""
    place = Workspace.open(workspace)
    return history.read_facts(place, history.find(place, name))


def print_runs(workspace: Path, as_json: bool) -> None:
    """Print a line for each run, newest first."""
    found = history.rows(Workspace.open(workspace))
    if as_json:
        for row in found:
            print(json.dumps(row))
        return
    if not found:
        print(f"{workspace} has no runs; name another --workspace")
    table(
        ("run", "state", "accuracy", "baseline", "recipe", "data", "time"),
        [
            (
                row["run"],
                f"{row['state']} v{row['version']}" if row["version"] else row["state"],
                tables.percent(row["accuracy"]),
                tables.percent(row["baseline_accuracy"]),
                row["recipe"],
                row["data"],
                "" if row["wall_s"] is None else f"{row['wall_s']:.0f} s",
            )
            for row in found
        ],
    )


def print_differences(first: Facts, second: Facts, as_json: bool) -> None:
    """Print the metrics, classes, data and settings in which two runs differ."""
    found = differences(first, second)
    if as_json:
        print(json.dumps(found, indent=2))
        return
    names = (first.run.run_id, second.run.run_id)
    _say(f"{names[0]} ({first.run.state}) and {names[1]} ({second.run.state})")
    for title, rows in found.items():
        heading = ("", *names, "change") if title in ("metrics", "classes") else ("", *names)
        cells = [
            [row["name"], *(_text(value) for key, value in row.items() if key != "name")]
            for row in rows
        ]
        table(heading, cells, title)
    if not any(found.values()):
        _say("no differences")


def differences(first: Facts, second: Facts) -> dict[str, list[dict[str, Any]]]:
    """Find the differences of two runs: metrics, classes (by recall), data and settings.

    Each row has a name, the values `a` and `b`, and for numbers the change from a to b.
    """
    metrics, classes = [], []
    if first.evaluation and second.evaluation:
        one, other = first.evaluation.candidate, second.evaluation.candidate
        metrics = [
            _row(name, one.metrics[name].value, other.metrics[name].value)
            for name in one.metrics
            if name in other.metrics
        ]
        known = {each.name: each.recall.value for each in other.per_class}
        changed = [
            _row(each.name, each.recall.value, known[each.name])
            for each in one.per_class
            if each.name in known and known[each.name] != each.recall.value
        ]
        classes = sorted(changed, key=lambda row: -abs(row["change"] or 0))
    counts = [_counts(facts) for facts in (first, second)]
    settings = [{k: s.value for k, s in facts.run.settings.items()} for facts in (first, second)]
    return {
        "metrics": metrics,
        "classes": classes,
        "data": _different(*counts),
        "settings": _different(*settings),
    }


def _counts(facts: Facts) -> dict[str, Any]:
    found: dict[str, Any] = {"source": facts.run.data.source}
    if facts.data:
        found |= {f"{split} images": facts.data.examples(split) for split in facts.data.splits}
        found["classes"] = len(facts.data.classes)
        found["duplicates"] = facts.data.duplicates
        found["quarantined"] = sum(facts.data.quarantined.values())
        found["spans"] = facts.data.span_names or facts.data.spans
    return found


def _different(one: dict[str, Any], other: dict[str, Any]) -> list[dict[str, Any]]:
    return [
        {"name": name, "a": one.get(name), "b": other.get(name)}
        for name in {**one, **other}
        if one.get(name) != other.get(name)
    ]


def _row(name: str, a: float | None, b: float | None) -> dict[str, Any]:
    change = None if a is None or b is None else b - a
    return {"name": name, "a": a, "b": b, "change": change}


def show(facts: Facts) -> None:
    """Print the report of a run."""
    run = facts.run
    what, why = page.headline(facts)
    _say(f"{run.run_id}: {what}{f': {why}' if why else ''}")
    table(("finding",), [(finding,) for finding in run.findings])
    if facts.verdict:
        _show_checks(facts.verdict)
    if facts.data:
        data = facts.data
        rows = [(split, counted(data.examples(split), "image")) for split in data.splits]
        if data.spans not in ([], [0]):
            rows.append(("spans", ", ".join(data.span_names or map(str, data.spans))))
        rows += [("classes", str(len(data.classes))), ("duplicates", f"{data.duplicates:,}")]
        rows += [("quarantined", f"{count:,} {kind}") for kind, count in data.quarantined.items()]
        rows += [("finding", f"{f.split}, {f.feature}: {f.text}") for f in data.anomalies or []]
        rows += [("finding", finding) for finding in data.findings]
        table(("data", run.data.source), rows)
    if facts.training:
        best = facts.training.epochs[facts.training.best_epoch - 1]
        rows = [
            ("best epoch", f"{facts.training.best_epoch} of {len(facts.training.epochs)}"),
            ("training", f"accuracy {percent(best['accuracy'])}, loss {best['loss']:.4g}"),
            (
                "evaluation",
                f"accuracy {percent(best['val_accuracy'])}, loss {best['val_loss']:.4g}",
            ),
            ("steps", f"{facts.training.steps:,} in {facts.training.seconds:.0f} s"),
        ]
        table(("training", f"recipe {run.recipe}"), rows)
    if facts.evaluation:
        _show_evaluation(facts)
    changed = [(k, _text(s.value), s.origin) for k, s in run.settings.items()]
    table(
        ("setting", "value", "set by"), [row for row in changed if row[2] != "default"], "settings"
    )
    _say("again: " + " && ".join(page.rerun(facts)))


def _show_checks(verdict: Verdict) -> None:
    """Print all checks that failed, and the first of those that passed."""
    checks = sorted(verdict.checks, key=lambda check: check.passed)
    failed = len(verdict.checks) - sum(check.passed for check in checks)
    shown = checks[: max(failed, MAX_ROWS)]
    table(
        ("check", "", "reason"),
        [(check.name, "passed" if check.passed else "FAILED", check.reason) for check in shown],
        "verdict",
    )
    if len(checks) > len(shown):
        _say(f"and {len(checks) - len(shown)} more that passed")


def _show_evaluation(facts: Facts) -> None:
    evaluation = facts.evaluation
    assert evaluation
    compared = ("baseline",) if evaluation.baseline else ()
    tested = ("test split",) if evaluation.test else ()
    table(
        ("metric", "candidate", "95% interval", *compared, *tested),
        [
            (
                row["title"],
                page.figure(row["candidate"].value, row["share"]),
                page.interval(row["candidate"], row["share"]),
                *(_optional(row["baseline"], row["share"]) for _ in compared),
                *(_optional(row["test"], row["share"]) for _ in tested),
            )
            for row in page.metric_rows(evaluation)
        ],
        "evaluation",
    )
    weakest = [row["candidate"] for row in page.worst_first(evaluation)]
    table(
        ("class", "images", "precision", "recall", "F1"),
        [
            (
                each.name,
                f"{each.support:,}",
                *(percent(value.value) for value in (each.precision, each.recall, each.f1)),
            )
            for each in weakest[:MAX_ROWS]
        ],
        f"weakest {min(len(weakest), MAX_ROWS)} of {counted(len(weakest), 'class')}",
    )
    table(
        ("true", "taken for", "images", "of the class"),
        [
            (label, predicted, f"{count:,}", percent(share))
            for label, predicted, count, share in page.confusions(evaluation)[:MAX_ROWS]
        ],
        "most frequent confusions",
    )
    for found, split in ((facts.predictions, ""), (facts.test_predictions, "test ")):
        if found:
            table(
                ("image", "is", "taken for", "confidence"),
                [
                    (each.filename, each.label, each.top[0][0], percent(each.top[0][1]))
                    for each in found.mistakes[:MAX_ROWS]
                ],
                f"most confident of {found.wrong:,} {split}mistakes",
            )


def _optional(estimate: Estimate | None, share: bool) -> str:
    return page.figure(estimate.value if estimate else None, share)


def _text(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.4g}"
    return "" if value is None else str(value)


def _say(text: str) -> None:
    print(printable(text))
