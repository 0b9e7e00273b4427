"""Tests of significance: exact ones and, for a calibration error, seeded draws."""

from __future__ import annotations

import math

import numpy as np
from scipy import stats

_DRAWS = 2000


def mcnemar(lost: int, gained: int, images: int, margin: float = 0.0) -> float:
    """Return the chance that a candidate which is exactly `margin` worse loses at least as many.

    McNemar's exact one-sided test: an image that only one of the models has right is as likely to
    be lost as gained where they are equally good. With a margin, of the share s of such images
    (s + margin) / 2 are lost, which makes (s + margin) / 2s of them, and 1 where s <= margin.
    """
    changed = lost + gained
    if not changed:
        return 1.0
    chance = min(1.0, 0.5 + margin * images / (2 * changed))
    return float(stats.binomtest(lost, changed, chance, alternative="greater").pvalue)


def fewest(significance: float) -> int:
    """Return the fewest images with which `mcnemar` can show that a faultless model is better.

    At 0.05 there are five, as 1/2^5 = 0.03 and 1/2^4 = 0.06.
    """
    # 1/2^n of a significance that is itself a power of two is exact.
    return max(0, math.ceil(-math.log2(significance)))


def calibrated(counts: np.ndarray, confidence: np.ndarray, error: float) -> float:
    """Return the chance that a calibrated model has at least this calibration error.

    The fewer images there are, the larger the error that such a model shows: in a bin of one image
    it is the distance of its confidence from 0 or 1.

    Args:
        counts: images of each bin, int [B], positive.
        confidence: their mean confidences, float [B], 0 to 1.
        error: the weighted mean distance of accuracy and confidence, 0 to 1.

    The same arguments always give the same chance. Within a bin all confidences are taken for
    equal, which makes the spread of its accuracy no smaller.
    """
    random = np.random.default_rng(0)
    right = random.binomial(counts, confidence.clip(0, 1), (_DRAWS, len(counts)))
    drawn = np.abs(right - counts * confidence).sum(axis=1) / counts.sum()
    return float(np.mean(drawn >= error - 1e-12))
