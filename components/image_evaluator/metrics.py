"""All figures of a model, from its probabilities for images whose class is known.

They are computed here and not by TFMA, whose per-class and macro metrics are wrong or missing for a
model with more than two classes, and whose intervals are random.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence

import numpy as np
from scipy import stats

from components.image_evaluator import estimates
from components.image_evaluator.figures import (
    SLICES,
    ClassFigures,
    Estimate,
    Latency,
    ModelFigures,
    ReliabilityBin,
    SliceFigures,
)

BINS = 15  # as in Guo et al., "On calibration of modern neural networks" (2017)
MOST_VALUES = 20  # of a feature, those with the most images
TOP = 5


def model_figures(
    classes: Sequence[str],
    labels: np.ndarray,
    probabilities: np.ndarray,
    slices: Mapping[str, np.ndarray],
    latency: Latency | None = None,
) -> ModelFigures:
    """Judge a model by its predictions.

    Args:
        classes: names, in the order of the probabilities.
        labels: true classes, int [N], positions in `classes`; N > 0.
        probabilities: float [N, classes], finite.
        slices: by each of `figures.SLICES`, strings [N].
        latency: to be kept with the figures.

    Macro averages are over the classes that have images; a precision without predictions counts as
    0 in them. Macro F1's and precision's intervals take the classes for independent. The macro AUC
    is of each class against the rest. The log loss clips probabilities at float32's epsilon.
    """
    ranks = _ranks(labels, probabilities)
    confusion = _confusion(labels, probabilities.argmax(axis=1), len(classes))
    areas = [_auc(labels == index, probabilities[:, index]) for index in range(len(classes))]
    per_class = [
        _class_figures(name, confusion, index, areas[index].value)
        for index, name in enumerate(classes)
    ]
    reliability = _reliability(probabilities.max(axis=1), ranks == 0)
    present = [each for each in per_class if each.support]
    recall = estimates.mean(each.recall for each in present)
    metrics = {
        "accuracy": _share(ranks == 0),
        **({"top_5_accuracy": _share(ranks < TOP)} if len(classes) > TOP else {}),
        "balanced_accuracy": recall,
        "macro_precision": estimates.mean(_or_zero(each.precision) for each in present),
        "macro_recall": recall,
        "macro_f1": estimates.mean(each.f1 for each in present),
        "macro_auc": estimates.mean(areas),
        "log_loss": estimates.sample_mean(_losses(labels, probabilities)),
        "ece": _calibration_error(reliability),
    }
    return ModelFigures(
        classes=list(classes),
        examples=len(labels),
        metrics=metrics,
        per_class=per_class,
        confusion=confusion.tolist(),
        reliability=reliability,
        slices=list(_slices(slices, ranks == 0)),
        latency=latency,
    )


def _share(chosen: np.ndarray) -> Estimate:
    return estimates.proportion(int(chosen.sum()), len(chosen))


def _or_zero(estimate: Estimate) -> Estimate:
    """Nothing is known of a precision without predictions, but that it lies in 0..1."""
    return Estimate(value=0, low=0, high=1) if estimate.value is None else estimate


def _ranks(labels: np.ndarray, probabilities: np.ndarray) -> np.ndarray:
    """How many classes come before the true one, int [N]; of equal ones the first, as in argmax."""
    own = np.take_along_axis(probabilities, labels[:, None], axis=1)
    earlier = np.arange(probabilities.shape[1]) < labels[:, None]
    before = (probabilities > own) | (earlier & (probabilities == own))
    return np.asarray(before.sum(axis=1))


def _confusion(labels: np.ndarray, predicted: np.ndarray, classes: int) -> np.ndarray:
    cells = np.bincount(labels * classes + predicted, minlength=classes**2)
    return cells.reshape(classes, classes)


def _class_figures(
    name: str, confusion: np.ndarray, index: int, area: float | None
) -> ClassFigures:
    right = int(confusion[index, index])
    support, predicted = int(confusion[index].sum()), int(confusion[:, index].sum())
    return ClassFigures(
        name=name,
        support=support,
        predicted=predicted,
        precision=estimates.proportion(right, predicted),
        recall=estimates.proportion(right, support),
        f1=estimates.f1(right, support - right, predicted - right),
        auc=area,
    )


def _auc(positive: np.ndarray, scores: np.ndarray) -> Estimate:
    """Mann and Whitney's: the share of pairs in which the positive has the higher score."""
    positives = int(positive.sum())
    negatives = len(positive) - positives
    if not (positives and negatives):
        return estimates.UNDEFINED
    won = stats.rankdata(scores)[positive].sum() - positives * (positives + 1) / 2
    return estimates.auc(float(won / (positives * negatives)), positives, negatives)


def _losses(labels: np.ndarray, probabilities: np.ndarray) -> np.ndarray:
    epsilon = np.finfo(np.float32).eps
    own = np.take_along_axis(probabilities, labels[:, None], axis=1)[:, 0].astype(np.float64)
    return -np.log(np.clip(own, epsilon, 1 - epsilon))


def _reliability(confidence: np.ndarray, right: np.ndarray) -> list[ReliabilityBin]:
    edges = np.linspace(0, 1, BINS + 1)
    bins = np.digitize(confidence, edges[1:-1], right=True)
    found = []
    for index in range(BINS):
        inside = bins == index
        count = int(inside.sum())
        found.append(
            ReliabilityBin(
                low=float(edges[index]),
                high=float(edges[index + 1]),
                count=count,
                confidence=float(confidence[inside].mean(dtype=np.float64)) if count else None,
                accuracy=float(right[inside].mean()) if count else None,
            )
        )
    return found


def _calibration_error(reliability: Sequence[ReliabilityBin]) -> Estimate:
    """The mean distance of confidence and accuracy over the bins, weighted by their images."""
    filled = [each for each in reliability if each.count]
    images = sum(each.count for each in filled)
    gaps = []
    for each in filled:
        assert each.confidence is not None
        assert each.accuracy is not None
        share = estimates.proportion(round(each.accuracy * each.count), each.count)
        assert share.low is not None
        assert share.high is not None
        ends = (share.low - each.confidence, share.high - each.confidence)
        gaps.append(
            Estimate(
                value=abs(each.accuracy - each.confidence),
                low=0.0 if ends[0] < 0 < ends[1] else min(map(abs, ends)),
                high=max(map(abs, ends)),
            )
        )
    return estimates.mean(gaps, [each.count / images for each in filled])


def _slices(slices: Mapping[str, np.ndarray], right: np.ndarray) -> list[SliceFigures]:
    found = []
    for feature in SLICES:
        values = slices[feature]
        common = [value for value, _ in Counter(values.tolist()).most_common(MOST_VALUES)]
        found += [
            SliceFigures(
                feature=feature,
                value=value,
                support=int((values == value).sum()),
                accuracy=_share(right[values == value]),
            )
            for value in sorted(common)
        ]
    return found
