"""`perennial compile`: the DAG as a file for Kubeflow Pipelines."""

from __future__ import annotations

import shlex
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from components.wording import counted
from pipeline.commands.files import write
from pipeline.commands.options import ConfigOption, SettingsOption, load
from pipeline.errors import ConfigError
from pipeline.noise import redirect_output
from pipeline.output import announce

if TYPE_CHECKING:
    from kubeflow.compiler import Compiled
    from pipeline.config import Loaded
    from pipeline.settings.cluster import Pool

_SUFFIXES = (".yaml", ".yml")


def compile_dag(
    config: ConfigOption = None,
    output: Annotated[Path, typer.Option(metavar="FILE", help="File to write.")] = Path(
        "pipeline.yaml"
    ),
    retrain: Annotated[
        bool,
        typer.Option(
            "--retrain",
            help="Decide in the first pod whether to retrain, as `perennial retrain` does.",
        ),
    ] = False,
    settings: SettingsOption = None,
) -> None:
    """Compile the DAG into a pipeline for Kubeflow.

    The settings in kubeflow.parameters become parameters of the pipeline; all others are fixed in
    the file.
    """
    if output.suffix not in _SUFFIXES:
        raise ConfigError(f"--output {output}: must end with {' or '.join(_SUFFIXES)}")
    loaded = load(config, {}, settings, scheduled=retrain)
    if loaded.origins["data.source"] == "default":
        raise ConfigError(
            "data.source is not set, so pods would train on the bundled digits; set it in [data], "
            "or to digits to train on those"
        )
    announce("Compiling the pipeline ...")
    with (
        tempfile.TemporaryDirectory(prefix="perennial-") as folder,
        redirect_output(Path(folder) / "log"),
    ):
        from kubeflow import compiler

        compiled = compiler.compile_pipeline(loaded, decides=retrain)
    write(output, compiled.text)
    _print_summary(loaded, compiled, output)


def _print_summary(loaded: Loaded, compiled: Compiled, output: Path) -> None:
    kubeflow, pods = loaded.config.kubeflow, compiled.pods
    named = [f"{each.name}={each.default}" for each in compiled.parameters]
    nodes = sum(len(pod.ids) for pod in pods)
    print(
        f"Pipeline    {loaded.config.name}: {counted(nodes, 'node')} in {counted(len(pods), 'pod')}"
    )
    print(f"Parameters  {', '.join([*named, f'pipeline_root={kubeflow.pipeline_root}'])}")
    for pod in pods:
        size = _size(kubeflow.pools[pod.pool])
        print(f"Pod         {pod.title} [{pod.pool}: {size}]")
    print(f"Written     {output}")
    print(f"Next        perennial submit {shlex.quote(str(output))} --host URL")


def _size(pool: Pool) -> str:
    size = f"{pool.cpu} CPUs, {pool.memory}"
    return f"{size}, {pool.accelerator_limit} {pool.accelerator}" if pool.accelerator else size
