"""The configuration's one typed tree: every setting with its type, range and default.

`pipeline.config` fills it from presets, a TOML file and the command line.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from pydantic import Field

from components.model_registry import Registry
from components.settings import Section
from components.storage.options import Options as StorageOptions
from pipeline.settings.beam import BeamConfig
from pipeline.settings.cluster import KubeflowConfig
from pipeline.settings.data import DataConfig, TransformConfig, ValidationConfig
from pipeline.settings.judging import EvaluateConfig, InfraValidationConfig, PushConfig
from pipeline.settings.paths import PATH
from pipeline.settings.retraining import MonitorConfig, NotifyConfig, RetrainConfig
from trainer_module.settings import TrainConfig


class StorageConfig(Section, StorageOptions):
    """Access to object stores, and the folder for copies of their files."""


class Config(Section):
    """All settings of a run. The class of `train.hyperparameters` follows the recipe."""

    name: str = Field(
        default="perennial",
        pattern=r"^[a-z]([a-z0-9-]*[a-z0-9])?$",
        max_length=63,
        description="Name of the pipeline and its model: lower-case letters, digits and hyphens.",
    )
    workspace: Annotated[Path, PATH] = Field(
        default=Path("workspace"),
        description="Folder for metadata, artifacts, logs and pushed models.",
    )
    node_timeout: int | None = Field(
        default=None,
        ge=1,
        description="Seconds after which a node is stopped. Unset: never.",
    )
    data: DataConfig = Field(default=DataConfig(), description="Images and splits.")
    validation: ValidationConfig = Field(
        default=ValidationConfig(), description="The gate before training."
    )
    transform: TransformConfig = Field(description="Preprocessing.")
    train: TrainConfig = Field(description="Training.")
    evaluate: EvaluateConfig = Field(
        default=EvaluateConfig(), description="The gate before a push."
    )
    infra_validation: InfraValidationConfig = Field(
        default=InfraValidationConfig(), description="The trial in a model server."
    )
    push: PushConfig = Field(default=PushConfig(), description="Destination of blessed models.")
    storage: StorageConfig = Field(
        default=StorageConfig(), description="Object stores: s3:// and gs://."
    )
    retrain: RetrainConfig = Field(default=RetrainConfig(), description="Scheduled retraining.")
    monitor: MonitorConfig = Field(default=MonitorConfig(), description="Recorded traffic.")
    notify: NotifyConfig = Field(default=NotifyConfig(), description="Messages of retrainings.")
    beam: BeamConfig = Field(default=BeamConfig(), description="Data processing.")
    kubeflow: KubeflowConfig = Field(
        default=KubeflowConfig(), description="The DAG on Kubeflow Pipelines."
    )

    @property
    def push_directory(self) -> str:
        """Path or URI of what holds the numbered versions of the pushed model."""
        return self.push.directory or str(self.workspace / "serving" / self.name)

    @property
    def registry(self) -> Registry:
        """The versions of the pushed model, and what is served of them."""
        key = self.push.signing.public_key
        return Registry(self.push_directory, self.push.served_config or "", self.name, key)
