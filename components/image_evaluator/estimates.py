"""95 % intervals in closed form, so that the same predictions always have the same figures.

Unlike a bootstrap's, they have a width even if all predictions are right.
"""

from __future__ import annotations

import math

import numpy as np
from scipy import stats

from components.image_evaluator.figures import Estimate

LEVEL = 0.95
Z = float(stats.norm.ppf((1 + LEVEL) / 2))
UNDEFINED = Estimate(value=None)


def share(value: float, images: float) -> Estimate:
    """Estimate a share of `images` > 0 (need not be whole), with Wilson's score interval."""
    centre = (value + Z**2 / (2 * images)) / (1 + Z**2 / images)
    half = Z * math.sqrt(value * (1 - value) / images + (Z / (2 * images)) ** 2)
    half /= 1 + Z**2 / images
    # Rounding must not exclude the value.
    return Estimate(
        value=value,
        low=max(0.0, min(centre - half, value)),
        high=min(1.0, max(centre + half, value)),
    )


def proportion(successes: int, trials: int) -> Estimate:
    """Estimate a share with Wilson's score interval; undefined without trials."""
    return share(successes / trials, trials) if trials else UNDEFINED


def f1(right: int, missed: int, wrong: int) -> Estimate:
    """Estimate F1 = 2 TP / (2 TP + FN + FP) of a class; undefined if it has no image.

    F1 = 2 J / (1 + J) with J = TP / (TP + FN + FP), a share of images with Wilson's interval.
    """
    if not right + missed:
        return UNDEFINED
    jaccard = proportion(right, right + missed + wrong)
    return Estimate(**{name: 2 * each / (1 + each) for name, each in jaccard.model_dump().items()})


def average(value: float, variance: float, images: float) -> Estimate:
    """Estimate an average of shares, with Wilson's interval for an effective number of images.

    A single share of that many images has the same variance.

    Args:
        value: the average, 0 to 1.
        variance: of the average, estimated from the contribution of each image; 0 if all
            predictions are right, or all wrong.
        images: upper limit of the effective number, that of equal and independent shares: a
            variance that is estimated from few mistakes may be far too small.
    """
    effective = value * (1 - value) / variance if variance else math.inf
    return share(value, min(effective, images))


def sample_mean(values: np.ndarray) -> Estimate:
    """Estimate the mean of non-negative values, float [N], N > 0, with Student's interval."""
    value = float(values.mean())
    if len(values) == 1:
        return Estimate(value=value)
    error = float(stats.sem(values) * stats.t.ppf((1 + LEVEL) / 2, len(values) - 1))
    return Estimate(value=value, low=max(0.0, value - error), high=value + error)


def calibration_error(right: np.ndarray, confidence: np.ndarray, bins: np.ndarray) -> Estimate:
    """Estimate the mean distance of confidence and accuracy in the bins, weighted by images.

    Args:
        right: bool [N], N > 0.
        confidence: float [N].
        bins: number of each image's bin, int [N].

    The interval is normal. Its variance consists of Agresti and Coull's variance of each bin's
    accuracy, the variance of confidence within bins, and that of the distance between bins. The
    lower end is reduced by the expected distance of a perfectly calibrated model.
    """
    counts = np.bincount(bins)
    filled = counts > 0
    number = counts[filled]
    weight = number / number.sum()

    def per_bin(values: np.ndarray) -> np.ndarray:
        return np.bincount(bins, values)[filled]

    accuracy, mean = per_bin(right) / number, per_bin(confidence) / number
    distance = np.abs(accuracy - mean)
    value = float(weight @ distance)
    likely = (per_bin(right) + 2) / (number + 4)
    chance = likely * (1 - likely)
    spread = per_bin(confidence**2) / number - mean**2
    variance = weight @ (chance + spread + (distance - value) ** 2) / number.sum()
    half = Z * math.sqrt(max(variance, 0.0))
    added = float(weight @ np.sqrt(2 / math.pi * chance / number))
    return Estimate(value=value, low=max(0.0, value - half - added), high=min(1.0, value + half))
