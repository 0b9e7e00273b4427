"""A pipeline as kfp compiles it, whose one task runs this project's entrypoint.

Has a parameter of each kind. kfp looks at annotations, which therefore must not become strings.
"""

from pathlib import Path

from kfp import compiler, dsl


@dsl.container_component
def node(root: str) -> dsl.ContainerSpec:
    return dsl.ContainerSpec(
        image="perennial:1", command=["python3", "-m", "kubeflow.entrypoint"], args=[root]
    )


@dsl.pipeline(name="digits")
def digits(
    data_root: str,
    epochs: int = 3,
    rate: float = 0.1,
    warm: bool = False,
    sizes: list = [1],  # noqa: B006
) -> None:
    node(root=data_root)


def write(path: Path) -> None:
    compiler.Compiler().compile(digits, str(path))
