"""What the model is trained on: processors, processes and the numbers they calculate with."""

from __future__ import annotations

import json
import os

import keras
import tensorflow as tf

from trainer_module.input_pipeline import Replicas


class DeviceError(Exception):
    """The devices or processes that were asked for cannot be used."""


def strategy() -> tf.distribute.Strategy:
    """Every GPU of this machine or, with TF_CONFIG set to a cluster, of all its workers.

    With TF_CONFIG it must be called before TensorFlow has run anything in this process, and waits
    for the other workers.

    Raises:
        DeviceError: TF_CONFIG is no cluster's, or it comes too late.
    """
    if _cluster()[1] > 1:
        try:
            return tf.distribute.MultiWorkerMirroredStrategy()
        except (RuntimeError, ValueError) as error:
            raise DeviceError(f"TF_CONFIG names several workers, but: {error}") from error
    if len(tf.config.list_logical_devices("GPU")) > 1:
        return tf.distribute.MirroredStrategy()
    return tf.distribute.get_strategy()


def is_chief(used: tf.distribute.Strategy) -> bool:
    """Whether this process is the one that writes."""
    return bool(used.extended.should_checkpoint)


def replicas(used: tf.distribute.Strategy) -> Replicas:
    """The share of each batch that this process feeds."""
    position, workers = _cluster()
    total = used.num_replicas_in_sync
    local = total // workers
    return Replicas(total, position * local, local)


def _cluster() -> tuple[int, int]:
    """This process's position among the training processes of TF_CONFIG, and their number."""
    try:
        config = json.loads(os.environ.get("TF_CONFIG") or "{}")
        cluster, task = config.get("cluster", {}), config.get("task", {})
        chiefs, workers = (len(cluster.get(kind, [])) for kind in ("chief", "worker"))
        position = int(task.get("index", 0)) + (chiefs if task.get("type") == "worker" else 0)
    except (ValueError, AttributeError, TypeError) as error:
        raise DeviceError(f"the environment variable TF_CONFIG cannot be read: {error}") from error
    return position, max(1, chiefs + workers)


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
