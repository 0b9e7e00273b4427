"""How sure a model is of each training image that did not train on it.

A network that was trained on an image repeats its label, be it wrong. The features of one that is
as it was published do not know the labels, and a linear head on them is fitted in no time: once
for each fifth of the images, to the others.
"""

from __future__ import annotations

import io
import warnings
from collections.abc import Sequence

import numpy as np
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import StratifiedKFold, cross_val_predict
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

FILE = "out_of_fold.npz"
FOLDS = 5
MOST = 200_000_000  # features of all images, times the classes: more would take minutes


def of_training(features: np.ndarray, labels: np.ndarray, digests: Sequence[str]) -> bytes | None:
    """Write an .npz file: digests [N], labels int64 [N] and probabilities float32 [N, classes].

    None where there is more than MOST to compute, or a class of fewer images than FOLDS. Images
    that come several times count once.

    Args:
        features: float32 [M, D], of a network that did not see the labels.
        labels: int64 [M], 0 to classes - 1, with at least one image of each.
        digests: the SHA-256 of the original images.
    """
    _, first = np.unique(np.asarray(digests), return_index=True)
    features, labels = features[first], labels[first]
    counts = np.bincount(labels)
    if features.size * len(counts) > MOST or counts.min() < FOLDS or len(counts) < 2:
        return None
    buffer = io.BytesIO()
    np.savez(
        buffer,
        digests=np.asarray(digests)[first],
        labels=labels,
        probabilities=_probabilities(features, labels).astype(np.float32),
    )
    return buffer.getvalue()


def _probabilities(features: np.ndarray, labels: np.ndarray) -> np.ndarray:
    head = make_pipeline(StandardScaler(), LogisticRegression(C=0.01, max_iter=100))
    folds = StratifiedKFold(FOLDS, shuffle=True, random_state=0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # near enough
        found: np.ndarray = cross_val_predict(
            head, features, labels, cv=folds, method="predict_proba"
        )
    return found
