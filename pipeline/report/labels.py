"""Detection of probably mislabelled images by a model that did not train on them."""

from __future__ import annotations

import warnings
from pathlib import Path

import numpy as np

from components.image_example_gen import source_name

LEAST = 5  # images of a class: with fewer, no label of it is judged
MOST = 0.2  # of the images: where more would be mislabelled, the model cannot tell


def suspects(labels: np.ndarray, probabilities: np.ndarray) -> list[int]:
    """Find the rows whose label is probably wrong, the clearest first.

    Confident learning (arXiv 1911.00068): an image is a suspect if the model is at least as
    confident in another class as it is on average for images of that class. If that holds for more
    than a share of MOST, no row is returned.

    Args:
        labels: int64 [N], -1 for a class that the model does not know; these never count.
        probabilities: float [N, classes], of a model that did not train on the images.
    """
    known = np.flatnonzero(labels >= 0)
    counts = np.bincount(labels[known], minlength=probabilities.shape[1])
    if (counts >= LEAST).sum() < 2:
        return []
    # It imports pandas and scikit-learn.
    from cleanlab.filter import find_label_issues

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # of classes with few images
        found = find_label_issues(
            labels[known],
            probabilities[known].astype(np.float64),
            return_indices_ranked_by="self_confidence",
            min_examples_per_class=LEAST,
            n_jobs=1,
        )
    return [int(known[row]) for row in found] if len(found) <= MOST * len(known) else []


def original(source: str, filename: str) -> str:
    """Return the path of an image that is a file on this machine; else its name in the data."""
    name = source_name.parse(source)
    if name.is_local:
        path = Path(source_name.fixed_part(name.location)).absolute() / filename
        if path.is_file():
            return str(path)
    return filename
