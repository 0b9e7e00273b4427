"""Training that begins with the weights of an earlier model, kept beside what is served of it."""

from __future__ import annotations

import posixpath
from collections.abc import Sequence

import keras

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
        What was taken over, in words.

    Raises:
        WarmStartError: the two are of different architectures, or there is no earlier one.
    """
    path = _path(base_model)
    try:
        earlier = checkpoint.read(path)
        known, names = earlier.meta["classes"], earlier.meta["names"]
        old = earlier.arrays["weights"]
    except checkpoint.UNREADABLE as error:
        raise _refused(path, f"it cannot be loaded: {type(error).__name__}: {error}") from error
    last = model.layers[-1]
    while isinstance(last, keras.Model):
        last = last.layers[-1]
    head = {id(variable) for variable in last.weights}
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
            raise _refused(
                path,
                f"its {names[place]} has shape {before.shape}, where the new model has "
                f"{new[place].path} with {after.shape}",
            )
    model.set_weights(values)
    return (
        f"warm start from {path}: {len(kept)} of {len(classes)} classes are known to it, "
        f"{len(set(known) - set(classes))} of its own are dropped"
    )


def _path(serving_path: str) -> str:
    return posixpath.join(posixpath.dirname(serving_path.rstrip("/")), FOLDER, FILE)


def _refused(path: str, why: str) -> WarmStartError:
    return WarmStartError(
        f"the latest blessed model {path} cannot be trained further: {why}; set train.warm_start "
        "to false, or the recipe and its hyperparameters back to those of that model"
    )
