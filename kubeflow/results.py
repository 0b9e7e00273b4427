"""What Kubeflow shows of a pod: each node's metrics and, after a judgement or a push, a report."""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from components import progress

if TYPE_CHECKING:
    from pipeline.local_runner import NodeResult

_LOG = logging.getLogger("perennial.kubeflow")

REPORT = "report"
RETRAIN = "retrain"  # a decision; every other one is that there is nothing to do
# Outputs of a node after which there is something to report.
_EVALUATION, _BLESSING, _PUSHED = "evaluation", "blessing", "pushed_model"


def words(node: str) -> list[str]:
    """The words of a node's id, in lower case: image, example, gen."""
    return re.sub(r"(?<=[a-z0-9])(?=[A-Z])|[^A-Za-z0-9]+", " ", node).lower().split()


def metrics_of(node: str) -> str:
    """The name of a node's metrics among the outputs of its pod: image_example_gen_metrics."""
    return "_".join([*words(node), "metrics"])


def write(
    executor_input: Mapping[str, Any],
    results: Sequence[NodeResult],
    report: str | None,
    earlier: Collection[str],
) -> None:
    """Write what Kubeflow wants to have of a pod to the places that it names.

    Args:
      executor_input: Kubeflow's own message, which names them.
      results: what became of each node.
      report: a page, of a pod that has one.
      earlier: nodes that an earlier attempt has run: what they used is not known any more.
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
    """What whoever waits for the run is told of a node."""
    figures = _figures(result)
    known = ("accuracy", "baseline_accuracy", "blessed")
    found: dict[str, Any] = {name: figures[name] for name in known if name in figures}
    return found | ({"pushed": _pushed(result)} if _PUSHED in result.outputs else {})


def write_file(path: Path, text: str) -> None:
    """Write a file, and the folder that it is in."""
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
        from components.image_evaluator.summary import summarize

        verdict = summarize(result.outputs[_EVALUATION][0].uri, result.outputs[_BLESSING][0].uri)
        metrics |= {"accuracy": verdict.accuracy, "blessed": float(verdict.blessed)}
        if verdict.baseline_accuracy is not None:
            metrics["baseline_accuracy"] = verdict.baseline_accuracy
    if _PUSHED in result.outputs:
        metrics["pushed"] = float(_pushed(result) is not None)
    return metrics


def _pushed(result: NodeResult) -> str | None:
    (model,) = result.outputs[_PUSHED]
    return model.get_string_custom_property("pushed_destination") or None


def report(
    env: Mapping[str, str],
    record: Mapping[str, Any],
    results: Sequence[NodeResult],
) -> str | None:
    """The page of the run so far; None where it cannot be made, which is no reason to fail.

    Args:
      env: names the database of ML Metadata, which knows the artifacts of the run.
      record: what `pipeline.run.beginning` says of the run.
      results: of the nodes that have just ended.
    """
    from kubeflow.metadata import connection_config
    from pipeline.report import page, plots
    from pipeline.report.collect import artifacts_in, collect
    from pipeline.report.facts import Run, State

    known = dict(record)
    for result in results:
        if _PUSHED in result.outputs:
            pushed = _pushed(result)
            known |= {"state": State.PUSHED if pushed else State.REJECTED, "pushed": pushed}
    try:
        run = Run.model_validate(known)
        facts = collect(run, artifacts_in(connection_config(env), run.run_id))
        return page.render(facts, plots.draw(facts))
    except Exception as error:
        _LOG.exception("no report")
        progress.report("note", text=f"the report could not be made: {error}")
        return None
