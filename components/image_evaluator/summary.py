"""The Evaluator's result in short, for the summary of a run."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel, ConfigDict

from components import storage
from components.errors import read_back
from components.image_evaluator import figures


class Summary(BaseModel):
    """The gate's decision on a candidate.

    Accuracies are shares of the `examples` of the eval split, with a 95 % `interval`;
    `baseline_accuracy` is None where there was no baseline. A class
    without images has no accuracy. `note` names what was compared; `checks` are those of
    the gate, and `reasons` the lines of those that failed.
    """

    model_config = ConfigDict(frozen=True)

    blessed: bool
    examples: int
    accuracy: float
    interval: tuple[float, float]
    test_accuracy: float | None
    baseline_accuracy: float | None
    class_accuracy: dict[str, float]
    note: str
    checks: list[dict[str, Any]]
    reasons: list[str]


def summarize(evaluation_uri: str, blessing_uri: str) -> Summary:
    """Read the outputs of the Evaluator node."""
    found, verdict = figures.read_figures(evaluation_uri), figures.read_verdict(blessing_uri)
    with read_back(storage.join(evaluation_uri, figures.FIGURES)):
        accuracy = found.candidate.metrics["accuracy"]
        if accuracy.value is None or accuracy.low is None or accuracy.high is None:
            raise ValueError("the candidate has no accuracy")
        others = _accuracy(found.test), _accuracy(found.baseline)
    return Summary(
        blessed=verdict.blessed,
        examples=found.examples,
        accuracy=accuracy.value,
        interval=(accuracy.low, accuracy.high),
        test_accuracy=others[0],
        baseline_accuracy=others[1],
        class_accuracy={
            each.name: each.recall.value
            for each in found.candidate.per_class
            if each.recall.value is not None
        },
        note=verdict.note,
        checks=[check.model_dump() for check in verdict.checks],
        reasons=verdict.reasons,
    )


def _accuracy(model: figures.ModelFigures | None) -> float | None:
    return model.metrics["accuracy"].value if model else None
