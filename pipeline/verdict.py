"""What the Evaluator found, in the terms of the configuration."""

from __future__ import annotations

import dataclasses
from typing import Any

import tensorflow_model_analysis as tfma
from tensorflow_model_analysis.proto import validation_result_pb2
from tfx.types import Artifact

from components import features

ACCURACY = "sparse_categorical_accuracy"
_CANDIDATE, _BASELINE = "candidate", "baseline"


@dataclasses.dataclass(frozen=True)
class Verdict:
    """The gate's decision on a candidate.

    Accuracies are fractions of the `examples` of the eval split; `baseline_accuracy` is that of
    the latest blessed model on the same examples, None where there was none. `reasons` holds one
    line per bound that was not kept.
    """

    blessed: bool
    examples: int
    accuracy: float
    baseline_accuracy: float | None
    class_accuracy: dict[str, float]
    reasons: list[str]


def read_verdict(evaluation: Artifact, blessing: Artifact) -> Verdict:
    """Read the outputs of the Evaluator node."""
    # TFMA names a model only where there are two.
    compared = blessing.has_custom_property("baseline_model_id")
    candidate = _load_metrics(evaluation.uri, _CANDIDATE if compared else "")
    baseline = _load_metrics(evaluation.uri, _BASELINE) if compared else None
    return Verdict(
        blessed=blessing.get_int_custom_property("blessed") == 1,
        examples=int(candidate[()]["example_count"]),
        accuracy=candidate[()][ACCURACY],
        baseline_accuracy=baseline[()][ACCURACY] if baseline else None,
        class_accuracy={
            label: metrics[ACCURACY]
            for slice_key, metrics in candidate.items()
            for feature, label in slice_key
            if feature == features.LABEL_TEXT
        },
        reasons=_reasons(tfma.load_validation_result(evaluation.uri)),
    )


def _load_metrics(uri: str, model_name: str) -> dict[tuple[tuple[str, str], ...], dict[str, float]]:
    """Metric values by slice; the overall slice is the empty tuple."""
    result = tfma.load_eval_result(uri, model_name=model_name)
    return {
        slice_key: {
            name: value["doubleValue"]
            for name, value in by_output[""][""].items()
            if "doubleValue" in value
        }
        for slice_key, by_output in result.slicing_metrics
    }


def _reasons(result: validation_result_pb2.ValidationResult) -> list[str]:
    return [
        _reason(failure)
        for by_slice in result.metric_validations_per_slice
        for failure in by_slice.failures
    ]


def _reason(failure: Any) -> str:
    name = failure.metric_key.name.removeprefix("sparse_categorical_")
    value = failure.metric_value.double_value.value
    threshold = failure.metric_threshold
    if failure.metric_key.is_diff:
        bound = -threshold.change_threshold.absolute.value
        return (
            f"{name} is {-value:.4f} below the latest blessed model's, more than "
            f"evaluate.max_accuracy_drop = {bound:.4f} allows"
        )
    bound = threshold.value_threshold.lower_bound.value
    return f"{name} {value:.4f} is below evaluate.min_accuracy = {bound:.4f}"
