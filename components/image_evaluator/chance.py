"""Tests of significance: exact ones, and for a calibration error seeded draws."""

from __future__ import annotations

import math

import numpy as np
from scipy import stats

_DRAWS = 2000


def mcnemar(lost: int, gained: int, images: int, margin: float = 0.0) -> float:
    """Return the p-value of McNemar's exact one-sided test.

    It is the probability of at least `lost` losses for a candidate whose accuracy is exactly
    `margin` lower. If both models are equally good, an image that only one of them has right is
    lost with a probability of 1/2. With a margin, and a share s of such images, the probability is
    (s + margin) / 2s, and 1 if s <= margin.

    Args:
        lost: images that only the baseline has right.
        gained: images that only the candidate has right.
        images: number of all images.
        margin: drop of accuracy that is allowed, 0 to 1.
    """
    changed = lost + gained
    if not changed:
        return 1.0
    chance = min(1.0, 0.5 + margin * images / (2 * changed))
    return float(stats.binomtest(lost, changed, chance, alternative="greater").pvalue)


def fewest(significance: float) -> int:
    """Return how many gained images, with none lost, `mcnemar` takes for significant.

    For 0.05 it is five, as 1/2^5 = 0.03 and 1/2^4 = 0.06.
    """
    return max(0, math.ceil(-math.log2(significance)))


def calibrated(counts: np.ndarray, confidence: np.ndarray, error: float) -> float:
    """Return the probability that a calibrated model has at least this calibration error.

    Even a calibrated model has an error, which is larger for fewer images: in a bin of one image it
    is the distance of the confidence from 0 or 1.

    Args:
        counts: images of each bin, int [B], positive.
        confidence: their mean confidences, float [B], 0 to 1.
        error: the weighted mean distance of accuracy and confidence, 0 to 1.

    The result is deterministic. All confidences of a bin are taken as equal, which does not reduce
    the variance of its accuracy.
    """
    random = np.random.default_rng(0)
    right = random.binomial(counts, confidence.clip(0, 1), (_DRAWS, len(counts)))
    drawn = np.abs(right - counts * confidence).sum(axis=1) / counts.sum()
    return float(np.mean(drawn >= error - 1e-12))
