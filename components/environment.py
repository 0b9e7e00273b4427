"""Set-up of a process before heavy imports, so that it behaves the same on every machine.

Used by the command line, pods, model servers, Beam's workers and tests.
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
# Limits on epochs or steps would cut off training, and also predictions.
_KERAS_VARIABLES = ("KERAS_MAX_EPOCHS", "KERAS_MAX_STEPS_PER_EPOCH")
_LOOPBACK = ("localhost", "127.0.0.1", "::1")
_PROXIES = ("grpc_proxy", "https_proxy", "http_proxy", "all_proxy")

# User settings that pin_keras has replaced, by name.
_overruled: dict[str, str] = {}


def prepare() -> None:
    """Set up this process; to be called before other imports."""
    open_standard_streams()
    name_user()
    pin_keras()
    keep_calls_direct()
    # For child processes: a user's pipeline.py in the working directory must not be imported.
    os.environ["PYTHONSAFEPATH"] = "1"


def pin_keras() -> None:
    """Make Keras, once it is imported, ignore the settings of the user.

    These are KERAS_BACKEND, and the backend, image_data_format, floatx and epsilon of keras.json.
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
    """Exempt loopback and the training processes of TF_CONFIG from a proxy, if one is set.

    gRPC, Beam and TensorFlow read the same variables.
    """
    if not any(os.environ.get(form) for name in _PROXIES for form in (name, name.upper())):
        return
    for variable in ("no_proxy", "NO_PROXY"):
        known = [each.strip() for each in os.environ.get(variable, "").split(",") if each.strip()]
        added = [host for host in (*_LOOPBACK, *cluster_hosts(os.environ)) if host not in known]
        if "*" not in known:
            os.environ[variable] = ",".join([*known, *added])


def cluster_hosts(environment: Mapping[str, str]) -> list[str]:
    """Return the hosts of TF_CONFIG's training processes; none if it cannot be parsed."""
    try:
        cluster = json.loads(environment.get("TF_CONFIG") or "{}").get("cluster", {})
        addresses = [str(address) for each in cluster.values() for address in each]
    except (ValueError, AttributeError, TypeError):
        return []
    return sorted({address.rpartition(":")[0] for address in addresses} - {""})


def name_user() -> None:
    """Set LOGNAME for a user id without a name, as in many containers.

    Libraries call `getpass.getuser`, which would fail.
    """
    try:
        getpass.getuser()
    except (KeyError, OSError):
        os.environ["LOGNAME"] = f"uid-{os.getuid()}"


def open_standard_streams() -> None:
    """Open closed standard streams on /dev/null.

    Otherwise a file that is opened later gets the same descriptor, and receives printed text.
    """
    for descriptor, name in enumerate(("stdin", "stdout", "stderr")):
        try:
            os.fstat(descriptor)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # takes the lowest free one: this
            os.set_inheritable(descriptor, True)
        if getattr(sys, name) is None:
            stream = os.fdopen(descriptor, "r" if name == "stdin" else "w", closefd=False)
            setattr(sys, name, stream)
            setattr(sys, f"__{name}__", stream)


def overruled() -> dict[str, str]:
    """Return the user's Keras settings that `pin_keras` replaces: values by name.

    Raises:
        ValueError: Keras cannot read keras.json, and so cannot be imported; the message names it.
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
        values = {}  # Keras ignores such a file, too
    allowed = {"image_data_format": ("channels_last", "channels_first"), "floatx": _FLOATS}
    if not isinstance(values, dict):
        raise ValueError(f"{path} is not a JSON object; remove it")
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
    """Return the folder of Keras's settings and downloads."""
    if home := os.environ.get("KERAS_HOME"):
        return Path(home)
    base = os.path.expanduser("~")  # noqa: PTH111 - Path fails for a user without a home
    return Path(base if os.access(base, os.W_OK) else "/tmp") / ".keras"
