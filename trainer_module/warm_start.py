"""Training that begins with the weights of an earlier model, kept beside what is served of it."""

from __future__ import annotations

import json
import os
import posixpath
from collections.abc import Sequence

import keras
from tfx.utils import io_utils

# Beside "Format-Serving" in a Model artifact: the SavedModel there has lost the Keras layers.
FOLDER = "Format-Keras"
MODEL_FILE = "model.keras"
CLASSES_FILE = "classes.json"


class WarmStartError(Exception):
    """The earlier model's weights do not fit the new model."""


def save(model: keras.Model, classes: Sequence[str], serving_model_dir: str) -> None:
    """Keep `model` in the artifact that `serving_model_dir` is in."""
    folder = _folder(serving_model_dir)
    io_utils.write_string_file(
        posixpath.join(folder, CLASSES_FILE), json.dumps(list(classes), ensure_ascii=False) + "\n"
    )
    model.save(os.path.join(folder, MODEL_FILE))


def load(model: keras.Model, classes: Sequence[str], base_model: str) -> str:
    """Give `model` the weights of the one in the artifact that the path `base_model` is in.

    Weights of the last layer follow the classes: those of classes that the earlier model knew are
    taken over, those of new ones stay as they are.

    Returns:
        What was taken over, in words.

    Raises:
        WarmStartError: the two are of different architectures, or there is no earlier one.
    """
    folder = _folder(base_model)
    path = posixpath.join(folder, MODEL_FILE)
    try:
        known = json.loads(io_utils.read_string_file(posixpath.join(folder, CLASSES_FILE)))
        earlier = keras.saving.load_model(path, compile=False, safe_mode=True)
    except Exception as error:  # zipfile's, h5py's, TensorFlow's and Keras's own
        raise _refused(path, f"it cannot be loaded: {type(error).__name__}: {error}") from error
    last = model.layers[-1]
    while isinstance(last, keras.Model):
        last = last.layers[-1]
    head = {id(variable) for variable in last.weights}
    kept = [name for name in classes if name in known]
    old, new = earlier.weights, model.weights
    if len(old) != len(new):
        raise _refused(path, f"it has {len(old)} weights, the new model {len(new)}")
    values = [array.copy() for array in model.get_weights()]
    earlier_values = earlier.get_weights()
    for place, (before, after) in enumerate(zip(earlier_values, values, strict=True)):
        if id(new[place]) in head:
            fits = after.shape[:-1] == before.shape[:-1] and before.shape[-1] == len(known)
            to, source = ([names.index(name) for name in kept] for names in (classes, known))
            if fits:
                after[..., to] = before[..., source]
        elif fits := after.shape == before.shape:
            values[place] = before
        if not fits:
            raise _refused(
                path,
                f"its {old[place].path} has shape {before.shape}, where the new model has "
                f"{new[place].path} with {after.shape}",
            )
    model.set_weights(values)
    return (
        f"warm start from {path}: {len(kept)} of {len(classes)} classes are known to it, "
        f"{len(set(known) - set(classes))} of its own are dropped"
    )


def _folder(serving_path: str) -> str:
    return posixpath.join(posixpath.dirname(serving_path.rstrip("/")), FOLDER)


def _refused(path: str, why: str) -> WarmStartError:
    return WarmStartError(
        f"the latest blessed model {path} cannot be trained further: {why}; set train.warm_start "
        "to false, or the recipe and its hyperparameters back to those of that model"
    )
