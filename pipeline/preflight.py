"""Checks before the first node: a run that must fail does so in its first seconds.

The same for `run`, `retrain`, `data show` and the first task of a compiled pipeline. In a pod, what
is not mounted there is left to the pods that have it.
"""

from __future__ import annotations

import dataclasses
import functools
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
from components.image_schema_gen.schema import class_names, read_schema
from components.model_registry import Keys
from components.model_server import launch
from components.wording import counted
from pipeline import addresses, beam_runner, probe
from pipeline import config as configuration
from pipeline.errors import ConfigError
from pipeline.settings import Config

if TYPE_CHECKING:
    from ml_metadata.proto import metadata_store_pb2

NOT_HERE = "not mounted here, so left to the pod that has it"
LEAST_DISK = 32_000_000  # bytes: metadata, the model in three copies, the report
_TOLD = ("Keras", "GPU", "TF_CONFIG")  # to people too, as it may not be what they expect
_XLA_FLAGS = ("XLA_FLAGS", "TF_XLA_FLAGS")
_TRY_XLA = "import tensorflow as tf; tf.function(lambda: tf.constant(1) + 1, jit_compile=True)()"


@dataclasses.dataclass
class PreflightContext:
    """The settings and surroundings of a run that is about to begin.

    Attributes:
      config: all settings.
      origins: the layer that set each of them.
      connection: to ML Metadata, None where there is none yet.
      pod: whether nodes run in pods of their own, which need not find what this process does.
      scheduled: whether it is a retraining, which labels versions and sends notifications.
    """

    config: Config
    origins: Mapping[str, str] = dataclasses.field(default_factory=dict)
    connection: metadata_store_pb2.ConnectionConfig | None = None
    pod: bool = False
    scheduled: bool = False

    @functools.cached_property
    def survey(self) -> probe.Survey | None:
        """Number and size of the images, where they are on this machine."""
        return probe.survey(self.config.data.source)


Check = Callable[[PreflightContext], str]  # returns what was found; raises ConfigError, DataError


def check(place: PreflightContext, checked: list[dict[str, str]]) -> None:
    """Check everything, and add the name of each check and what it found to `checked`.

    Enter it where output is redirected: TensorFlow is imported. What is quick comes first.

    Raises:
        ConfigError: names the setting or the variable, and what to do.
        DataError: data.source cannot be read.
    """
    _run(_CHECKS, place, checked)
    # It imports TensorFlow, whose flags have been tried now.
    from pipeline import model_checks

    _run(model_checks.checks(place), place, checked)


def _run(
    checks: Mapping[str, Check], place: PreflightContext, checked: list[dict[str, str]]
) -> None:
    for name, find in checks.items():
        if found := find(place):
            checked.append({"check": name, "found": found})
            if name in _TOLD:
                progress.report("note", text=f"{name}: {found}")


def _paths(place: PreflightContext) -> str:
    if place.pod:
        folder = place.config.data.folder
        if folder is not None and is_elsewhere(str(folder)):
            return NOT_HERE
        configuration.check_data(place.config.data)
        return "data.source is there"
    configuration.check_paths(place.config)
    return "all that the settings name are there"


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
    try:
        classes = class_names(read_schema(file))
    except BadDataError as error:
        raise ConfigError(f"data.schema_file: {error}") from error
    named = {name.partition("=")[2] for name in place.config.evaluate.max_drop if "class=" in name}
    if unknown := sorted(named - set(classes)):
        raise ConfigError(
            f"evaluate.max_drop: {', '.join(unknown)} is not a class of {file}; there are "
            f"{', '.join(classes)}"
        )
    return counted(len(classes), "class")


def _server(place: PreflightContext) -> str:
    if not place.config.infra_validation.enabled or place.pod:
        return ""
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
    addresses.check("retrain.servers:", *config.retrain.servers)
    url = os.environ.get(config.notify.webhook_env, "").strip()
    if url and not re.match(r"https?://[^/?#]+", url, re.IGNORECASE):
        raise ConfigError(
            f"notify.webhook_env: {config.notify.webhook_env} does not hold an http or https URL; "
            "set the variable to the webhook's, or unset it"
        )
    return f"{counted(len(config.retrain.servers), 'server')}; {'a' if url else 'no'} webhook"


def _xla(place: PreflightContext) -> str:
    """Try the flags in a process of its own: TensorFlow ends the one that has unknown ones."""
    given = [f"{name}={os.environ[name]}" for name in _XLA_FLAGS if os.environ.get(name)]
    if not given or place.pod:
        return ""
    command = [sys.executable, "-P", "-c", _TRY_XLA]
    done = subprocess.run(command, capture_output=True, text=True, errors="replace", check=False)
    if done.returncode != 0:
        # The reason is a line of its log of the level F.
        fatal = re.findall(r"^F\d{4} .*?\] (.+)$", done.stderr, re.MULTILINE)
        raise ConfigError(
            f"{' '.join(given)}: TensorFlow cannot start with this: "
            f"{fatal[0] if fatal else f'it ends with {done.returncode}'}; correct the variable or "
            "unset it"
        )
    return " ".join(given)


def _keras(_: PreflightContext) -> str:
    try:
        overruled = environment.overruled()
    except ValueError as error:
        raise ConfigError(str(error)) from error
    values = ", ".join(f"{name} = {value}" for name, value in overruled.items())
    return f"overruled: {values}" if values else ""


def _disk(place: PreflightContext) -> str:
    if place.pod:
        return ""
    folder = next(
        path for path in (place.config.workspace, *place.config.workspace.parents) if path.exists()
    )
    free, needed = shutil.disk_usage(folder).free, _disk_needed(place.config, place.survey)
    if free < needed:
        raise ConfigError(
            f"workspace: {size_text(free)} are free on the disk that holds {folder}, and this run "
            f"needs {size_text(needed)} or more; make room, or name another folder with --workspace"
        )
    return f"{size_text(free)} free, at least {size_text(needed)} needed"


def _disk_needed(config: Config, found: probe.Survey | None) -> int:
    """Bytes that the prepared images take, which are kept as they are: each pixel three bytes."""
    images = found.images or 0 if found else 0
    sizes = {config.transform.image_size, config.transform.train_size or 0}
    return LEAST_DISK + images * sum(3 * size * size for size in sizes)


def is_elsewhere(path: str) -> bool:
    """Tell whether even the folder of a path is missing: in a pod, a volume of other pods."""
    return not storage.is_uri(path) and not Path(path).parent.is_dir()


def error_line(error: Exception) -> str:
    return " ".join(str(error).split())[:300] or type(error).__name__


def size_text(count: float) -> str:
    return f"{count / 1e9:.1f} GB" if count >= 1e9 else f"{count / 1e6:.0f} MB"


_CHECKS: Mapping[str, Check] = {
    "paths": _paths,
    "push.signing": _keys,
    "data.schema_file": _schema,
    "infra_validation": _server,
    "retrain": _people,
    "beam": _beam,
    "disk": _disk,
    "XLA": _xla,
    "Keras": _keras,
}
