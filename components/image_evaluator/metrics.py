"""Computation of all figures of a model from its probabilities.

TFMA's per-class and macro metrics are wrong or missing for models with more than two classes, and
its intervals are random.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence

import numpy as np
from scipy import sparse, stats

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
EDGES = np.linspace(0, 1, BINS + 1)
MOST_VALUES = 20  # slices of a feature: those with the most images
TOP = 5


def model_figures(
    classes: Sequence[str],
    labels: np.ndarray,
    probabilities: np.ndarray,
    slices: Mapping[str, np.ndarray],
    latency: Latency | None = None,
) -> ModelFigures:
    """Compute the figures of a model from its predictions.

    Args:
        classes: names, in the order of the probabilities.
        labels: true classes, int [N], positions in `classes`; N > 0.
        probabilities: float [N, classes], finite.
        slices: by each of `figures.SLICES`, strings [N].
        latency: is added to the figures.

    Macro averages are over the classes with images, in which an undefined precision counts as 0.
    The macro AUC compares each class with the rest. For the log loss, probabilities are clipped at
    float32's epsilon.
    """
    ranks = _ranks(labels, probabilities)
    right, confidence = ranks == 0, probabilities.max(axis=1).astype(np.float64)
    confusion = _confusion(labels, probabilities.argmax(axis=1), len(classes))
    cells = confusion.tocoo()
    areas, macro_auc = _areas(labels, probabilities)
    # (low, high], as in `figures.ReliabilityBin`.
    bins = np.digitize(confidence, EDGES[1:-1], right=True)
    macro = _macro(confusion)
    metrics = {
        "accuracy": _share(right),
        **({"top_5_accuracy": _share(ranks < TOP)} if len(classes) > TOP else {}),
        "balanced_accuracy": macro["recall"],
        **{f"macro_{name}": estimate for name, estimate in macro.items()},
        "macro_auc": macro_auc,
        "log_loss": estimates.sample_mean(_losses(labels, probabilities)),
        "ece": estimates.calibration_error(right, confidence, bins),
    }
    return ModelFigures(
        classes=list(classes),
        examples=len(labels),
        metrics=metrics,
        per_class=[
            _class_figures(name, right_ones, support, predicted, area)
            for name, right_ones, support, predicted, area in zip(
                classes,
                confusion.diagonal().tolist(),
                confusion.sum(axis=1).tolist(),
                confusion.sum(axis=0).tolist(),
                areas,
                strict=True,
            )
        ],
        confusion=list(
            zip(cells.row.tolist(), cells.col.tolist(), cells.data.tolist(), strict=True)
        ),
        reliability=_reliability(right, confidence, bins),
        slices=list(_slices(slices, right)),
        latency=latency,
    )


def _share(chosen: np.ndarray) -> Estimate:
    return estimates.proportion(int(chosen.sum()), len(chosen))


def _ranks(labels: np.ndarray, probabilities: np.ndarray) -> np.ndarray:
    """Count the classes ranked before the true one, int [N]; ties are broken as in argmax."""
    own = np.take_along_axis(probabilities, labels[:, None], axis=1)
    earlier = np.arange(probabilities.shape[1]) < labels[:, None]
    before = (probabilities > own) | (earlier & (probabilities == own))
    return np.asarray(before.sum(axis=1))


def _confusion(labels: np.ndarray, predicted: np.ndarray, classes: int) -> sparse.csr_array:
    ones = np.ones(len(labels), int)
    # Entries of the same cell are added.
    return sparse.csr_array((ones, (labels, predicted)), shape=(classes, classes))


def _class_figures(
    name: str, right: int, support: int, predicted: int, area: float | None
) -> ClassFigures:
    return ClassFigures(
        name=name,
        support=support,
        predicted=predicted,
        precision=estimates.proportion(right, predicted),
        recall=estimates.proportion(right, support),
        f1=estimates.f1(right, support - right, predicted - right),
        auc=area,
    )


def _macro(confusion: sparse.csr_array) -> dict[str, Estimate]:
    """Estimate averages over the classes with images; an undefined precision counts as 0.

    The contribution of an image to an average is the derivative by the weight of the image.
    """
    support, predicted = confusion.sum(axis=1), confusion.sum(axis=0)
    present = support > 0
    classes = present.sum()
    shown, taken = np.maximum(support, 1), np.maximum(predicted, 1)
    hits = confusion.diagonal()
    recall, precision = hits / shown, hits / taken
    either = support + predicted
    f1 = 2 * hits / np.maximum(either, 1)
    by_either = np.where(present, 1 / np.maximum(either, 1), 0)
    # Cells with images, by true class (row) and predicted class (column).
    cells = confusion.tocoo()
    row, column = cells.row, cells.col
    right = row == column
    contributions = {
        "precision": (right - precision[column])
        * (present & (predicted > 0))[column]
        / taken[column],
        "recall": (right - recall[row]) / shown[row],
        "f1": 2 * right * by_either[column] - (f1 * by_either)[row] - (f1 * by_either)[column],
    }
    effective = classes**2 / (1 / support[present]).sum()
    return {
        name: estimates.average(
            value=float(values[present].mean()),
            variance=float((cells.data * (contributions[name] / classes) ** 2).sum()),
            images=float(effective),
        )
        for name, values in (("precision", precision), ("recall", recall), ("f1", f1))
    }


def _areas(labels: np.ndarray, probabilities: np.ndarray) -> tuple[list[float | None], Estimate]:
    """Compute the area under each class's one-against-rest ROC curve, and their mean.

    The area is the share of pairs of a positive and a negative image in which the positive has the
    higher score. An image's contribution is this share among its own pairs, as in DeLong et al.,
    "Comparing the areas under two or more correlated ROC curves", Biometrics 44 (1988).
    """
    images, classes = probabilities.shape
    areas: list[float | None] = []
    contributions = np.zeros(images)
    shares = []
    for index in range(classes):
        positive = labels == index
        positives, negatives = int(positive.sum()), int(images - positive.sum())
        if not (positives and negatives):
            areas.append(None)
            continue
        scores = probabilities[:, index]
        ranks = stats.rankdata(scores)
        won = ranks.copy()
        won[positive] -= stats.rankdata(scores[positive])
        won[~positive] = positives - (ranks[~positive] - stats.rankdata(scores[~positive]))
        own = np.where(positive, won / negatives, won / positives)
        area = float(own[positive].mean())
        areas.append(area)
        contributions += (own - area) / np.where(positive, positives, negatives)
        shares.append(_area_images(area, positives, negatives))
    if not shares:
        return areas, estimates.UNDEFINED
    known = [area for area in areas if area is not None]
    mean = estimates.average(
        value=float(np.mean(known)),
        variance=float(((contributions / len(known)) ** 2).sum()),
        images=len(known) ** 2 / sum(1 / each for each in shares),
    )
    return areas, mean


def _area_images(area: float, positives: int, negatives: int) -> float:
    """Return the number of images whose share has the variance of an area.

    It follows Hanley and McNeil, as in Newcombe, "Confidence intervals for an effect size measure
    based on the Mann-Whitney statistic, part 2", Statistics in Medicine 25 (2006), method 4.
    """
    others = (positives + negatives) / 2 - 1
    return positives * negatives / (1 + others * ((1 - area) / (2 - area) + area / (1 + area)))


def _losses(labels: np.ndarray, probabilities: np.ndarray) -> np.ndarray:
    epsilon = np.finfo(np.float32).eps
    own = np.take_along_axis(probabilities, labels[:, None], axis=1)[:, 0].astype(np.float64)
    return -np.log(np.clip(own, epsilon, 1 - epsilon))


def _reliability(
    right: np.ndarray, confidence: np.ndarray, bins: np.ndarray
) -> list[ReliabilityBin]:
    found = []
    for index in range(BINS):
        inside = bins == index
        count = int(inside.sum())
        found.append(
            ReliabilityBin(
                low=float(EDGES[index]),
                high=float(EDGES[index + 1]),
                count=count,
                confidence=float(confidence[inside].mean()) if count else None,
                accuracy=float(right[inside].mean()) if count else None,
            )
        )
    return found


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
