"""Checks before the first node that need TensorFlow: devices, model, memory and warm start."""

from __future__ import annotations

import functools
import logging
import math
import os
from collections.abc import Callable, Mapping

import keras
import tensorflow as tf

from components import progress, storage
from components.lineage import Lineage
from components.model_registry import Registry
from components.wording import counted
from pipeline import config as configuration
from pipeline import doctor
from pipeline.errors import ConfigError
from pipeline.preflight import (
    NOT_HERE,
    Check,
    PreflightContext,
    error_line,
    is_elsewhere,
    size_text,
)
from pipeline.recipe_choice import AUTO, count_gpus
from pipeline.settings import Config
from trainer_module import devices, footprint, recipes, warm_start
from trainer_module.models import inference
from trainer_module.recipes.base import Recipe
from trainer_module.weights import WeightsError

_LOG = logging.getLogger("perennial.preflight")
_FULL = 0.98  # of the memory: what the least that a step takes must not exceed
_TIGHT = 0.5  # of it: some networks take twice the estimate; see trainer_module/footprint.py


def checks(place: PreflightContext) -> Mapping[str, Check]:
    """Return the checks by name, in their order. Those of the model share one."""
    model = functools.cache(lambda: build(place))
    return {
        "GPU": _gpus,
        "push.directory": _push,
        "TF_CONFIG": _workers,
        "train.recipe": lambda place: _recipe(place, model()),
        "memory": lambda place: "" if place.pod else memory(place, model()),
        "train.warm_start": lambda place: _warm_start(place, model),
    }


def build(place: PreflightContext) -> keras.Model | None:
    """Build the model without memory for its weights, and fetch those that are configured.

    Returns None where that is left to the Trainer. Raises ConfigError where it cannot be built.
    """
    config, recipe = place.config, recipes.get(place.config.train.recipe)
    key, source = configuration.weights_of(config)
    if place.pod and source.startswith("/") and is_elsewhere(source):
        return None
    # With other processes, training has to be the first thing that TensorFlow does.
    if not place.pod and len(devices.cluster()[1]) > 1:
        return None
    try:
        return _without_values(recipe, config)
    except WeightsError as error:
        raise ConfigError(f"{key}: {error}{_alternative(place)}") from error
    except ValueError as error:
        raise ConfigError(
            f"train.recipe = {config.train.recipe!r} with transform.image_size = "
            f"{config.transform.image_size}: {error_line(error)}"
        ) from error
    except Exception:
        _LOG.exception("the model cannot be built before the run")
        return None


def _without_values(recipe: Recipe, config: Config) -> keras.Model:
    def build() -> keras.Model:
        model = recipe.build_model(settings, config.transform.image_size, 2)
        recipe.check_model(settings, model, config.train.epochs)
        return model

    settings = config.train.hyperparameters
    try:
        # Values of weights stay in the scope; only their shapes are checked.
        with keras.StatelessScope(initialize_variables=False):
            return build()
    except (ValueError, WeightsError) as error:
        if "stateless scope" not in str(error):
            raise
        return build()  # with a SavedModel in it, which brings its own values
    finally:
        keras.utils.clear_session()  # the names that layers are given count on from here otherwise


def _push(place: PreflightContext) -> str:
    base = place.config.push_directory
    if place.pod and (not place.config.push.directory or is_elsewhere(base)):
        return NOT_HERE if place.config.push.directory else ""
    try:
        found = Registry(base).numbers()
    except ConfigError as error:
        raise ConfigError(f"push.directory: {error}") from error
    except Exception as error:  # of any of TensorFlow's file systems
        raise ConfigError(
            f"push.directory: {base} cannot be listed: {error_line(error)}"
        ) from error
    return f"{base} holds {counted(len(found), 'version')} and nothing else"


def _gpus(place: PreflightContext) -> str:
    """Describe GPUs that TensorFlow does not see, as with a wrong CUDA_VISIBLE_DEVICES."""
    if place.pod or not (there := count_gpus()):
        return ""
    used = len(tf.config.list_physical_devices("GPU"))
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    why = "" if visible is None else f" (CUDA_VISIBLE_DEVICES={visible})"
    return f"{used} of {counted(there, 'GPU')} used{why}" if used < there else ""


def _workers(place: PreflightContext) -> str:
    if not os.environ.get("TF_CONFIG") or place.pod:
        return ""
    try:
        position, addresses = devices.cluster()
    except devices.DeviceError as error:
        raise ConfigError(str(error)) from error
    if len(addresses) < 2:
        return ""
    if position:
        raise ConfigError(
            f"TF_CONFIG makes this the training process {position + 1} of {len(addresses)}, which "
            "writes no model to judge; start the run as the first one, or unset TF_CONFIG to train "
            "here alone"
        )
    return (
        f"the Trainer waits up to {place.config.train.worker_timeout} s for {', '.join(addresses)}"
    )


def _recipe(place: PreflightContext, model: keras.Model | None) -> str:
    if model is None:
        return NOT_HERE if place.pod else "left to the Trainer"
    config = place.config
    count = len(model.weights)
    return f"{config.train.recipe} at {config.transform.image_size} px, {counted(count, 'weight')}"


def _alternative(place: PreflightContext) -> str:
    """Name another recipe, where this one was not chosen by a person."""
    origin = place.origins.get("train.recipe", "")
    if not origin.startswith(AUTO):
        return ""
    return (
        f"; or name another recipe than {place.config.train.recipe}, which is chosen by {origin}: "
        "--recipe vit needs no weights"
    )


def memory(place: PreflightContext, model: keras.Model | None) -> str:
    """Compare the memory that one training step takes with that of the machine."""
    config = place.config
    if model is None:
        return ""
    recipe, settings = recipes.get(config.train.recipe), config.train.hyperparameters
    recipe.most_trained(settings, model, config.train.epochs)
    each = 4 if devices.dtype_policy(config.train.precision) == "float32" else 2
    size = recipe.training_size(settings, config.transform.image_size)
    needs = footprint.measure(model, each, size)
    room, where, gpus = _room()
    share = -(-_step_images(place) // gpus)
    parts = config.train.gradient_accumulation or footprint.parts(model, share, room, each, size)
    part = -(-share // parts)
    if part == 1 and next(inference.batch_statistics(model), None):
        raise ConfigError(
            f"train.gradient_accumulation: "
            f"{inference.one_image(config.train.recipe, config.train.batch_size, parts)}"
        )
    least = f"at least {size_text(needs.of(part))} a step, of {size_text(room)} of {where}"
    if needs.of(part) <= room * _FULL:
        if needs.of(part) > room * _TIGHT:
            text = f"memory: {least}; it may be more than there is: {_smaller(share, needs, room)}"
            progress.report("note", text=text)
        return f"{least}{f', a batch in {parts} parts' if parts > 1 else ''}"
    raise ConfigError(
        f"train.batch_size = {config.train.batch_size}: a step of {config.train.recipe} with "
        f"{counted(part, 'image')} of {size} px takes {size_text(needs.of(part))} or more, "
        f"and {where} has {size_text(room)}; {_smaller(share, needs, room)}"
    )


def _smaller(share: int, needs: footprint.Footprint, room: float) -> str:
    fitting = needs.images(room * footprint.COMFORTABLE)
    if not fitting:
        return "take a smaller network, or a machine with more memory"
    return (
        f"set train.gradient_accumulation to {math.ceil(share / fitting)} or more, or make "
        "train.batch_size or transform.image_size smaller"
    )


def _room() -> tuple[float, str, int]:
    """Bytes that a step can have, of what, and among how many of them the images are shared."""
    if gpus := len(tf.config.list_physical_devices("GPU")):
        return devices.memory(), "a GPU", gpus
    return doctor.memory_bytes() or float("inf"), "this machine", 1


def _step_images(place: PreflightContext) -> int:
    """Images of a step: no more than there are, as far as that is known."""
    size = place.config.train.batch_size
    # Not their share in train: the splits need not be those of the configuration.
    return min(size, place.survey.images or size) if place.survey else size


def _warm_start(place: PreflightContext, build_model: Callable[[], keras.Model | None]) -> str:
    if not place.config.train.warm_start or place.connection is None:
        return ""
    baseline = Lineage.at(place.connection).history(place.config.name).baseline
    model = build_model() if baseline else None
    if baseline is None or model is None:
        return "no blessed model to start from" if baseline is None else ""
    try:
        warm_start.check(model, storage.join(baseline.uri, "Format-Serving"))
    except warm_start.WarmStartError as error:
        raise ConfigError(f"train.warm_start: {error}") from error
    return f"from {baseline.uri}"
