"""The files that ImageEvaluator writes, and their readers.

- `FIGURES` in the evaluation artifact: `Figures`, JSON.
- `PREDICTIONS` beside it: one row an image, Parquet, read with `read_predictions`:
  sha256, filename, split (strings), label (int64, position in the candidate's classes), candidate
  (list of float32, probabilities in the order of the candidate's classes), baseline (the same in
  the order of the baseline's, null without one), and a string column for each of `SLICES`.
- `VERDICT` in the blessing artifact: `Verdict`, JSON.

NumPy and PyArrow are imported where they are used, as commands read figures only.
"""

from __future__ import annotations

import io
import os
from typing import TYPE_CHECKING, Any, Literal, TypeVar

from pydantic import BaseModel, ConfigDict

from components import storage
from components.errors import read_back

if TYPE_CHECKING:
    import numpy as np
    import pyarrow as pa

FIGURES = "figures.json"
PREDICTIONS = "predictions.parquet"
VERDICT = "verdict.json"

SLICES = ("size", "aspect", "brightness", "source", "span")  # besides the class
TRAIN, EVAL, TEST = "train", "eval", "test"

_Record = TypeVar("_Record", bound=BaseModel)


class _Frozen(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Estimate(_Frozen):
    """A metric with its 95 % interval; None if undefined, such as the recall without images."""

    value: float | None
    low: float | None = None
    high: float | None = None


class ClassFigures(_Frozen):
    """The figures of a class: `support` images belong to it, `predicted` were predicted as it."""

    name: str
    support: int
    predicted: int
    precision: Estimate
    recall: Estimate
    f1: Estimate
    auc: float | None


class ReliabilityBin(_Frozen):
    """Images whose highest probability is in (low, high]; the means are None without images."""

    low: float
    high: float
    count: int
    confidence: float | None
    accuracy: float | None


class SliceFigures(_Frozen):
    """The images with one value of a feature, such as brightness = dark."""

    feature: str
    value: str
    support: int
    accuracy: Estimate


class Latency(_Frozen):
    """Milliseconds for one image through serving_default, in the evaluating process."""

    p50_ms: float
    p95_ms: float
    requests: int


class ModelFigures(_Frozen):
    """The figures of one model on one split.

    Attributes:
      classes: in the order of its probabilities.
      examples: number of images.
      metrics: accuracy, top_5_accuracy (with more than five classes), balanced_accuracy,
        macro_precision, macro_recall, macro_f1, macro_auc, log_loss (nats) and ece. All except
        log_loss are in 0..1.
      per_class: in the order of `classes`.
      confusion: true class, predicted class (positions in `classes`) and number of images, if
        not 0: a full matrix of 10,000 classes would take a gigabyte.
      reliability: bins of equal width over 0..1.
      slices: by each feature of `SLICES`.
      latency: None for the test split, on which it is not measured.
    """

    classes: list[str]
    examples: int
    metrics: dict[str, Estimate]
    per_class: list[ClassFigures]
    confusion: list[tuple[int, int, int]]
    reliability: list[ReliabilityBin]
    slices: list[SliceFigures]
    latency: Latency | None = None

    def confusion_matrix(self) -> np.ndarray:
        """Count images by true class (row) and predicted class (column), int [classes, classes]."""
        import numpy as np

        matrix = np.zeros([len(self.classes)] * 2, int)
        for true, predicted, images in self.confusion:
            matrix[true, predicted] = images
        return matrix


class Figures(_Frozen):
    """The figures of all models on the eval split, and of the candidate on a test split."""

    format: Literal[1] = 1
    split: str = EVAL
    examples: int
    classes: list[str]
    candidate: ModelFigures
    baseline: ModelFigures | None = None
    test: ModelFigures | None = None


class Check(_Frozen):
    """The outcome of a gate check; `reason` is one line, whether it passed or not."""

    name: str
    passed: bool
    value: float | None
    bound: float | None
    reason: str


class Baseline(_Frozen):
    """The artifact of the baseline."""

    id: int
    uri: str


class Verdict(_Frozen):
    """The gate's decision.

    Attributes:
      blessed: every check passed.
      baseline: None for the first model.
      compared_classes: those that both models know; empty without a baseline.
      note: one line about the comparison with the baseline.
      checks: in order.
    """

    format: Literal[1] = 1
    blessed: bool
    baseline: Baseline | None
    compared_classes: list[str]
    note: str
    checks: list[Check]

    @property
    def reasons(self) -> list[str]:
        """The lines of the checks that failed."""
        return [check.reason for check in self.checks if not check.passed]


def read_figures(evaluation_uri: str) -> Figures:
    """Read the figures of a ModelEvaluation artifact. Raises OSError or ValueError."""
    return _read(os.path.join(evaluation_uri, FIGURES), Figures)


def read_verdict(blessing_uri: str) -> Verdict:
    """Read the verdict of a ModelBlessing artifact. Raises OSError or ValueError."""
    return _read(os.path.join(blessing_uri, VERDICT), Verdict)


def read_predictions(evaluation_uri: str) -> pa.Table:
    """Read the predictions of a ModelEvaluation artifact. Raises OSError or ValueError."""
    return read_table(os.path.join(evaluation_uri, PREDICTIONS))


def read_table(path: str) -> pa.Table:
    """Read Parquet from a path or URI. Raises OSError or ValueError."""
    import pyarrow.parquet as pq

    with read_back(path):
        # With threads, Arrow sometimes aborts a process that ends soon afterwards.
        return pq.read_table(
            io.BytesIO(storage.read_bytes(path)), use_threads=False, pre_buffer=False
        )


def _read(path: str, kind: type[_Record]) -> _Record:
    with read_back(path):
        return kind.model_validate_json(storage.read_bytes(path))


class Summary(_Frozen):
    """The gate's decision on a candidate.

    Accuracies are shares of the `examples` of the eval split, with a 95 % `interval`;
    `baseline_accuracy` is None without a baseline, and classes without images are left out. `note`
    describes the comparison; `checks` are those of the gate, and `reasons` the lines of those that
    failed.
    """

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
    """Summarize the outputs of the Evaluator node."""
    found, verdict = read_figures(evaluation_uri), read_verdict(blessing_uri)
    with read_back(storage.join(evaluation_uri, FIGURES)):
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


def _accuracy(model: ModelFigures | None) -> float | None:
    return model.metrics["accuracy"].value if model else None
