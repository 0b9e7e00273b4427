"""The environment of a process, made the same on every machine before anything heavy is loaded.

The one home of this for the command line, pods, model servers, Beam's workers and tests.
"""

from __future__ import annotations

import getpass
import json
import os
import sys
from collections.abc import Mapping
from pathlib import Path
from types import ModuleType

import wrapt

BACKEND = "tensorflow"
DATA_FORMAT = "channels_last"
FLOATX = "float32"
EPSILON = 1e-7
_FLOATS = ("float32", "float16", "float64")
# What else changes Keras: a limit on epochs or steps also cuts predictions off.
_KERAS_VARIABLES = ("KERAS_MAX_EPOCHS", "KERAS_MAX_STEPS_PER_EPOCH")
_LOOPBACK = ("localhost", "127.0.0.1", "::1")
_PROXIES = ("grpc_proxy", "https_proxy", "http_proxy", "all_proxy")


# What pin_keras has found and overruled, by name.
_overruled: dict[str, str] = {}


def prepare() -> None:
    """Set up a process of the project's own, at its very start."""
    open_standard_streams()
    name_user()
    pin_keras()
    keep_calls_direct()
    # For processes that this one starts: a user's pipeline.py in the working directory is not ours.
    os.environ["PYTHONSAFEPATH"] = "1"


def pin_keras() -> None:
    """Have Keras, once it is imported, as its recipes expect it, whatever the user has set up.

    That is KERAS_BACKEND, and the backend, image_data_format, floatx and epsilon of keras.json.
    """
    if (backend := os.environ.get("KERAS_BACKEND") or BACKEND) != BACKEND:
        _overruled["KERAS_BACKEND"] = backend
    os.environ["KERAS_BACKEND"] = BACKEND
    for name in _KERAS_VARIABLES:
        if value := os.environ.pop(name, None):
            _overruled[name] = value
    wrapt.register_post_import_hook(_set_up_keras, "keras")


def _set_up_keras(keras: ModuleType) -> None:
    keras.config.set_image_data_format(DATA_FORMAT)
    keras.config.set_floatx(FLOATX)
    keras.config.set_epsilon(EPSILON)


def keep_calls_direct() -> None:
    """Name loopback, and the training processes of TF_CONFIG, among what no proxy is for.

    Only where the environment names a proxy. gRPC, Beam and TensorFlow read the same variables.
    """
    if not any(os.environ.get(form) for name in _PROXIES for form in (name, name.upper())):
        return
    for variable in ("no_proxy", "NO_PROXY"):
        known = [each.strip() for each in os.environ.get(variable, "").split(",") if each.strip()]
        added = [host for host in (*_LOOPBACK, *cluster_hosts(os.environ)) if host not in known]
        if "*" not in known:
            os.environ[variable] = ",".join([*known, *added])


def cluster_hosts(environment: Mapping[str, str]) -> list[str]:
    """Return the hosts of TF_CONFIG's training processes; none where it cannot be read."""
    try:
        cluster = json.loads(environment.get("TF_CONFIG") or "{}").get("cluster", {})
        addresses = [str(address) for each in cluster.values() for address in each]
    except (ValueError, AttributeError, TypeError):
        return []
    return sorted({address.rpartition(":")[0] for address in addresses} - {""})


def name_user() -> None:
    """Give a user without an entry in the system's list a name: containers often have just an id.

    `getpass.getuser`, which libraries call too, fails there otherwise.
    """
    try:
        getpass.getuser()
    except (KeyError, OSError):
        os.environ["LOGNAME"] = f"uid-{os.getuid()}"


def open_standard_streams() -> None:
    """Open what of the three standard streams is closed, on nothing.

    Else files that are opened later would take their place, and get what is printed.
    """
    for descriptor, name in enumerate(("stdin", "stdout", "stderr")):
        try:
            os.fstat(descriptor)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # the lowest that is free, which is this one
            os.set_inheritable(descriptor, True)
        if getattr(sys, name) is None:
            stream = os.fdopen(descriptor, "r" if name == "stdin" else "w", closefd=False)
            setattr(sys, name, stream)
            setattr(sys, f"__{name}__", stream)


def overruled() -> dict[str, str]:
    """Return the user's own settings of Keras that `pin_keras` overrules: values by name.

    Raises:
        ValueError: Keras cannot read its file, and so cannot be imported; the message names it.
    """
    path = keras_home() / "keras.json"
    wanted = {
        "backend": BACKEND,
        "image_data_format": DATA_FORMAT,
        "floatx": FLOATX,
        "epsilon": EPSILON,
    }
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        values = {}  # of which Keras takes no notice either
    allowed = {"image_data_format": ("channels_last", "channels_first"), "floatx": _FLOATS}
    if not isinstance(values, dict):
        raise ValueError(f"{path} is no JSON object; remove it")
    for key, choices in allowed.items():
        if values.get(key, choices[0]) not in choices:
            raise ValueError(f"{path}: {key} must be one of {', '.join(choices)}; remove the file")
    if not isinstance(values.get("epsilon", EPSILON), float):
        raise ValueError(f"{path}: epsilon must be a number with a point in it; remove the file")
    differing = {
        f"{path}: {key}": str(values[key])
        for key, value in wanted.items()
        if values.get(key, value) != value
    }
    return {**_overruled, **differing}


def keras_home() -> Path:
    """Return Keras's folder, for its settings and downloads."""
    if home := os.environ.get("KERAS_HOME"):
        return Path(home)
    base = os.path.expanduser("~")  # noqa: PTH111 - Path fails for a user without a home
    return Path(base if os.access(base, os.W_OK) else "/tmp") / ".keras"
