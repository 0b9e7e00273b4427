"""What the pods of a compiled pipeline run: `python3 -m kubeflow.entrypoint plan|nodes`.

`plan` makes the run's plan of the pipeline's parameters, once a run, and may go on with the first
nodes of it; `nodes` runs one or more of the others, in turn.
Standard output is JSON, one object a line. The exit codes are those of `perennial run`.
"""

from __future__ import annotations

import argparse
import contextlib
import gc
import itertools
import json
import logging
import os
import re
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from components import environment, progress, storage
from kubeflow import imports, logs, supervisor
from pipeline.console import Console
from pipeline.errors import INTERRUPTED, UNEXPECTED, ConfigError, UserError

if TYPE_CHECKING:
    from tfx.proto.orchestration.pipeline_pb2 import Pipeline

    from kubeflow.patient_metadata import PatientMetadata
    from pipeline.config import Loaded

COMMAND = ["python3", "-m", "kubeflow.entrypoint"]

_LOG = logging.getLogger("perennial.kubeflow")
_PLAN, _RECORD, _DECISION = "plan", "record", "decision"


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one pod. Returns its exit code, other than 0 where the node did not succeed."""
    environment.prepare()
    arguments = sys.argv[1:] if arguments is None else arguments
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    with logs.as_json() as stdout, Console.create("json", stdout):
        try:
            _check_resolved(arguments)
            options = _parser().parse_args(arguments)
            options.action(options)
        except UserError as error:
            return _failed(type(error).__name__, str(error), error.exit_code)
        except KeyboardInterrupt:
            return _failed("Interrupted", "interrupted; the next attempt continues", INTERRUPTED)
        except Exception as error:
            _LOG.exception("unexpected failure")
            message = f"unexpected {type(error).__name__}: {error}; the traceback is above"
            return _failed(type(error).__name__, message, UNEXPECTED)
        finally:
            # What TensorFlow made would take seconds to collect, and goes with the process.
            gc.freeze()
    return 0


def _check_resolved(arguments: Sequence[str]) -> None:
    """Refuse what Kubeflow was to replace and did not. Raises ConfigError.

    Runs with the same text for their run id would take each other's nodes for their own.
    """
    for option, value in itertools.pairwise(["", *arguments]):
        if placeholder := re.search(r"{{\$.{,80}", value):
            raise ConfigError(
                f"argument {option}: Kubeflow left the placeholder {placeholder[0]} as it is; "
                "compile the pipeline again, with the image's version of the code"
            )
        if option == "--run-id" and not value:
            raise ConfigError("argument --run-id: must not be empty: it tells runs apart")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog=" ".join(COMMAND), description=__doc__)
    actions = parser.add_subparsers(required=True)
    plan = actions.add_parser("plan")
    plan.set_defaults(action=_plan)
    plan.add_argument("--given", type=json.loads, required=True, help="settings as compiled")
    plan.add_argument("--nodes", required=True, help="ids of the compiled nodes, with commas")
    plan.add_argument("--parameter", nargs=2, action="append", default=[], help="name and value")
    plan.add_argument("--pipeline-root", required=True)
    plan.add_argument("--run-id", required=True, help="name that the pods of a run share")
    plan.add_argument("--output", type=Path, required=True, help="file for the plan")
    plan.add_argument("--record", type=Path, required=True, help="file for what reports say")
    plan.add_argument("--decision", type=Path, help="file for whether there is anything to do")
    plan.add_argument("--run", type=_ids, default=[], help="nodes to run as well, with commas")
    nodes = actions.add_parser("nodes")
    nodes.set_defaults(action=_nodes)
    nodes.add_argument("--run", type=_ids, required=True, help="their ids, with commas")
    nodes.add_argument("--plan", required=True, help="what `plan` wrote")
    nodes.add_argument("--run-id", required=True, help="name that the pods of a run share")
    nodes.add_argument("--record", type=json.loads, help="what `plan` wrote for reports")
    for each in (plan, nodes):
        each.add_argument("--executor-input", type=json.loads, help="Kubeflow's message")
        each.add_argument("--report", type=Path, help="file for a report")
    return parser


def _ids(text: str) -> list[str]:
    return text.split(",")


def _plan(options: argparse.Namespace) -> None:
    from kubeflow import parameters
    from pipeline import beam_runner

    scheduled = options.decision is not None
    loaded = parameters.load(options.given, dict(options.parameter), scheduled=scheduled)
    parameters.check_root(options.pipeline_root)
    beam_runner.check_root(loaded.config.beam, options.pipeline_root)
    origins = {key: origin for key, origin in loaded.origins.items() if origin != "default"}
    progress.report("config", recipe=loaded.config.train.recipe, origins=origins)

    from kubeflow import attempts, plan, results
    from kubeflow.patient_metadata import PatientMetadata

    # The tables are made here, by one pod and before two nodes could at once.
    handle = PatientMetadata(os.environ)
    with handle:
        pass
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
    results.write_file(options.output, decided[_PLAN])
    results.write_file(options.record, decided[_RECORD])
    if options.decision:
        results.write_file(options.decision, decided[_DECISION])
    if options.run and decided[_PLAN]:
        record = json.loads(decided[_RECORD])
        _run(handle, plan.decode(decided[_PLAN], options.run_id), record, options)


def _decide(loaded: Loaded, options: argparse.Namespace) -> dict[str, str]:
    """What the outputs of the plan's task hold, all of which have to be there in any case.

    The plan is empty where there is nothing to do. Raises ConfigError.
    """
    from kubeflow import metadata, plan, results
    from pipeline import preflight
    from pipeline.run import beginning

    connection = metadata.connection_config(os.environ)
    if options.decision:
        from pipeline.retraining.observe import decide_in_cluster

        if not storage.is_uri(options.pipeline_root):  # the first run on a new volume
            Path(options.pipeline_root).mkdir(parents=True, exist_ok=True)
        decision = decide_in_cluster(loaded.config, connection, options.pipeline_root)
        progress.report("note", text=str(decision))
        if not decision.retrain:
            return {_PLAN: "", _RECORD: "", _DECISION: "nothing to do"}
    ir = plan.make(loaded.config, options.pipeline_root)
    nodes = ",".join(node.pipeline_node.node_info.id for node in ir.nodes)
    if nodes != options.nodes:
        raise ConfigError(
            f"this image and these parameters make the nodes {nodes}, but {options.nodes} were "
            "compiled; compile the pipeline again, with the image's version of the code"
        )
    record = beginning(loaded.config, loaded.origins, options.run_id)
    place = preflight.PreflightContext(
        *loaded, connection, pod=True, scheduled=bool(options.decision)
    )
    preflight.check(place, record["preflight"])
    return {_PLAN: plan.encode(ir), _RECORD: json.dumps(record), _DECISION: results.RETRAIN}


def _nodes(options: argparse.Namespace) -> None:
    from kubeflow import plan
    from kubeflow.patient_metadata import PatientMetadata

    handle = PatientMetadata(os.environ)
    _run(handle, plan.decode(options.plan, options.run_id), options.record, options)


def _run(
    handle: PatientMetadata,
    ir: Pipeline,
    record: Mapping[str, Any] | None,
    options: argparse.Namespace,
) -> None:
    """Run the nodes of this pod in turn; those that an earlier attempt has finished are done."""
    from tfx.orchestration.local import runner_utils
    from tfx.proto.orchestration import executable_spec_pb2

    from kubeflow import plan
    from kubeflow.patient_metadata import loss_told_apart

    nodes = [plan.find(ir, each) for each in options.run]
    deployment = runner_utils.extract_local_deployment_config(ir)
    specs = [runner_utils.extract_executor_spec(deployment, each) for each in options.run]
    light = not any(isinstance(each, executable_spec_pb2.BeamExecutableSpec) for each in specs)
    if light:
        imports.defer("tfx.components")
    with imports.without("apache_beam") if light else contextlib.nullcontext():
        from kubeflow import attempts, results
        from pipeline.local_runner import NodeRunner

    attempts.mark(ir, attempts.task_of(options.executor_input))

    def undo() -> None:
        for node in nodes:
            attempts.clean_up(handle, ir, node, own=True)

    runner = NodeRunner(ir, handle, undo=undo, log="the lines above")
    done, earlier = [], set()
    with loss_told_apart(), runner.interruptible():
        for node in nodes:
            with logs.of_node(node.node_info.id):
                finished = attempts.clean_up(handle, ir, node)
                if finished is not None:
                    earlier.add(node.node_info.id)
                done.append(runner.run(node, finished=finished))
        page = results.report(os.environ, record, done) if options.report and record else None
        if page is not None:
            results.write_file(options.report, page)
        results.write(options.executor_input, done, page, earlier)


def _failed(kind: str, message: str, exit_code: int) -> int:
    progress.report("error", kind=kind, message=message, exit_code=exit_code)
    logs.write_last_words(message)
    return exit_code


if __name__ == "__main__":
    sys.exit(supervisor.run(main, os.environ))
