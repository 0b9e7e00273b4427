"""Devices of a training: processors, processes and their numbers' precision."""

from __future__ import annotations

import faulthandler
import json
import math
import os
import socket
import subprocess
import time

import keras
import tensorflow as tf

from components import progress
from trainer_module import input_pipeline
from trainer_module.input_pipeline import Replicas

WAIT_S = 600.0  # for the other workers of TF_CONFIG, by default
_LOOK_S = 0.5  # between attempts
_CONNECT_S = 2.0
_JOIN_S = 60.0  # for TensorFlow, once all processes are there


class DeviceError(Exception):
    """The devices or processes that were asked for cannot be used."""


def strategy(wait_s: float = WAIT_S) -> tf.distribute.Strategy:
    """Every GPU of this machine or, with TF_CONFIG set to a cluster, of all its workers.

    With TF_CONFIG it must be called before TensorFlow has run anything in this process, and waits
    `wait_s` seconds for the other workers.

    Raises:
        DeviceError: TF_CONFIG is not that of a cluster, it comes too late, or workers are absent.
    """
    if len(cluster()[1]) > 1:
        return _with_other_workers(wait_s)
    if len(tf.config.list_logical_devices("GPU")) > 1:
        return tf.distribute.MirroredStrategy()
    return tf.distribute.get_strategy()


def memory() -> float:
    """Bytes that a device has: a GPU, the least of several, or else this process; inf: unknown."""
    if not tf.config.list_physical_devices("GPU"):
        return float(input_pipeline.memory_limit())
    query = ["nvidia-smi", "--query-gpu=memory.total", "--format=csv,noheader,nounits"]
    try:
        found = subprocess.run(query, capture_output=True, text=True, timeout=20, check=True)
        return min(float(line) for line in found.stdout.split()) * 2**20
    except (OSError, ValueError, subprocess.SubprocessError):
        return math.inf


def is_chief(used: tf.distribute.Strategy) -> bool:
    """Whether this process is the one that writes."""
    return bool(used.extended.should_checkpoint)


def replicas(used: tf.distribute.Strategy) -> Replicas:
    """Return the share of each batch that this process feeds."""
    position, addresses = cluster()
    total = used.num_replicas_in_sync
    local = total // max(1, len(addresses))
    return Replicas(total, position * local, local)


def cluster() -> tuple[int, list[str]]:
    """Read TF_CONFIG: this process's position among the training processes, and their addresses.

    Raises DeviceError where it cannot be read.
    """
    try:
        config = json.loads(os.environ.get("TF_CONFIG") or "{}")
        found, task = config.get("cluster", {}), config.get("task", {})
        chiefs, others = ([str(each) for each in found.get(k, [])] for k in ("chief", "worker"))
        position = int(task.get("index", 0)) + (len(chiefs) if task.get("type") == "worker" else 0)
    except (ValueError, AttributeError, TypeError) as error:
        raise DeviceError(
            f"the environment variable TF_CONFIG cannot be read: {error}; unset it to train here "
            "alone"
        ) from error
    return position, [*chiefs, *others]


def _with_other_workers(wait_s: float) -> tf.distribute.Strategy:
    position, addresses = cluster()
    _meet(position, addresses, wait_s)
    # TensorFlow waits in native code, where no signal and no other thread of Python gets through.
    faulthandler.dump_traceback_later(wait_s + _JOIN_S, exit=True)
    try:
        return tf.distribute.MultiWorkerMirroredStrategy()
    except (RuntimeError, ValueError) as error:
        raise DeviceError(
            f"TF_CONFIG names several workers, but: {error}; run again, so that what comes before "
            "the training is taken from the cache and this process begins with it, or unset "
            "TF_CONFIG to train here alone"
        ) from error
    finally:
        faulthandler.cancel_dump_traceback_later()


def _meet(position: int, addresses: list[str], wait_s: float) -> None:
    """Wait until every other process answers at its address, as this one does meanwhile at its own.

    Raises DeviceError where one does not.
    """
    absent = [address for place, address in enumerate(addresses) if place != position]
    progress.report(
        "note",
        text=f"TF_CONFIG names {len(addresses)} training processes: waiting up to {wait_s:g} s for "
        f"{', '.join(absent)}",
    )
    deadline = time.monotonic() + wait_s
    try:
        with socket.create_server(("", int(addresses[position].rpartition(":")[2]))):
            while absent := [address for address in absent if not _answers(address)]:
                if time.monotonic() > deadline:
                    raise DeviceError(
                        "TF_CONFIG names other training processes, and within train.worker_timeout "
                        f"= {wait_s:g} s there was no answer from {', '.join(absent)}; start them, "
                        "or unset TF_CONFIG to train here alone"
                    )
                time.sleep(_LOOK_S)
    except (OSError, ValueError, IndexError) as error:
        raise DeviceError(
            f"TF_CONFIG: this process cannot listen at its task's address: {error}; free the port, "
            "or unset TF_CONFIG to train here alone"
        ) from error


def _answers(address: str) -> bool:
    host, _, port = address.rpartition(":")
    try:
        with socket.create_connection((host.strip("[]"), int(port)), timeout=_CONNECT_S):
            return True
    except (OSError, ValueError):
        return False


def dtype_policy(precision: str) -> str:
    """Keras's policy for `precision`: "float32", "bfloat16", "float16", or "auto".

    The latter is what the GPUs multiply fastest: bfloat16 from compute capability 8.0, float16
    from 7.0, and float32 on older ones and without.
    """
    if precision == "auto":
        capabilities = [
            tf.config.experimental.get_device_details(device).get("compute_capability", (0, 0))
            for device in tf.config.list_physical_devices("GPU")
        ]
        slowest = min(capabilities, default=(0, 0))
        precision = (
            "bfloat16" if slowest >= (8, 0) else "float16" if slowest >= (7, 0) else "float32"
        )
    return precision if precision == "float32" else f"mixed_{precision}"


def scaled(optimizer: keras.optimizers.Optimizer) -> keras.optimizers.Optimizer:
    """`optimizer`, with the loss scaling that float16 needs where that is the policy."""
    if keras.config.dtype_policy().name != "mixed_float16":
        return optimizer
    return keras.optimizers.LossScaleOptimizer(optimizer)
