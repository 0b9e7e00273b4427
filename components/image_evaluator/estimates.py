"""95 % intervals, all in closed form, so that the same predictions always give the same figures.

None of them shrinks to a point where nothing went wrong, as a bootstrap's does.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

import numpy as np
from scipy import optimize, stats

from components.image_evaluator.figures import Estimate

LEVEL = 0.95
_Z = float(stats.norm.ppf((1 + LEVEL) / 2))
UNDEFINED = Estimate(value=None)


def proportion(successes: int, trials: int) -> Estimate:
    """A share, with Wilson's score interval; undefined without trials."""
    if not trials:
        return UNDEFINED
    interval = stats.binomtest(successes, trials).proportion_ci(LEVEL, method="wilson")
    return Estimate(value=successes / trials, low=float(interval.low), high=float(interval.high))


def f1(right: int, missed: int, wrong: int) -> Estimate:
    """2 TP / (2 TP + FN + FP) of a class; undefined where it has no image.

    It is 2 J / (1 + J) of J = TP / (TP + FN + FP), which is a share of images and so has Wilson's
    interval.
    """
    if not right + missed:
        return UNDEFINED
    jaccard = proportion(right, right + missed + wrong)
    return Estimate(**{name: 2 * each / (1 + each) for name, each in jaccard.model_dump().items()})


def mean(parts: Iterable[Estimate], weights: Sequence[float] | None = None) -> Estimate:
    """The weighted mean of independent estimates, by default all weigh the same.

    Its distance to either end of the interval is the root of the sum of the parts' squared weighted
    distances to theirs: Zou and Donner, "Construction of confidence limits about effect measures",
    Statistics in Medicine 27 (2008). Parts that are not defined do not count.
    """
    known = [each for each in parts if each.value is not None]
    if not known:
        return UNDEFINED
    values, lows, highs = np.array([[each.value, each.low, each.high] for each in known]).T
    shares = np.full(len(known), 1 / len(known)) if weights is None else np.asarray(weights)
    value = float(shares @ values)
    return Estimate(
        value=value,
        low=value - math.hypot(*(shares * (values - lows))),
        high=value + math.hypot(*(shares * (highs - values))),
    )


def sample_mean(values: np.ndarray) -> Estimate:
    """The mean of float [N] non-negative values, N > 0, with Student's interval."""
    value = float(values.mean())
    if len(values) == 1:
        return Estimate(value=value)
    error = float(stats.sem(values) * stats.t.ppf((1 + LEVEL) / 2, len(values) - 1))
    return Estimate(value=value, low=max(0.0, value - error), high=value + error)


def auc(value: float, positives: int, negatives: int) -> Estimate:
    """An area under the ROC curve, with a score interval.

    It holds all areas from which `value` is no more than 1.96 standard errors away, these after
    Hanley and McNeil at that area: method 5 of Newcombe, "Confidence intervals for an effect size
    measure based on the Mann-Whitney statistic, part 2", Statistics in Medicine 25 (2006).
    """
    each = (positives + negatives) / 2 - 1

    def excess(area: float) -> float:
        spread = 1 + each * ((1 - area) / (2 - area) + area / (1 + area))
        return (area - value) ** 2 - _Z**2 * area * (1 - area) * spread / (positives * negatives)

    tiny = 1e-9  # at 0 and 1 themselves the error is 0
    return Estimate(
        value=value,
        low=optimize.brentq(excess, 0.0, min(value, 1 - tiny)) if value else 0.0,
        high=optimize.brentq(excess, max(value, tiny), 1.0) if value < 1 else 1.0,
    )
