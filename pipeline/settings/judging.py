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
    """The bounds that a model must keep to be blessed.

    Unset bounds are not checked. Where there is a blessed model already, a candidate that is less
    accurate on the same eval images is refused if chance does not explain it: see `significance`.
    """


class InfraValidationConfig(Section):
    """The trial of a candidate in a model server, before a push."""

    enabled: bool = Field(
        default=True,
        description="Try each candidate in a model server, and push it with warm-up requests.",
    )
    # TensorFlow Serving takes 1,000 warm-up requests, and each image makes two.
    examples: int = Field(
        default=8, ge=1, le=500, description="Number of eval images to try it with."
    )
    max_load_seconds: int = Field(
        default=300, ge=1, description="Seconds for the server to start and load the model."
    )


class SigningConfig(Section):
    """Signatures of pushed versions; `perennial serve --public-key` serves no others."""

    private_key: Annotated[Path | None, PATH] = Field(
        default=None,
        description="Elliptic private key, a PEM file without passphrase that only the pusher can "
        "read; unset: versions are not signed.",
    )
    public_key: Annotated[Path | None, PATH] = Field(
        default=None,
        description="The public key of the pair, with which each version is checked before it "
        "appears.",
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
        description="Folder of numbered versions, or a URI such as gs://bucket/models/name; "
        "unset: <workspace>/serving/<name>.",
    )
    keep: int = Field(
        default=10,
        ge=1,
        description="Number of newest versions to keep, besides those being served.",
    )
    served_config: Annotated[str | None, LOCATION] = Field(
        default=None,
        description="Model configuration that names the served versions, also in a ConfigMap: "
        "configmap://NAMESPACE/NAME; unset: models.config beside push.directory.",
    )
    promote: Literal["none", "canary", "stable"] = Field(
        default="none",
        description="Label that the Pusher gives a version in the ConfigMap of served_config. The "
        "first version becomes stable, unless this is none.",
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
