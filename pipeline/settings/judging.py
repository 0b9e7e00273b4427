"""Settings of the gate, the trial in a model server and the push."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import (
    Field,
    model_validator,
)

from components.image_evaluator.bounds import Bounds
from components.model_registry import is_config_map, place_of
from components.settings import Section
from pipeline.settings.paths import LOCATION, PATH


class EvaluateConfig(Section, Bounds):
    """The gate: bounds that a candidate must keep to be blessed.

    Unset bounds are not checked. If there is a baseline, a candidate must not be significantly less
    accurate on the same eval images: see `max_accuracy_drop` and `significance`.
    """


class InfraValidationConfig(Section):
    """The trial of each candidate in a model server, before the push."""

    enabled: bool = Field(
        default=True,
        description="Try each candidate in a model server, and add warm-up requests to the pushed "
        "model.",
    )
    # TensorFlow Serving takes 1,000 warm-up requests, and each image makes two.
    examples: int = Field(
        default=8, ge=1, le=500, description="Number of eval images for the trial."
    )
    max_load_seconds: int = Field(
        default=300,
        ge=1,
        description="Maximum time for the server to start and load the model, in seconds.",
    )


class SigningConfig(Section):
    """Signatures of pushed versions. `perennial serve --public-key` serves signed versions only."""

    private_key: Annotated[Path | None, PATH] = Field(
        default=None,
        description="Elliptic-curve private key: a PEM file without passphrase, which only the "
        "user of the Pusher can read. Unset: versions are not signed.",
    )
    public_key: Annotated[Path | None, PATH] = Field(
        default=None,
        description="Public key of the pair. Each version is checked with it before it appears.",
    )

    @model_validator(mode="after")
    def _pair(self) -> Self:
        if (self.private_key is None) != (self.public_key is None):
            raise ValueError("private_key and public_key must be given together")
        return self


class PushConfig(Section):
    """Destination of blessed models."""

    directory: Annotated[str | None, LOCATION] = Field(
        default=None,
        description="Folder of numbered versions, or a URI such as gs://bucket/models/name. "
        "Unset: WORKSPACE/serving/NAME.",
    )
    keep: int = Field(
        default=10,
        ge=1,
        description="Number of newest versions to keep, in addition to the served ones.",
    )
    served_config: Annotated[str | None, LOCATION] = Field(
        default=None,
        description="Model configuration with the served versions: a file, a URI, or "
        "configmap://NAMESPACE/NAME. Unset: models.config beside push.directory.",
    )
    promote: Literal["none", "canary", "stable"] = Field(
        default="none",
        description="Label that the Pusher gives each version, if served_config is a ConfigMap. "
        "Unless this is none, the first version becomes stable.",
    )
    signing: SigningConfig = Field(default=SigningConfig(), description="Signed versions.")

    @model_validator(mode="after")
    def _served(self) -> Self:
        where = self.served_config or ""
        if is_config_map(where):
            place_of(where)
        elif self.promote != "none":
            raise ValueError(
                "promote needs served_config = configmap://NAMESPACE/NAME: for other places the "
                "servers are not known"
            )
        if is_config_map(self.directory or ""):
            raise ValueError("directory must be a folder or a URI, not a ConfigMap")
        return self
