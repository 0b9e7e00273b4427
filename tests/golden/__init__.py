"""Compiled pipelines as committed: one in full, and the differences of the other environments.

`python -m tests.golden` writes them again; look at what changed before you commit it.
"""

from __future__ import annotations

import difflib
import functools
from pathlib import Path

from pipeline.config import load
from pipeline.settings.cluster import ENVIRONMENTS

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


# The environment whose pipeline is committed in full.
FULL = "bare"


@functools.cache
def compiled(environment: str) -> str:
    """Compile the example pipeline for an environment."""
    from kubeflow.compiler import compile_pipeline

    spot = SPOT if environment != FULL else {}
    settings = {**SETTINGS, **spot, "kubeflow.environment": environment}
    return compile_pipeline(load(None, settings)).text


def path(environment: str) -> Path:
    """Return the committed file of an environment."""
    return FOLDER / (f"{FULL}.yaml" if environment == FULL else f"{environment}.diff")


def content(environment: str) -> str:
    """Return what belongs in the file of an environment: YAML, or a unified diff to `FULL`."""
    text = compiled(environment)
    if environment == FULL:
        return text
    before, after = (each.splitlines(keepends=True) for each in (compiled(FULL), text))
    return "".join(difflib.unified_diff(before, after, f"{FULL}.yaml", f"{environment}.yaml", n=2))


def write() -> None:
    """Write the files of all environments."""
    for environment in ENVIRONMENTS:
        path(environment).write_text(content(environment), encoding="utf-8")
