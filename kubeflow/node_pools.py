"""Apply the settings of a pool to a task of Kubeflow Pipelines."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import PurePosixPath

from kfp import kubernetes
from kfp.dsl import PipelineTask

from kubeflow.cluster import AUTOSCALED
from kubeflow.metadata import PORTS, PREFIX
from kubeflow.supervisor import RETRIES, RETRY_DELAY
from kubeflow.workflow import START_TIMEOUT
from pipeline.errors import ConfigError
from pipeline.settings.cluster import KubeflowConfig, MetadataConfig, Pool, Toleration

HIDE_GPUS = "CUDA_VISIBLE_DEVICES"
# Kubeflow's "maximum delay" is Argo's limit from the start of the first attempt to the start of the
# last, and the deadline of every retry. With kfp's default of an hour, a training of two hours
# would have no retries. Three years; the deadline of the run is shorter.
_RETRIED_FOR = "100000000s"


def check_nodes(kubeflow: KubeflowConfig, nodes: Iterable[str]) -> None:
    """Check that the nodes in `kubeflow.nodes` exist. Raises ConfigError."""
    known = list(nodes)
    for node in kubeflow.nodes:
        if node not in known:
            raise ConfigError(
                f"kubeflow.nodes.{node}: no such node in this pipeline; there are "
                f"{', '.join(known)}"
            )


def image_of(kubeflow: KubeflowConfig, pool: Pool) -> str:
    """Return the image of a pool's pods. Raises ConfigError if none is set."""
    image = pool.image or kubeflow.image
    if image is None:
        raise ConfigError(
            "kubeflow.image is not set: name the image with this project, such as "
            "registry/perennial:1.2.0"
        )
    return image


def apply(task: PipelineTask, kubeflow: KubeflowConfig, pool: Pool) -> None:
    """Set the resources, placement, environment, retries and timeout of a task."""
    _resources(task, pool)
    _place(task, kubeflow, pool)
    _environment(task, kubeflow, pool)
    if pool.retries:
        task.set_retry(
            num_retries=pool.retries,
            backoff_duration=f"{pool.retry_delay}s",
            backoff_factor=pool.retry_factor,
            backoff_max_duration=_RETRIED_FOR,
        )
    if pool.timeout is not None:
        kubernetes.set_timeout(task, pool.timeout)
    kubernetes.set_image_pull_policy(task, pool.image_pull)
    pull_secrets = [*kubeflow.image_pull_secrets, *pool.image_pull_secrets]
    if pull_secrets:
        kubernetes.set_image_pull_secrets(task, pull_secrets)
    kubernetes.set_security_context(task, run_as_non_root=True, run_as_user=kubeflow.run_as_user)


def _resources(task: PipelineTask, pool: Pool) -> None:
    task.set_cpu_request(pool.cpu)
    if pool.cpu_limit is not None:
        task.set_cpu_limit(pool.cpu_limit)
    task.set_memory_request(pool.memory)
    task.set_memory_limit(pool.memory_limit or pool.memory)
    if pool.accelerator is not None and pool.accelerator_limit is not None:
        task.set_accelerator_type(pool.accelerator)
        task.set_accelerator_limit(pool.accelerator_limit)
    if pool.shared_memory is not None:
        kubernetes.empty_dir_mount(
            task, "shared-memory", "/dev/shm", medium="Memory", size_limit=pool.shared_memory
        )


def _place(task: PipelineTask, kubeflow: KubeflowConfig, pool: Pool) -> None:
    labels, tolerations = dict(pool.node_selector), list(pool.tolerations)
    if pool.spot and kubeflow.spot is not None:
        labels |= kubeflow.spot.node_selector
        tolerations += kubeflow.spot.tolerations
    for label, value in labels.items():
        kubernetes.add_node_selector(task, label, value)
    for toleration in tolerations:
        _tolerate(task, toleration)


def _tolerate(task: PipelineTask, toleration: Toleration) -> None:
    kubernetes.add_toleration(
        task,
        key=toleration.key,
        operator="Exists" if toleration.value is None else "Equal",
        value=toleration.value,
        effect=toleration.effect,
    )


def _environment(task: PipelineTask, kubeflow: KubeflowConfig, pool: Pool) -> None:
    metadata = kubeflow.metadata
    # Beam's steps would occupy a GPU without using it.
    hidden = {} if pool.accelerator else {HIDE_GPUS: ""}
    own = {
        START_TIMEOUT: str(kubeflow.start_timeout),
        RETRIES: str(pool.retries),
        RETRY_DELAY: str(pool.retry_delay),
        AUTOSCALED: str(kubeflow.autoscaled).lower(),
    }
    for name, value in {**hidden, **own, **_metadata(metadata), **kubeflow.env, **pool.env}.items():
        task.set_env_variable(name, value)
    if metadata.kind != "sqlite":
        keys = {"user": f"{PREFIX}USER", "password": f"{PREFIX}PASSWORD"}
        kubernetes.use_secret_as_env(task, metadata.secret, keys)
    for secret in (*kubeflow.secrets, *pool.secrets):
        if secret.path is not None:
            kubernetes.use_secret_as_volume(task, secret.name, secret.path)
        elif secret.key is not None and secret.env is not None:
            kubernetes.use_secret_as_env(task, secret.name, {secret.key: secret.env})
    for volume in (*kubeflow.volumes, *pool.volumes):
        kubernetes.mount_pvc(task, pvc_name=volume.claim, mount_path=volume.path)


def _metadata(metadata: MetadataConfig) -> dict[str, str]:
    values: dict[str, str] = {"KIND": metadata.kind}
    if metadata.path is not None:
        values["PATH"] = str(PurePosixPath(metadata.path))
    else:
        values |= {
            "HOST": metadata.host,
            "PORT": str(metadata.port or PORTS[metadata.kind]),
            "DATABASE": metadata.database,
            "TLS": str(metadata.tls).lower(),
        }
    return {f"{PREFIX}{name}": value for name, value in values.items()}
