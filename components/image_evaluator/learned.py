"""Gate checks that a model has learned something, on any data set and without a baseline.

A model that always answers the same class fails the first check. A model whose probabilities are
the frequencies of the classes, or all equal, fails the third.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import numpy as np

from components.image_evaluator import chance
from components.image_evaluator.bounds import Bounds
from components.image_evaluator.figures import Check, ClassFigures, ModelFigures
from components.wording import quoted, shortened


def beats_largest_class(
    model: ModelFigures, train: Mapping[str, int], bounds: Bounds
) -> Iterator[Check]:
    """Check that significantly more images are right than by always answering the largest class.

    This is the largest class of the train split, or of the eval images. Of several such classes the
    one that is hardest to beat counts.
    """
    level = bounds.majority_significance
    if level == 1:
        return
    hits = _right(model)
    right = sum(hits.values())
    support = {each.name: each.support for each in model.per_class}
    # By gained and lost images, as thousands of classes may be equally large; train's first.
    answers: dict[tuple[int, int], str] = {}
    for name in {**_largest(train), **_largest(support)}:
        both = hits.get(name, 0)
        answers.setdefault((right - both, support.get(name, 0) - both), name)
    # The largest p-value, and its counts.
    p, (gained, lost) = max(
        ((chance.mcnemar(*counts, model.examples), counts) for counts in answers),
        key=lambda each: each[0],
    )
    name = answers[gained, lost]
    passed = p <= level
    reason = (
        f"{right:,} of {model.examples:,} images right, against {support.get(name, 0):,} by always "
        f"answering {name!r} ({gained:,} gained, {lost:,} lost): "
        f"{'' if passed else 'not '}significantly better (McNemar's test, p = {p:.2g}, "
        f"evaluate.majority_significance = {level:g})"
    )
    if not passed and model.examples - support.get(name, 0) < (needed := chance.fewest(level)):
        reason += f"; a test needs {needed} images of other classes: add some or raise data.eval"
    yield Check(name="majority_significance", passed=passed, value=p, bound=level, reason=reason)


def every_class_recognised(
    model: ModelFigures, _: Mapping[str, int], bounds: Bounds
) -> Iterator[Check]:
    """Check that every class with enough images has at least one right."""
    enough = bounds.zero_recall_images
    if not enough:
        return
    judged = [each for each in model.per_class if each.support >= enough]
    never = [each for each in judged if not each.recall.value]
    key = f"evaluate.zero_recall_images = {enough}"
    if never:
        reason = (
            f"no image of {quoted([each.name for each in never])} is right, of "
            f"{_counts(never)} images; every class with {key} or more images must have one right"
        )
    elif judged:
        reason = f"each of the {len(judged):,} classes with {key} or more images has one right"
    else:
        reason = f"no class has {key} images, so none is checked by itself"
    yield Check(
        name="zero_recall_images", passed=not never, value=len(never), bound=enough, reason=reason
    )


def beats_class_frequencies(
    model: ModelFigures, train: Mapping[str, int], bounds: Bounds
) -> Iterator[Check]:
    """Check that the log loss is below that of always answering the frequencies of the classes.

    These are the frequencies in the train split, or equal ones if their log loss is lower.
    """
    bound = bounds.max_log_loss_ratio
    if not bound:
        return
    support = np.array([each.support for each in model.per_class], float)
    frequencies = np.array([train.get(each.name, 0) for each in model.per_class], float)
    share = support / support.sum()
    equal = np.log(len(support))
    reference = equal
    if frequencies.sum():
        known = (frequencies / frequencies.sum()).clip(np.finfo(np.float32).eps)
        reference = min(equal, float(-(share @ np.log(known))))
    loss = model.metrics["log_loss"].value
    # With a single class the reference is 0.
    ratio = loss / reference if loss is not None and reference > 0 else None
    passed = ratio is not None and ratio <= bound
    reason = (
        f"log_loss {loss or 0:.4f} is {'at most' if passed else 'above'} evaluate."
        f"max_log_loss_ratio = {bound:g} times that of the class frequencies, {reference:.4f}"
    )
    yield Check(name="max_log_loss_ratio", passed=passed, value=ratio, bound=bound, reason=reason)


def is_calibrated(model: ModelFigures, _: Mapping[str, int], bounds: Bounds) -> Iterator[Check]:
    """Check that the calibration error is within its bound, or not significantly above it."""
    bound = bounds.max_ece
    if bound is None or bound == 1:
        return
    error = model.metrics["ece"].value
    assert error is not None
    key = f"evaluate.max_ece = {bound:g}"
    passed = error <= bound
    reason = f"ece {error:.4f} is {'at most' if passed else 'above'} {key}"
    if not passed:
        bins = [each for each in model.reliability if each.count]
        p = chance.calibrated(
            np.array([each.count for each in bins]),
            np.array([each.confidence for each in bins], float),
            error,
        )
        passed = p >= bounds.significance
        reason += (
            f", which {'can' if passed else 'cannot'} be chance for a calibrated model on "
            f"{model.examples:,} images (p = {p:.2g})"
        )
    yield Check(name="max_ece", passed=passed, value=error, bound=bound, reason=reason)


def _right(model: ModelFigures) -> dict[str, int]:
    """Count the right predictions by class."""
    return {
        model.classes[true]: images
        for true, predicted, images in model.confusion
        if true == predicted
    }


def _largest(counts: Mapping[str, int]) -> dict[str, None]:
    """Return all names that have the largest count."""
    most = max(counts.values(), default=0)
    return {name: None for name, count in counts.items() if count == most}


def _counts(classes: Sequence[ClassFigures]) -> str:
    return shortened(f"{each.support:,}" for each in classes)
