"""Results of a pod for Kubeflow: metrics of each node and, after evaluation or push, a report."""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from components import progress
from components.image_evaluator.figures import summarize

if TYPE_CHECKING:
    from pipeline.local_runner import NodeResult

REPORT = "report"
RETRAIN = "retrain"  # the decision to retrain; any other text means that there is nothing to do
# Outputs of a node after which there is something to report.
_EVALUATION, _BLESSING, _PUSHED = "evaluation", "blessing", "pushed_model"


def words(node: str) -> list[str]:
    """Split a node's id into lower-case words: image, example, gen."""
    return re.sub(r"(?<=[a-z0-9])(?=[A-Z])|[^A-Za-z0-9]+", " ", node).lower().split()


def metrics_of(node: str) -> str:
    """Return the output name of a node's metrics, such as image_example_gen_metrics."""
    return "_".join([*words(node), "metrics"])


def write(
    executor_input: Mapping[str, Any],
    results: Sequence[NodeResult],
    report: str | None,
    earlier: Collection[str],
) -> None:
    """Write the metrics of the nodes to Kubeflow's output file, and report the outcome.

    Args:
      executor_input: Kubeflow's message with the paths of outputs.
      results: results of the nodes.
      report: the report page, if the pod has one.
      earlier: nodes that an earlier attempt has run, whose resource usage is unknown.
    """
    outputs = executor_input["outputs"]
    written = {}
    for result in results:
        name = metrics_of(result.node)
        metrics = _figures(result) if result.node in earlier else _usage(result) | _figures(result)
        written[name] = _artifact(outputs, name) | {"metadata": metrics}
    if report is not None:
        written[REPORT] = _artifact(outputs, REPORT)
    artifacts = {name: {"artifacts": [artifact]} for name, artifact in written.items()}
    write_file(Path(outputs["outputFile"]), json.dumps({"artifacts": artifacts}))
    outcome = {name: value for result in results for name, value in _outcome(result).items()}
    if outcome:
        page = {REPORT: written[REPORT]["uri"]} if report is not None else {}
        progress.report("outcome", **outcome, **page)


def _outcome(result: NodeResult) -> dict[str, Any]:
    """Return the outcome of a node for `submit --wait`."""
    figures = _figures(result)
    known = ("accuracy", "baseline_accuracy", "blessed")
    found: dict[str, Any] = {name: figures[name] for name in known if name in figures}
    return found | ({"pushed": pushed(result)} if pushes(result) else {})


def write_file(path: Path, text: str) -> None:
    """Write a file, and create its folder."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")


def _artifact(outputs: Mapping[str, Any], name: str) -> dict[str, Any]:
    (artifact,) = outputs["artifacts"][name]["artifacts"]
    return {key: artifact[key] for key in ("name", "uri")}


def _usage(result: NodeResult) -> dict[str, float]:
    return {
        "seconds": round(result.wall_s, 3),
        "cpu_seconds": round(result.cpu_s, 3),
        "peak_megabytes": round(result.peak_mb, 1),
    }


def _figures(result: NodeResult) -> dict[str, float]:
    metrics = {"cached": float(result.state == "cached")}
    if _EVALUATION in result.outputs:
        verdict = summarize(result.outputs[_EVALUATION][0].uri, result.outputs[_BLESSING][0].uri)
        metrics |= {"accuracy": verdict.accuracy, "blessed": float(verdict.blessed)}
        if verdict.baseline_accuracy is not None:
            metrics["baseline_accuracy"] = verdict.baseline_accuracy
    if pushes(result):
        metrics["pushed"] = float(pushed(result) is not None)
    return metrics


def pushes(result: NodeResult) -> bool:
    """Return whether a node pushes models."""
    return _PUSHED in result.outputs


def pushed(result: NodeResult) -> str | None:
    """Return the folder of the version that a node pushed; None if it pushed nothing."""
    (model,) = result.outputs[_PUSHED]
    return model.get_string_custom_property("pushed_destination") or None
