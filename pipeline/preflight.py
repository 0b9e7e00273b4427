"""What is checked before the first node: a run that cannot end well says so in its first seconds.

The same for `run`, `retrain`, `data show` and the first task of a compiled pipeline. In a pod, what
is not mounted there is left to the pods that have it.
"""

from __future__ import annotations

import dataclasses
import functools
import logging
import math
import os
import re
import shutil
import socket
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from components import environment, progress, storage
from components.errors import BadDataError
from components.model_registry import Keys, Registry
from pipeline import beam_runner, doctor, probe
from pipeline import config as configuration
from pipeline.errors import ConfigError
from pipeline.recipe_choice import AUTO, count_gpus
from pipeline.settings import Config

if TYPE_CHECKING:
    import keras
    from ml_metadata.proto import metadata_store_pb2

    from trainer_module import footprint
    from trainer_module.recipes.base import Recipe

_LOG = logging.getLogger("perennial.preflight")

NOT_HERE = "not mounted here, so left to the pod that has it"
LEAST_DISK = 32_000_000  # bytes: metadata, the model in three copies, the report
_FULL = 0.98  # of the memory: what the least that a step takes must not exceed
_TIGHT = 0.5  # of it: some networks take twice the estimate; see trainer_module/footprint.py
_TOLD = ("Keras", "GPU", "TF_CONFIG")  # to people too, as it may not be what they expect
_XLA_FLAGS = ("XLA_FLAGS", "TF_XLA_FLAGS")
_TRY_XLA = "import tensorflow as tf; tf.function(lambda: tf.constant(1) + 1, jit_compile=True)()"


@dataclasses.dataclass
class PreflightContext:
    """Where a run is about to begin.

    Attributes:
      config: all settings.
      origins: the layer that set each of them.
      connection: to ML Metadata, None where there is none yet.
      pod: whether nodes run in pods of their own, which need not find what this process does.
      scheduled: whether it is a retraining, which labels versions and tells people.
    """

    config: Config
    origins: Mapping[str, str] = dataclasses.field(default_factory=dict)
    connection: metadata_store_pb2.ConnectionConfig | None = None
    pod: bool = False
    scheduled: bool = False

    @functools.cached_property
    def model(self) -> keras.Model | None:
        """The model, without memory for its weights, for which those configured were fetched.

        None where that is left to the Trainer. Raises ConfigError where there cannot be one.
        """
        from trainer_module import devices, recipes
        from trainer_module.weights import WeightsError

        config, recipe = self.config, recipes.get(self.config.train.recipe)
        key, source = configuration.weights_of(config)
        if self.pod and source.startswith("/") and _is_elsewhere(source):
            return None
        # With other processes, training has to be the first thing that TensorFlow does.
        if not self.pod and len(devices.cluster()[1]) > 1:
            return None
        try:
            return _without_values(recipe, config)
        except WeightsError as error:
            raise ConfigError(f"{key}: {error}{_alternative(self)}") from error
        except ValueError as error:
            raise ConfigError(
                f"train.recipe = {config.train.recipe!r} with transform.image_size = "
                f"{config.transform.image_size}: {_line(error)}"
            ) from error
        except Exception:
            _LOG.exception("the model cannot be built before the run")
            return None

    @functools.cached_property
    def survey(self) -> probe.Survey | None:
        """A look at the images, where they are on this machine."""
        return probe.survey(self.config.data.source)


def _without_values(recipe: Recipe, config: Config) -> keras.Model:
    import keras

    from trainer_module.weights import WeightsError

    def build() -> keras.Model:
        model = recipe.build_model(settings, config.transform.image_size, 2)
        recipe.check_model(settings, model, config.train.epochs)
        return model

    settings = config.train.hyperparameters
    try:
        # What is assigned to a weight stays in the scope, after a look at its shape.
        with keras.StatelessScope(initialize_variables=False):
            return build()
    except (ValueError, WeightsError) as error:
        if "stateless scope" not in str(error):
            raise
        return build()  # with a SavedModel in it, which brings its own values
    finally:
        keras.utils.clear_session()  # the names that layers are given count on from here otherwise


def check(place: PreflightContext, checked: list[dict[str, str]]) -> None:
    """Check everything, and add what was found to `checked`: for each its name and the finding.

    Enter it where libraries are quiet: TensorFlow is imported. What is quick comes first.

    Raises:
        ConfigError: names the setting or the variable, and what to do.
        DataError: data.source cannot be read.
    """
    for name, find in _CHECKS.items():
        if found := find(place):
            checked.append({"check": name, "found": found})
            if name in _TOLD:
                progress.report("note", text=f"{name}: {found}")


def _paths(place: PreflightContext) -> str:
    if place.pod:
        folder = place.config.data.folder
        if folder is not None and _is_elsewhere(str(folder)):
            return NOT_HERE
        configuration.check_data(place.config.data)
        return "data.source is there"
    configuration.check_paths(place.config)
    return "all that the settings name are there"


def _push(place: PreflightContext) -> str:
    base = place.config.push_directory
    if place.pod and (not place.config.push.directory or _is_elsewhere(base)):
        return NOT_HERE if place.config.push.directory else ""
    try:
        found = Registry(base).numbers()
    except ConfigError as error:
        raise ConfigError(f"push.directory: {error}") from error
    except Exception as error:  # of any of TensorFlow's file systems
        raise ConfigError(f"push.directory: {base} cannot be listed: {_line(error)}") from error
    return f"{base} holds {len(found)} versions and nothing else"


def _keys(place: PreflightContext) -> str:
    files = place.config.push.signing
    if files.private_key is None or files.public_key is None:
        return ""
    if place.pod and not (files.private_key.exists() and files.public_key.exists()):
        return NOT_HERE
    keys = Keys(files.private_key, files.public_key)
    with tempfile.TemporaryDirectory(prefix="perennial-") as folder:
        Path(folder, "any").write_text("", encoding="utf-8")
        try:
            keys.sign(Path(folder))
        except ImportError as error:
            raise ConfigError(
                f"push.signing: {error.name} is not installed; run: pip install perennial[signing]"
            ) from error
    return "the keys are a pair"


def _schema(place: PreflightContext) -> str:
    file = place.config.data.schema_file
    if file is None or (place.pod and not file.exists()):
        return NOT_HERE if file else ""
    from components.image_schema_gen.schema import class_names, read_schema

    try:
        classes = class_names(read_schema(file))
    except BadDataError as error:
        raise ConfigError(f"data.schema_file: {error}") from error
    named = {name.partition("=")[2] for name in place.config.evaluate.max_drop if "class=" in name}
    if unknown := sorted(named - set(classes)):
        raise ConfigError(
            f"evaluate.max_drop: {', '.join(unknown)} is no class of {file}; there are "
            f"{', '.join(classes)}"
        )
    return f"{len(classes)} classes"


def _server(place: PreflightContext) -> str:
    if not place.config.infra_validation.enabled or place.pod:
        return ""
    from components.model_server import launch

    backend = launch.find_backend()
    image = os.environ.get(launch.IMAGE_VARIABLE)
    if image and backend.kind is launch.Kind.OWN:
        raise ConfigError(
            f"{launch.IMAGE_VARIABLE}={image}: no Docker engine answers here; start it, unset the "
            "variable to try candidates in the project's own server, or set "
            "infra_validation.enabled to false"
        )
    try:
        socket.create_server((launch.LOOPBACK, 0)).close()
    except OSError as error:
        raise ConfigError(
            f"infra_validation: no server can listen on {launch.LOOPBACK}: {error.strerror}; set "
            "infra_validation.enabled to false, or give this machine a loopback interface"
        ) from error
    return f"candidates are tried in {backend.kind}"


def _beam(place: PreflightContext) -> str:
    if place.pod:
        beam_runner.check_pods(place.config.beam)
    return "; ".join(filter(None, beam_runner.check(place.config.beam)))


def _people(place: PreflightContext) -> str:
    if not place.scheduled:
        return ""
    config = place.config
    for server in config.retrain.servers:
        host, _, port = server.rpartition(":")
        if not (host and port.isdecimal()):
            raise ConfigError(f"retrain.servers: {server!r} must be HOST:PORT")
    url = os.environ.get(config.notify.webhook_env, "").strip()
    if url and not re.match(r"https?://[^/?#]+", url, re.IGNORECASE):
        raise ConfigError(
            f"notify.webhook_env: {config.notify.webhook_env} does not hold an http or https URL; "
            "set the variable to the webhook's, or unset it"
        )
    return f"{len(config.retrain.servers)} servers; {'a' if url else 'no'} webhook"


def _xla(place: PreflightContext) -> str:
    """Try the flags in a process of its own: TensorFlow ends the one that has unknown ones."""
    given = [f"{name}={os.environ[name]}" for name in _XLA_FLAGS if os.environ.get(name)]
    if not given or place.pod:
        return ""
    command = [sys.executable, "-P", "-c", _TRY_XLA]
    done = subprocess.run(command, capture_output=True, text=True, errors="replace", check=False)
    if done.returncode != 0:
        # What ends a process is a line of its log of the level F.
        fatal = re.findall(r"^F\d{4} .*?\] (.+)$", done.stderr, re.MULTILINE)
        raise ConfigError(
            f"{' '.join(given)}: TensorFlow cannot start with this: "
            f"{fatal[0] if fatal else f'it ends with {done.returncode}'}; correct the variable or "
            "unset it"
        )
    return " ".join(given)


def _workers(place: PreflightContext) -> str:
    if not os.environ.get("TF_CONFIG") or place.pod:
        return ""
    from trainer_module import devices

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


def _keras(_: PreflightContext) -> str:
    try:
        overruled = environment.overruled()
    except ValueError as error:
        raise ConfigError(str(error)) from error
    values = ", ".join(f"{name} = {value}" for name, value in overruled.items())
    return f"overruled: {values}" if values else ""


def _gpus(place: PreflightContext) -> str:
    """Tell of GPUs that TensorFlow does not see: a wrong CUDA_VISIBLE_DEVICES is no error to it."""
    if place.pod or not (there := count_gpus()):
        return ""
    import tensorflow as tf

    used = len(tf.config.list_physical_devices("GPU"))
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    why = "" if visible is None else f" (CUDA_VISIBLE_DEVICES={visible})"
    return f"{used} of the {there} GPUs here are used{why}" if used < there else ""


def _disk(place: PreflightContext) -> str:
    if place.pod:
        return ""
    folder = next(
        path for path in (place.config.workspace, *place.config.workspace.parents) if path.exists()
    )
    free, needed = shutil.disk_usage(folder).free, _disk_needed(place.config, place.survey)
    if free < needed:
        raise ConfigError(
            f"workspace: {_size(free)} are free on the disk that holds {folder}, and this run "
            f"needs {_size(needed)} or more; make room, or name another folder with --workspace"
        )
    return f"{_size(free)} free, at least {_size(needed)} needed"


def _disk_needed(config: Config, found: probe.Survey | None) -> int:
    """Bytes that the prepared images take, which are kept as they are: each pixel three bytes."""
    images = found.images or 0 if found else 0
    sizes = {config.transform.image_size, config.transform.train_size or 0}
    return LEAST_DISK + images * sum(3 * size * size for size in sizes)


def _recipe(place: PreflightContext) -> str:
    if place.model is None:
        return NOT_HERE if place.pod else "left to the Trainer"
    config = place.config
    count = len(place.model.weights)
    return f"{config.train.recipe} at {config.transform.image_size} px, {count} weights"


def _alternative(place: PreflightContext) -> str:
    """What more can be done where the recipe was not chosen by a person."""
    origin = place.origins.get("train.recipe", "")
    if not origin.startswith(AUTO):
        return ""
    return (
        f"; or name another recipe than {place.config.train.recipe}, which is chosen by {origin}: "
        "--recipe vit needs no weights"
    )


def _memory(place: PreflightContext) -> str:
    """Compare what one training step takes with what there is."""
    if place.pod:
        return ""
    from trainer_module import devices, footprint, recipes
    from trainer_module.models import inference

    config = place.config
    model = place.model
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
    least = f"at least {_size(needs.of(part))} a step, of {_size(room)} of {where}"
    if needs.of(part) <= room * _FULL:
        if needs.of(part) > room * _TIGHT:
            text = f"memory: {least}; it may be more than there is: {_smaller(share, needs, room)}"
            progress.report("note", text=text)
        return f"{least}{f', a batch in {parts} parts' if parts > 1 else ''}"
    raise ConfigError(
        f"train.batch_size = {config.train.batch_size}: a step of {config.train.recipe} with "
        f"{part} images of {size} px takes {_size(needs.of(part))} or more, "
        f"and {where} has {_size(room)}; {_smaller(share, needs, room)}"
    )


def _smaller(share: int, needs: footprint.Footprint, room: float) -> str:
    from trainer_module import footprint

    fitting = needs.images(room * footprint.COMFORTABLE)
    if not fitting:
        return "take a smaller network, or a machine with more memory"
    return (
        f"set train.gradient_accumulation to {math.ceil(share / fitting)} or more, or make "
        "train.batch_size or transform.image_size smaller"
    )


def _room() -> tuple[float, str, int]:
    """Bytes that a step can have, of what, and among how many of them the images are shared."""
    import tensorflow as tf

    from trainer_module import devices

    if gpus := len(tf.config.list_physical_devices("GPU")):
        return devices.memory(), "a GPU", gpus
    return doctor.memory_bytes() or float("inf"), "this machine", 1


def _step_images(place: PreflightContext) -> int:
    """Images of a step: no more than there are, as far as that is known."""
    size = place.config.train.batch_size
    # Not their share in train: the splits need not be those of the configuration.
    return min(size, place.survey.images or size) if place.survey else size


def _warm_start(place: PreflightContext) -> str:
    if not place.config.train.warm_start or place.connection is None:
        return ""
    from components.lineage import Lineage
    from trainer_module import warm_start

    baseline = Lineage.at(place.connection).history(place.config.name).baseline
    model = place.model
    if baseline is None or model is None:
        return "no blessed model to start from" if baseline is None else ""
    try:
        warm_start.check(model, storage.join(baseline.uri, "Format-Serving"))
    except warm_start.WarmStartError as error:
        raise ConfigError(f"train.warm_start: {error}") from error
    return f"from {baseline.uri}"


def _is_elsewhere(path: str) -> bool:
    """Whether even the folder of a path is missing: in a pod, a volume that others have."""
    return not storage.is_uri(path) and not Path(path).parent.is_dir()


def _line(error: Exception) -> str:
    return " ".join(str(error).split())[:300] or type(error).__name__


def _size(count: float) -> str:
    return f"{count / 1e9:.1f} GB" if count >= 1e9 else f"{count / 1e6:.0f} MB"


# What imports TensorFlow comes after its flags were tried.
_CHECKS: Mapping[str, Callable[[PreflightContext], str]] = {
    "paths": _paths,
    "push.signing": _keys,
    "data.schema_file": _schema,
    "infra_validation": _server,
    "retrain": _people,
    "beam": _beam,
    "disk": _disk,
    "XLA": _xla,
    "Keras": _keras,
    "GPU": _gpus,
    "push.directory": _push,
    "TF_CONFIG": _workers,
    "train.recipe": _recipe,
    "memory": _memory,
    "train.warm_start": _warm_start,
}
