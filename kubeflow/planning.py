"""Make the plan of a run from the pipeline's parameters, in the first pod."""

from __future__ import annotations

import argparse
import json
import os
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, NamedTuple

from tfx.proto.orchestration.pipeline_pb2 import Pipeline

from components import progress, storage
from kubeflow import attempts, dag, metadata, parameters, plan, results
from kubeflow.patient_metadata import PatientMetadata
from pipeline import beam_runner, preflight
from pipeline.config import Loaded
from pipeline.errors import ConfigError
from pipeline.retraining.observe import decide_in_cluster
from pipeline.run import beginning

PLAN, RECORD, DECISION = "plan", "record", "decision"


class Planned(NamedTuple):
    """A plan, the record for reports, the used connection, and the context for imports."""

    ir: Pipeline
    record: dict[str, Any]
    handle: PatientMetadata
    imports: AbstractContextManager[None]


def make(options: argparse.Namespace) -> Planned | None:
    """Write the outputs of the plan's task. Returns the plan if the pod has nodes to run with it.

    A retried pod keeps the plan of its first attempt. Raises ConfigError.
    """
    scheduled = options.decision is not None
    loaded = parameters.load(options.given, dict(options.parameter), scheduled=scheduled)
    parameters.check_root(options.pipeline_root)
    beam_runner.check_root(loaded.config.beam, options.pipeline_root)
    origins = {key: origin for key, origin in loaded.origins.items() if origin != "default"}
    progress.report("config", recipe=loaded.config.train.recipe, origins=origins)
    handle = PatientMetadata(os.environ)
    with handle:
        pass  # creates the tables, before two pods could do so at once
    if options.run:
        task = attempts.task_of(options.executor_input)
        decided = attempts.recall(handle, task)
        if decided is None:
            decided = _decide(loaded, options)
            attempts.remember(handle, task, decided)
        else:
            progress.report("note", text="the plan is that of an earlier attempt")
    else:
        decided = _decide(loaded, options)
    results.write_file(options.output, decided[PLAN])
    results.write_file(options.record, decided[RECORD])
    if options.decision:
        results.write_file(options.decision, decided[DECISION])
    if not (options.run and decided[PLAN]):
        return None
    ir = plan.decode(decided[PLAN], options.run_id)
    imports = plan.imports_for(ir, options.run)
    return Planned(ir, json.loads(decided[RECORD]), handle, imports)


def _decide(loaded: Loaded, options: argparse.Namespace) -> dict[str, str]:
    """Return the contents of the task's output files, with an empty plan if there is nothing to do.

    Raises ConfigError.
    """
    connection = metadata.connection_config(os.environ)
    if options.decision:
        if not storage.is_uri(options.pipeline_root):  # the first run on a new volume
            Path(options.pipeline_root).mkdir(parents=True, exist_ok=True)
        decision = decide_in_cluster(loaded.config, connection, options.pipeline_root)
        progress.report("note", text=str(decision))
        if not decision.retrain:
            return {PLAN: "", RECORD: "", DECISION: "nothing to do"}
    ir = dag.make(loaded.config, options.pipeline_root)
    nodes = ",".join(node.pipeline_node.node_info.id for node in ir.nodes)
    if nodes != options.nodes:
        raise ConfigError(
            f"this image and these parameters make the nodes {nodes}, but {options.nodes} were "
            "compiled; compile the pipeline again, with the image's version of the code"
        )
    record = beginning(loaded.config, loaded.origins, options.run_id)
    context = preflight.PreflightContext(
        *loaded, connection, pod=True, scheduled=bool(options.decision)
    )
    preflight.check(context, record["preflight"])
    return {PLAN: plan.encode(ir), RECORD: json.dumps(record), DECISION: results.RETRAIN}
