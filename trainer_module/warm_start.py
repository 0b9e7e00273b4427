"""Training that begins with the weights of an earlier model, kept beside what is served of it."""

from __future__ import annotations

import posixpath
from collections.abc import Sequence

import keras
import numpy as np

from trainer_module import checkpoint

# Beside "Format-Serving" in a Model artifact: the SavedModel there has lost the order of weights.
# Without layers: some, such as a SavedModel's, cannot be loaded safely.
FOLDER = "Format-Weights"
FILE = "weights.npz"


class WarmStartError(Exception):
    """The earlier model's weights do not fit the new model."""


def save(model: keras.Model, classes: Sequence[str], serving_model_dir: str) -> None:
    """Keep the weights of `model` in the artifact that `serving_model_dir` is in."""
    meta = {"classes": list(classes), "names": [weight.path for weight in model.weights]}
    path = posixpath.join(posixpath.dirname(serving_model_dir.rstrip("/")), FOLDER, FILE)
    checkpoint.write(path, meta, {"weights": model.get_weights()})


def load(model: keras.Model, classes: Sequence[str], base_model: str) -> str:
    """Give `model` the weights of the one in the artifact that the path `base_model` is in.

    Weights of the last layer follow the classes: those of classes that the earlier model knew are
    taken over, those of new ones stay as they are.

    Returns:
        A description of what was taken over.

    Raises:
        WarmStartError: the two are of different architectures, or there is no earlier one.
    """
    path, old, known = _fitting(model, base_model)
    head = _head(model)
    kept = [name for name in classes if name in known]
    to, source = ([each.index(name) for name in kept] for each in (classes, known))
    values: list[np.ndarray] = []
    for weight, before in zip(model.weights, old, strict=True):
        if id(weight) in head:
            after = weight.numpy().copy()
            after[..., to] = before[..., source]
            values.append(after)
        else:
            values.append(before)
    model.set_weights(values)
    return (
        f"warm start from {path}: {len(kept)} of {len(classes)} classes are known to it, "
        f"{len(set(known) - set(classes))} of its own are dropped"
    )


def check(model: keras.Model, base_model: str) -> None:
    """Raise WarmStartError where `load` would, of a model of any number of classes."""
    _fitting(model, base_model)


def _fitting(
    model: keras.Model, base_model: str
) -> tuple[str, Sequence[np.ndarray], Sequence[str]]:
    """Read where the weights of an earlier model are, those that `model` can take, and its classes.

    Raises WarmStartError where it cannot.
    """
    path = posixpath.join(posixpath.dirname(base_model.rstrip("/")), FOLDER, FILE)
    try:
        earlier = checkpoint.read(path)
        old, classes = earlier.arrays["weights"], earlier.meta["classes"]
        names = earlier.meta["names"]
    except checkpoint.UNREADABLE as error:
        raise _refused(path, f"it cannot be loaded: {type(error).__name__}: {error}") from error
    if len(old) != len(model.weights):
        raise _refused(path, f"it has {len(old)} weights, the new model {len(model.weights)}")
    head = _head(model)
    for before, after, name in zip(old, model.weights, names, strict=True):
        wanted = tuple(after.shape)
        if id(after) in head:
            wanted = (*wanted[:-1], len(classes))
        if before.shape != wanted:
            raise _refused(
                path,
                f"its {name} has shape {before.shape}, where the new model has {after.path} with "
                f"{tuple(after.shape)}",
            )
    return path, old, classes


def _head(model: keras.Model) -> set[int]:
    """Collect the ids of the variables of the last layer."""
    last = model.layers[-1]
    while isinstance(last, keras.Model):
        last = last.layers[-1]
    return {id(variable) for variable in last.weights}


def _refused(path: str, why: str) -> WarmStartError:
    return WarmStartError(
        f"the baseline {path} cannot be trained further: {why}; set train.warm_start "
        "to false, or the recipe and its hyperparameters back to those of that model"
    )
