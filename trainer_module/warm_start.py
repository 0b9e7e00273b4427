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
    checkpoint.write(_path(serving_model_dir), meta, {"weights": model.get_weights()})


def load(model: keras.Model, classes: Sequence[str], base_model: str) -> str:
    """Give `model` the weights of the one in the artifact that the path `base_model` is in.

    Weights of the last layer follow the classes: those of classes that the earlier model knew are
    taken over, those of new ones stay as they are.

    Returns:
        A description of what was taken over.

    Raises:
        WarmStartError: the two are of different architectures, or there is no earlier one.
    """
    path = _path(base_model)
    old, known, names = _earlier(path)
    head = _head(model)
    kept = [name for name in classes if name in known]
    new = model.weights
    if len(old) != len(new):
        raise _refused(path, f"it has {len(old)} weights, the new model {len(new)}")
    values = model.get_weights()
    for place, (before, after) in enumerate(zip(old, values, strict=True)):
        if id(new[place]) in head:
            fits = after.shape[:-1] == before.shape[:-1] and before.shape[-1] == len(known)
            to, source = ([each.index(name) for name in kept] for each in (classes, known))
            if fits:
                values[place] = after.copy()
                values[place][..., to] = before[..., source]
        elif fits := after.shape == before.shape:
            values[place] = before
        if not fits:
            raise _refused(path, _other_shape(names[place], before, new[place]))
    model.set_weights(values)
    return (
        f"warm start from {path}: {len(kept)} of {len(classes)} classes are known to it, "
        f"{len(set(known) - set(classes))} of its own are dropped"
    )


def check(model: keras.Model, base_model: str) -> None:
    """Raise WarmStartError where `load` would, of a model of any number of classes."""
    path = _path(base_model)
    old, _, names = _earlier(path)
    if len(old) != len(model.weights):
        raise _refused(path, f"it has {len(old)} weights, the new model {len(model.weights)}")
    head = _head(model)
    for before, after, name in zip(old, model.weights, names, strict=True):
        end = -1 if id(after) in head else None
        if before.shape[:end] != tuple(after.shape)[:end]:
            raise _refused(path, _other_shape(name, before, after))


def _earlier(path: str) -> tuple[list[np.ndarray], list[str], list[str]]:
    """Read the weights of an earlier model, its classes and the names of the weights."""
    try:
        earlier = checkpoint.read(path)
        return earlier.arrays["weights"], earlier.meta["classes"], earlier.meta["names"]
    except checkpoint.UNREADABLE as error:
        raise _refused(path, f"it cannot be loaded: {type(error).__name__}: {error}") from error


def _head(model: keras.Model) -> set[int]:
    """Collect the ids of the variables of the last layer."""
    last = model.layers[-1]
    while isinstance(last, keras.Model):
        last = last.layers[-1]
    return {id(variable) for variable in last.weights}


def _other_shape(name: str, before: np.ndarray, after: keras.Variable) -> str:
    return (
        f"its {name} has shape {before.shape}, where the new model has {after.path} with "
        f"{tuple(after.shape)}"
    )


def _path(serving_path: str) -> str:
    return posixpath.join(posixpath.dirname(serving_path.rstrip("/")), FOLDER, FILE)


def _refused(path: str, why: str) -> WarmStartError:
    return WarmStartError(
        f"the baseline {path} cannot be trained further: {why}; set train.warm_start "
        "to false, or the recipe and its hyperparameters back to those of that model"
    )
