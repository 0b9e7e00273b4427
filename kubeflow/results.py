"""What Kubeflow shows of a node: metrics, and a report where the node judges a model."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pipeline.local_runner import NodeResult
    from pipeline.verdict import Verdict

METRICS = "metrics"
_JUDGEMENT = ("evaluation", "blessing")


def write(result: NodeResult, executor_input: Mapping[str, Any], report: Path | None) -> None:
    """Write what `executor_input`, Kubeflow's own message, wants to have of the node.

    Args:
      result: what became of the node.
      executor_input: names the files.
      report: where the Markdown report goes, of a node that has one.
    """
    metrics: dict[str, float] = {
        "seconds": round(result.wall_s, 3),
        "cpu_seconds": round(result.cpu_s, 3),
        "peak_megabytes": round(result.peak_mb, 1),
        "cached": float(result.state == "cached"),
    }
    if report is not None and all(name in result.outputs for name in _JUDGEMENT):
        # Needs TensorFlow Model Analysis, as the node itself.
        from pipeline.verdict import read_verdict

        verdict = read_verdict(*(result.outputs[name][0] for name in _JUDGEMENT))
        metrics |= _figures(verdict)
        report.parent.mkdir(parents=True, exist_ok=True)
        report.write_text(markdown(verdict), encoding="utf-8")
    outputs = executor_input["outputs"]
    (artifact,) = outputs["artifacts"][METRICS]["artifacts"]
    described = {"name": artifact["name"], "uri": artifact["uri"], "metadata": metrics}
    file = Path(outputs["outputFile"])
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(
        json.dumps({"artifacts": {METRICS: {"artifacts": [described]}}}), encoding="utf-8"
    )


def _figures(verdict: Verdict) -> dict[str, float]:
    figures = {"accuracy": verdict.accuracy, "blessed": float(verdict.blessed)}
    if verdict.baseline_accuracy is not None:
        figures["baseline_accuracy"] = verdict.baseline_accuracy
    return figures


def markdown(verdict: Verdict) -> str:
    """The verdict as a page of Markdown."""
    lines = [
        f"# {'Blessed' if verdict.blessed else 'Not blessed'}",
        "",
        *(f"- {reason}" for reason in verdict.reasons),
        "",
        f"Accuracy {verdict.accuracy:.2%} of {verdict.examples:,} eval images; "
        + (
            "no other blessed model to compare with."
            if verdict.baseline_accuracy is None
            else f"{verdict.baseline_accuracy:.2%} of the latest blessed model."
        ),
        "",
        "| class | accuracy |",
        "| --- | ---: |",
        *(f"| {_cell(name)} | {value:.2%} |" for name, value in verdict.class_accuracy.items()),
    ]
    return "\n".join(lines) + "\n"


def _cell(text: str) -> str:
    return text.replace("\\", "\\\\").replace("|", "\\|").replace("<", "&lt;")
