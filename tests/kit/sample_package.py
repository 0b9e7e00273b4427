"""A pipeline as kfp compiles it, with the one task that every compiled DAG begins with.

Has a parameter of each kind. kfp looks at annotations, which therefore must not become strings.
"""

import json
from pathlib import Path

from kfp import compiler, dsl

GIVEN = {
    "data.source": "gs://bucket/photos",
    "kubeflow.parameters": [
        *("train.epochs", "train.seed", "train.warm_start"),
        "train.hyperparameters.learning_rate",
    ],
}
# What compiling cannot do without.
NEEDED = {
    "data.source": "gs://bucket/photos",
    "kubeflow.image": "registry.example/perennial:1",
    "kubeflow.pipeline_root": "/mnt/root",
}


@dsl.container_component
def plan(root: str) -> dsl.ContainerSpec:
    return dsl.ContainerSpec(
        image="perennial:1",
        command=["python3", "-m", "kubeflow.entrypoint"],
        args=["plan", "--given", json.dumps(GIVEN), "--root", root],
    )


@dsl.pipeline(name="digits")
def digits(
    data_root: str,
    epochs: str = "3",
    recipe: str = "vit",
    seed: int = 0,
    learning_rate: float = 0.1,
    warm_start: bool = False,
    pipeline_root: str = "gs://bucket",
) -> None:
    plan(root=data_root)


def write(path: Path) -> None:
    compiler.Compiler().compile(digits, str(path))
