"""Checks that any model must pass: that it has learned something, whatever the data set.

They go by the candidate alone, so that also the first model is held to them. A model that answers
one class for every image fails the first, whichever class that is; one whose probabilities are
those of the classes' frequencies, or all equal, fails the third.
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
    """More images are right than by always answering the largest class, and not by chance.

    That class is the train split's, which is what can be known without looking at the images that
    judge. Where several are largest, or another class is larger among those images, the one that
    is hardest to beat counts.
    """
    level = bounds.majority_significance
    if level == 1:
        return
    hits = _right(model)
    right = sum(hits.values())
    support = {each.name: each.support for each in model.per_class}
    # By images that are gained and lost, as thousands of classes may be as large; train's first.
    answers: dict[tuple[int, int], str] = {}
    for name in {**_largest(train), **_largest(support)}:
        both = hits.get(name, 0)
        answers.setdefault((right - both, support.get(name, 0) - both), name)
    # The chance that answers which are no better gain as many.
    p, (gained, lost) = max(
        ((chance.mcnemar(*counts, model.examples), counts) for counts in answers),
        key=lambda each: each[0],
    )
    name = answers[gained, lost]
    passed = p <= level
    reason = (
        f"right on {right:,} of {model.examples:,} images, always answering {name!r} on "
        f"{support.get(name, 0):,} ({gained:,} gained, {lost:,} lost): "
        f"{'' if passed else 'not '}significantly more (McNemar's test, p = {p:.2g}), "
        f"evaluate.majority_significance = {level:g}"
    )
    if not passed and model.examples - support.get(name, 0) < (needed := chance.fewest(level)):
        reason += (
            f"; it takes {needed} images of other classes to tell: add some or raise data.eval"
        )
    yield Check(name="majority_significance", passed=passed, value=p, bound=level, reason=reason)


def every_class_recognised(
    model: ModelFigures, _: Mapping[str, int], bounds: Bounds
) -> Iterator[Check]:
    """Check that no class with enough images has all of them wrong."""
    enough = bounds.zero_recall_images
    if not enough:
        return
    judged = [each for each in model.per_class if each.support >= enough]
    never = [each for each in judged if not each.recall.value]
    key = f"evaluate.zero_recall_images = {enough}"
    if never:
        reason = (
            f"no image of {quoted([each.name for each in never])} is right, of "
            f"{_counts(never)} images; a class of as many as {key} must have one"
        )
    elif judged:
        reason = f"each of the {len(judged):,} classes of as many images as {key} has one right"
    else:
        reason = f"no class has as many images as {key}, so that none is judged by itself"
    yield Check(
        name="zero_recall_images", passed=not never, value=len(never), bound=enough, reason=reason
    )


def beats_class_frequencies(
    model: ModelFigures, train: Mapping[str, int], bounds: Bounds
) -> Iterator[Check]:
    """Check that the log loss is below that of always predicting the classes' frequencies.

    They are the train split's; where equal ones do better on these images, they count.
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
    # Of one class nothing is uncertain, and nothing can be learned.
    ratio = loss / reference if loss is not None and reference > 0 else None
    passed = ratio is not None and ratio <= bound
    reason = (
        f"log_loss {loss or 0:.4f} is {'at most' if passed else 'above'} evaluate."
        f"max_log_loss_ratio = {bound:g} times that of the class frequencies, {reference:.4f}"
    )
    yield Check(name="max_log_loss_ratio", passed=passed, value=ratio, bound=bound, reason=reason)


def is_calibrated(model: ModelFigures, _: Mapping[str, int], bounds: Bounds) -> Iterator[Check]:
    """Check that the calibration error is within its bound, or explained by chance."""
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
    """Count the images of each class that were recognised."""
    return {
        model.classes[true]: images
        for true, predicted, images in model.confusion
        if true == predicted
    }


def _largest(counts: Mapping[str, int]) -> dict[str, None]:
    """Return the names with the largest count, all of them where several have it."""
    most = max(counts.values(), default=0)
    return {name: None for name, count in counts.items() if count == most}


def _counts(classes: Sequence[ClassFigures]) -> str:
    return shortened(f"{each.support:,}" for each in classes)
