"""Settings of Beam, and the arguments of its jobs."""

from __future__ import annotations

import dataclasses
import difflib
import re
from collections.abc import Mapping
from typing import Annotated, Self

from pydantic import (
    AfterValidator,
    Field,
    model_validator,
)

from components.settings import Listed, Section

LOCAL_RUNNER = "FnApiRunner"
# Of Beam's runners those that can do the work of the nodes. Beam also takes the path of a class.
RUNNERS = (
    *(LOCAL_RUNNER, "PortableRunner", "FlinkRunner", "SparkRunner", "DataflowRunner"),
    *("PrismRunner", "DirectRunner"),
)
_INSTALLED = ("EXTERNAL", "LOOPBACK", "PROCESS")  # environments whose workers have the code
BEAM_NODES = ("ImageExampleGen", "StatisticsGen", "Transform", "Evaluator")


def _beam_option(value: str) -> str:
    if not value.startswith("--"):
        raise ValueError("must start with --")
    if value.partition("=")[0] == "--runner":
        raise ValueError("must not name the runner: set beam.runner")
    return value


def _beam_runner(value: str) -> str:
    if value in RUNNERS or re.fullmatch(r"(\w+\.)+\w+", value):
        return value
    near = difflib.get_close_matches(value, RUNNERS, n=1)
    meant = f"; did you mean {near[0]}?" if near else ""
    raise ValueError(f"is not a runner of Beam; there are {', '.join(RUNNERS)}{meant}")


BeamOption = Annotated[str, AfterValidator(_beam_option)]
BeamRunner = Annotated[str, AfterValidator(_beam_runner)]


class BeamNode(Section):
    """Beam's settings for one node, in place of those for all nodes."""

    runner: BeamRunner | None = Field(
        default=None, description="Runner of this node. Unset: beam.runner."
    )
    args: Listed[BeamOption] | None = Field(
        default=None,
        description="Beam options of this node. Unset: beam.args, or none if the runner is not "
        "beam.runner.",
    )


class BeamConfig(Section):
    """Beam's settings for ImageExampleGen, StatisticsGen, Transform and Evaluator.

    With a job server, their work runs on other machines; the DAG and the cache stay the same. Data
    and workspace must be on storage that all workers share, and the workers (`perennial worker`, in
    the project's image) must have the same version of the project: see docs/how-to/beam.md.
    """

    # Named always: Beam's own choice of a runner may download a Go binary.
    runner: BeamRunner = Field(
        default=LOCAL_RUNNER,
        description="Beam's runner: FnApiRunner in the process of the node, PortableRunner for a "
        f"job server of Flink, Spark or Prism, or one of {', '.join(RUNNERS[2:])}.",
    )
    args: Listed[BeamOption] = Field(
        default=(), description="Further Beam options, each as `--option=value`."
    )
    nodes: Mapping[str, BeamNode] = Field(
        default={}, description="Settings of single nodes, by node id."
    )

    @model_validator(mode="after")
    def _knows_its_nodes(self) -> Self:
        if unknown := sorted(self.nodes.keys() - set(BEAM_NODES)):
            raise ValueError(
                f"nodes.{unknown[0]}: no such node uses Beam; there are {', '.join(BEAM_NODES)}"
            )
        return self

    @property
    def jobs(self) -> dict[str, BeamJob]:
        """The jobs of the nodes that use Beam, by node id."""
        return {node: self._job(self.nodes.get(node, BeamNode()), node) for node in BEAM_NODES}

    def _job(self, own: BeamNode, node: str) -> BeamJob:
        runner = own.runner or self.runner
        inherited = self.args if runner == self.runner else ()
        args = inherited if own.args is None else own.args
        is_own = own.runner is not None or own.args is not None
        return BeamJob(f"beam.nodes.{node}" if is_own else "beam", runner, args)


@dataclasses.dataclass(frozen=True)
class BeamJob:
    """Arguments of Beam. key: the table of settings that they come from."""

    key: str
    runner: str
    args: tuple[str, ...]

    @property
    def options(self) -> dict[str, str]:
        """The values of `args`, by name; "" for one without."""
        pairs = (arg.partition("=") for arg in self.args)
        return {name.removeprefix("--").replace("-", "_"): value for name, _, value in pairs}

    @property
    def is_elsewhere(self) -> bool:
        """Whether other processes than those that Beam starts here do the work."""
        return self.runner not in (LOCAL_RUNNER, "DirectRunner")

    @property
    def pipeline_args(self) -> list[str]:
        """The command-line arguments for Beam, runner included."""
        args = [f"--runner={self.runner}", *self.args]
        here = not self.is_elsewhere or self.options.get("environment_type") in _INSTALLED
        if here and "sdk_container_image" not in self.options:
            # Nothing reads it. Without it TFX packs itself up for remote workers in every Beam
            # node, which takes seconds each time, and leaves the package in the temporary folder.
            args.append("--sdk_container_image=none")
        return args
