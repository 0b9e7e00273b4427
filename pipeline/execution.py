"""The DAG of a run, carried out in this process, and its outcome."""

from __future__ import annotations

import dataclasses
import itertools
import time
from collections.abc import Collection
from typing import Any

from tfx.orchestration.pipeline import Pipeline

from components import reuse
from components.image_evaluator.figures import Summary, summarize
from components.image_example_gen.accounting import Accounting, read_accounting
from components.image_example_gen.sources import digits
from components.image_example_validator.findings import read_findings
from pipeline import local_runner
from pipeline.dag import Locations, create_pipeline
from pipeline.local_runner import NodeResult, RunResult
from pipeline.settings import Config
from pipeline.settings.paths import BUILT_IN_SOURCES
from pipeline.workspace import Workspace


@dataclasses.dataclass(frozen=True)
class Outcome:
    """The outcome of a run.

    pushed: the version's directory, None where nothing was pushed; version: its number.
    """

    run: RunResult
    accounting: Accounting
    warnings: list[str]
    verdict: Summary
    pushed: str | None
    version: int | None
    total_wall_s: float


def execute(config: Config, workspace: Workspace, run_id: str) -> Outcome:
    """Run the DAG and read what it made. Raises as `local_runner.run`."""
    started = time.perf_counter()  # which a change of the clock leaves alone
    if config.data.source in BUILT_IN_SOURCES:
        digits.write_folder(workspace.root / "data" / config.data.source)
    result = run_nodes(config, workspace, run_id)
    outputs = {node.node: node.outputs for node in result.nodes}
    (pushed,) = outputs["Pusher"]["pushed_model"]
    return Outcome(
        run=result,
        warnings=list(map(str, read_findings(outputs["ExampleValidator"]["anomalies"][0].uri))),
        accounting=read_accounting(outputs["ImageExampleGen"]["examples"][0].uri),
        verdict=summarize(
            outputs["Evaluator"]["evaluation"][0].uri, outputs["Evaluator"]["blessing"][0].uri
        ),
        pushed=pushed.get_string_custom_property("pushed_destination") or None,
        version=int(pushed.get_string_custom_property("pushed_version") or 0) or None,
        total_wall_s=time.perf_counter() - started,
    )


def run_nodes(
    config: Config, workspace: Workspace, run_id: str, only: Collection[str] | None = None
) -> RunResult:
    """Run the DAG, or `only` its nodes with the given ids. Raises as `local_runner.run`."""
    dag = build_pipeline(config, workspace, only)
    return local_runner.run(dag, workspace, run_id, config.node_timeout)


def build_pipeline(
    config: Config, workspace: Workspace, only: Collection[str] | None = None
) -> Pipeline:
    """Build the DAG of a run in `workspace`, or `only` its nodes with the given ids."""
    locations = Locations(
        pipeline_root=str(workspace.artifacts),
        push_directory=str(config.push_directory),
    )
    return create_pipeline(config, locations, only)


def describe(outcome: Outcome, config: Config) -> dict[str, Any]:
    """Describe an outcome by JSON-able values: the summary event, and most of run.json."""
    return {
        "run_id": outcome.run.run_id,
        "recipe": config.train.recipe,
        "data": {
            "source": config.data.source,
            "read_as": outcome.accounting.reading,
            "classes": outcome.accounting.classes,
            "splits": outcome.accounting.splits,
            "held_out": outcome.accounting.held_out,
        },
        "warnings": outcome.warnings,
        "verdict": outcome.verdict.model_dump(mode="json"),
        "pushed": outcome.pushed,
        "version": outcome.version,
        "nodes": [
            {
                "node": node.node,
                "state": node.state,
                "wall_s": round(node.wall_s, 3),
                "cpu_s": round(node.cpu_s, 3),
                "peak_mb": round(node.peak_mb, 1),
                **_images(node),
            }
            for node in outcome.run.nodes
        ],
        "wall_s": round(outcome.total_wall_s, 3),
    }


def _images(node: NodeResult) -> dict[str, int]:
    """Count the images that a node worked on, and those that it took from earlier runs."""
    for artifact in itertools.chain(*node.outputs.values()):
        if node.state == "complete" and artifact.has_custom_property(reuse.DONE):
            return {
                name: artifact.get_int_custom_property(name) for name in (reuse.DONE, reuse.REUSED)
            }
    return {}
