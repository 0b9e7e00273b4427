"""Settings of the pods that the DAG runs in on Kubeflow."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Annotated, Literal, Self, get_args

from pydantic import (
    AfterValidator,
    BeforeValidator,
    Field,
    model_validator,
)

from components.settings import Listed, Section
from pipeline.settings.paths import LOCATION


def _kubernetes_resource(value: str) -> str:
    if re.fullmatch(r"[A-Z0-9_]+", value):
        raise ValueError(
            "is a name of Vertex AI: Kubernetes needs the resource of the device plugin, such as "
            "nvidia.com/gpu, and the kind of GPU in node_selector"
        )
    if not re.fullmatch(r"[a-z0-9.-]+/[A-Za-z0-9._-]+", value):
        raise ValueError("must be a resource of a device plugin, such as nvidia.com/gpu")
    return value


def _pinned_image(value: str) -> str:
    if "@sha256:" in value or ":" in value.rpartition("/")[2]:
        return value
    raise ValueError(
        "must have a tag or a digest, such as registry/name:1.2.0: else what runs changes"
    )


_Quantity = Annotated[str, Field(pattern=r"^[0-9]+(\.[0-9]+)?(m|[kMGTP]|[KMGTP]i)?$")]
_KubernetesName = Annotated[str, Field(pattern=r"^[a-z0-9]([a-z0-9.-]*[a-z0-9])?$", max_length=253)]
_EnvName = Annotated[str, Field(pattern=r"^[A-Za-z_][A-Za-z0-9_]*$")]
_Folder = Annotated[str, Field(pattern=r"^/.+")]
_Image = Annotated[str, Field(min_length=1), AfterValidator(_pinned_image)]


class Toleration(Section):
    """A taint that the pods tolerate, as in `tolerations` of a pod."""

    key: str = Field(min_length=1, description="Key of the taint.")
    value: str | None = Field(default=None, description="Value of the taint. Unset: any.")
    effect: Literal["NoSchedule", "PreferNoSchedule", "NoExecute"] = Field(
        default="NoSchedule", description="Effect of the taint."
    )


class Secret(Section):
    """A Kubernetes Secret: one key as an environment variable, or all keys as files."""

    name: _KubernetesName = Field(description="Name of the Secret.")
    key: str | None = Field(default=None, description="Key whose value `env` gets.")
    env: _EnvName | None = Field(default=None, description="Name of the environment variable.")
    path: _Folder | None = Field(default=None, description="Folder in which all keys are files.")

    @model_validator(mode="after")
    def _is_one_of_both(self) -> Self:
        if (self.path is None) == (self.env is None) or (self.key is None) != (self.env is None):
            raise ValueError("must have either key and env, or path")
        return self


class Volume(Section):
    """A persistent volume claim."""

    claim: _KubernetesName = Field(description="Name of the claim.")
    path: _Folder = Field(description="Folder in which it is mounted.")


class Spot(Section):
    """Spot machines, which the provider may take away at any time."""

    node_selector: Mapping[str, str] = Field(default={}, description="Labels of spot machines.")
    tolerations: Listed[Toleration] = Field(default=(), description="Taints of spot machines.")


class PodSettings(Section):
    """Environment, secrets and volumes of pods: of all, or of those of one pool."""

    env: Mapping[_EnvName, str] = Field(
        default={}, description="Environment variables of the pods."
    )
    secrets: Listed[Secret] = Field(
        default=(),
        description="Kubernetes Secrets for the pods. The compiled pipeline contains their names "
        "only.",
    )
    volumes: Listed[Volume] = Field(default=(), description="Persistent volumes to mount.")
    image_pull_secrets: Listed[_KubernetesName] = Field(
        default=(), description="Secrets for pulling images."
    )


class Pool(PodSettings):
    """A pool: machines and resources of pods.

    CPUs and memory are Kubernetes quantities, such as 500m or 8Gi.
    """

    image: _Image | None = Field(
        default=None, description="Image of the pods. Unset: kubeflow.image."
    )
    image_pull: Literal["Always", "IfNotPresent", "Never"] = Field(
        default="IfNotPresent", description="Pull policy of the image."
    )
    cpu: _Quantity = Field(default="2", description="Requested CPUs.")
    cpu_limit: _Quantity | None = Field(default=None, description="Limit of CPUs. Unset: no limit.")
    memory: _Quantity = Field(default="8Gi", description="Requested memory.")
    memory_limit: _Quantity | None = Field(
        default=None, description="Limit of memory. Unset: the same as memory."
    )
    accelerator: Annotated[str, AfterValidator(_kubernetes_resource)] | None = Field(
        default=None, description="Resource of the device plugin, such as nvidia.com/gpu."
    )
    accelerator_limit: int | None = Field(
        default=None, ge=1, le=16, description="Number of accelerators per pod."
    )
    node_selector: Mapping[str, str] = Field(default={}, description="Labels of the machines.")
    tolerations: Listed[Toleration] = Field(default=(), description="Taints of the machines.")
    spot: bool = Field(
        default=False, description="Use spot machines, as described in kubeflow.spot."
    )
    shared_memory: _Quantity | None = Field(
        default=None, description="Size of /dev/shm, which counts as memory of the pod."
    )
    timeout: int | None = Field(
        default=None,
        ge=1,
        description="Seconds after which a running pod is stopped. Unset: never. For pods that "
        "wait to start, see kubeflow.start_timeout.",
    )
    retries: int = Field(
        default=2,
        ge=0,
        le=100,
        description="Number of retries after a pod was deleted, lost its machine or the database, "
        "or was ended by a signal. Bad settings, bad data and models that are not blessed are not "
        "retried.",
    )
    retry_delay: int = Field(
        default=60, ge=0, le=3600, description="Seconds before the first retry."
    )
    # Argo takes no fractions.
    retry_factor: int = Field(
        default=2, ge=1, le=10, description="Factor by which the delay grows with each retry."
    )

    @model_validator(mode="after")
    def _is_whole(self) -> Self:
        if self.accelerator and self.accelerator_limit is None:
            raise ValueError("accelerator needs an accelerator_limit: how many each pod gets")
        if self.accelerator_limit and self.accelerator is None:
            raise ValueError("accelerator_limit needs an accelerator, such as nvidia.com/gpu")
        return self


class MetadataConfig(Section):
    """The ML Metadata database that the nodes of all runs share.

    Pods get these settings as environment variables; user and password come from a Secret.
    """

    kind: Literal["mysql", "postgresql", "sqlite"] = Field(
        default="mysql",
        description="Kind of database. mysql includes MariaDB; sqlite works only if one node runs "
        "at a time.",
    )
    host: str = Field(default="perennial-metadata", min_length=1, description="Host of the server.")
    port: int | None = Field(
        default=None,
        ge=1,
        le=65535,
        description="Port of the server. Unset: 3306 for mysql, 5432 for postgresql.",
    )
    database: str = Field(default="perennial", min_length=1, description="Name of the database.")
    tls: bool = Field(default=False, description="Encrypt the connection; mysql only.")
    secret: _KubernetesName = Field(
        default="perennial-metadata", description="Secret with the keys `user` and `password`."
    )
    path: _Folder | None = Field(default=None, description="File, for sqlite only.")

    @model_validator(mode="after")
    def _has_a_place(self) -> Self:
        if (self.kind == "sqlite") != (self.path is not None):
            raise ValueError("path is the file of kind sqlite, and of that only")
        return self


DEFAULT_POOL = "cpu"
Environment = Literal["gke", "eks", "aks", "bare"]
ENVIRONMENTS: tuple[Environment, ...] = get_args(Environment)


def _with_default_pool(pools: object) -> object:
    return {DEFAULT_POOL: {}, **pools} if isinstance(pools, Mapping) else pools


class KubeflowConfig(PodSettings):
    """Settings of the compiled pipeline and its pods on Kubeflow.

    `nodes` assigns nodes to pools; the others belong to the pool `cpu`. Environment variables,
    secrets and volumes of a pool are added to those for all pods.
    """

    environment: Environment | None = Field(
        default=None,
        description="Preset of pools for GKE, EKS, AKS, or the labels of NVIDIA's device plugin "
        "(bare).",
    )
    image: _Image | None = Field(
        default=None, description="Image with this project, with a tag or a digest."
    )
    pipeline_root: Annotated[str, LOCATION] | None = Field(
        default=None,
        description="URI or mounted folder for the output of nodes, such as s3://bucket or "
        "gs://bucket.",
    )
    run_as_user: int | None = Field(
        default=None, ge=1, description="User id of the pods. Unset: that of the image."
    )
    parameters: Listed[str] = Field(
        default=(
            "train.epochs",
            "train.batch_size",
            "train.seed",
            "train.hyperparameters.learning_rate",
            "evaluate.min_accuracy",
        ),
        description="Settings that become pipeline parameters, in addition to data, span and "
        "recipe.",
    )
    metadata: MetadataConfig = Field(default=MetadataConfig(), description="ML Metadata.")
    grouping: Literal["stages", "nodes"] = Field(
        default="stages",
        description="Pods of a run. stages: one pod each for the data, the Trainer and the checks "
        "of its model, and more if the nodes of a stage have different pools. nodes: one pod per "
        "node. Retries and timeouts apply to pods.",
    )
    nodes: Mapping[str, str] = Field(
        default={},
        description="Pools of nodes, such as {Trainer = 'gpu-l4'}, in addition to those of the "
        "environment's preset.",
    )
    pools: Annotated[
        Mapping[Annotated[str, Field(pattern=r"^[a-z0-9-]+$")], Pool],
        BeforeValidator(_with_default_pool),
    ] = Field(default={}, description="Pools by name. There is always one named cpu.")
    spot: Spot | None = Field(default=None, description="Labels and taints of spot machines.")
    autoscaled: bool = Field(
        default=False,
        description="Machines are created on demand, so that a pool may have none at the moment.",
    )
    run_timeout: int = Field(
        default=86_400,
        ge=0,
        le=2**31 - 1,
        description="Seconds after which Kubeflow ends a run, whatever its state. 0: never. "
        "Kubeflow before 2.17 does not support this and needs 0.",
    )
    start_timeout: int = Field(
        default=3600,
        ge=60,
        description="Seconds that a pod may wait for a machine, its image or a volume. After "
        "that, `perennial watch` or `perennial submit --wait` ends its run.",
    )

    @model_validator(mode="after")
    def _knows_its_pools(self) -> Self:
        for node, pool in self.nodes.items():
            if pool not in self.pools:
                raise ValueError(
                    f"nodes.{node} = {pool!r}: no such pool; there are {', '.join(self.pools)}"
                )
        for name, each in self.pools.items():
            if each.spot and self.spot is None:
                raise ValueError(f"pools.{name}.spot needs kubeflow.spot: labels of such machines")
        return self
