"""Compiled pipelines of each environment, as they should be.

`python -m tests.golden` writes them anew; look at what changed before you commit it.
"""

from __future__ import annotations

from pathlib import Path

from pipeline.config import load
from pipeline.settings import ENVIRONMENTS

FOLDER = Path(__file__).parent
# One of everything that a pool can ask for.
SETTINGS = {
    "name": "photos",
    "data.source": "gs://example-images/photos",
    "transform.image_size": 72,
    "train.epochs": 5,
    "kubeflow.image": "registry.example/perennial:1.2.0",
    "kubeflow.pipeline_root": "gs://example-artifacts/photos",
    "kubeflow.run_as_user": 1000,
    "kubeflow.image_pull_secrets": ["registry"],
    "kubeflow.volumes": [{"claim": "images", "path": "/images"}],
    "kubeflow.secrets": [
        {"name": "object-store", "key": "access-key", "env": "AWS_ACCESS_KEY_ID"},
        {"name": "cloud-account", "path": "/etc/cloud"},
    ],
    "kubeflow.pools.cpu.env": {"TF_CPP_MIN_LOG_LEVEL": "1"},
    "kubeflow.pools.gpu-a100.timeout": 86_400,
    "kubeflow.pools.gpu-a100.image": "registry.example/perennial@sha256:" + 64 * "0",
    "kubeflow.nodes": {"Trainer": "gpu-a100", "InfraValidator": "gpu-a100"},
}
# Where there are spot machines.
SPOT = {"kubeflow.pools.gpu-a100.spot": True}


def compiled(environment: str) -> str:
    """What `perennial compile` writes for an environment today."""
    from kubeflow.compiler import compile_pipeline

    spot = SPOT if environment != "bare" else {}
    settings = {**SETTINGS, **spot, "kubeflow.environment": environment}
    return compile_pipeline(load(None, settings)).text


def path(environment: str) -> Path:
    """The file of an environment."""
    return FOLDER / f"{environment}.yaml"


def write() -> None:
    """Write every file anew."""
    for environment in ENVIRONMENTS:
        path(environment).write_text(compiled(environment), encoding="utf-8")
