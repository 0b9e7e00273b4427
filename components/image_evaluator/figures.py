"""ImageEvaluator's output files, which reports and the gate are made of.

- `FIGURES` in the evaluation artifact: `Figures`, JSON.
- `PREDICTIONS` beside it: one row an image, Parquet, read with `read_predictions`:
  sha256, filename, split (strings), label (int64, position in the candidate's classes), candidate
  (list of float32, probabilities in the order of the candidate's classes), baseline (the same in
  the order of the baseline's, null without one), and a string column for each of `SLICES`.
- `VERDICT` in the blessing artifact: `Verdict`, JSON.

Nothing heavy is imported here, so that a command can read a run in a moment.
"""

from __future__ import annotations

import io
import os
from typing import TYPE_CHECKING, Literal, TypeVar

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
    """A metric with its 95 % interval; None where it is not defined, as the recall of no image."""

    value: float | None
    low: float | None = None
    high: float | None = None


class ClassFigures(_Frozen):
    """One class: `support` images are of it, and `predicted` images were taken for it."""

    name: str
    support: int
    predicted: int
    precision: Estimate
    recall: Estimate
    f1: Estimate
    auc: float | None


class ReliabilityBin(_Frozen):
    """Images whose highest probability lies in (low, high]; means are None where there are none."""

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
      examples: images that it was judged on.
      metrics: accuracy, top_5_accuracy (with more than five classes), balanced_accuracy,
        macro_precision, macro_recall, macro_f1, macro_auc, log_loss (nats) and ece. All but
        log_loss lie in 0..1.
      per_class: in the order of `classes`.
      confusion: true class, predicted class (positions in `classes`) and images, where there are
        any: a full matrix of 10,000 classes would take a gigabyte.
      reliability: bins of equal width over 0..1.
      slices: by each feature of `SLICES`.
      latency: of the model; None for a split on which it was not measured again.
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
    """All models on the splits that were evaluated. `test`: the candidate on the held-out split."""

    format: Literal[1] = 1
    split: str = EVAL
    examples: int
    classes: list[str]
    candidate: ModelFigures
    baseline: ModelFigures | None = None
    test: ModelFigures | None = None


class Check(_Frozen):
    """One condition of the gate: `reason` is a line about the outcome, passed or not."""

    name: str
    passed: bool
    value: float | None
    bound: float | None
    reason: str


class Baseline(_Frozen):
    """The blessed model that was compared with: its artifact."""

    id: int
    uri: str


class Verdict(_Frozen):
    """The gate's decision.

    Attributes:
      blessed: every check passed.
      baseline: None for the first model.
      compared_classes: those that both models know; empty without a baseline.
      note: one line: what was compared with, and over what.
      checks: in the order in which they were made.
    """

    format: Literal[1] = 1
    blessed: bool
    baseline: Baseline | None
    compared_classes: list[str]
    note: str
    checks: list[Check]

    @property
    def reasons(self) -> list[str]:
        """Why it was not blessed: the lines of the checks that failed."""
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
        # Arrow's threads sometimes abort a process that ends soon after.
        return pq.read_table(
            io.BytesIO(storage.read_bytes(path)), use_threads=False, pre_buffer=False
        )


def _read(path: str, kind: type[_Record]) -> _Record:
    with read_back(path):
        return kind.model_validate_json(storage.read_bytes(path))
