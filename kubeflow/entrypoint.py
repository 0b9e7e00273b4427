"""What the pods of a compiled pipeline run: `python3 -m kubeflow.entrypoint plan|node`.

`plan` makes the run's plan of the pipeline's parameters, once a run; `node` runs one node of it.
Standard output is JSON, one object a line. The exit codes are those of `perennial run`.
"""

from __future__ import annotations

import argparse
import contextlib
import gc
import json
import logging
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from components import environment, progress
from kubeflow import imports, logs
from pipeline.console import Console
from pipeline.errors import INTERRUPTED, UNEXPECTED, ConfigError, UserError

if TYPE_CHECKING:
    from pipeline.settings import Config

COMMAND = ["python3", "-m", "kubeflow.entrypoint"]

_LOG = logging.getLogger("perennial.kubeflow")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one pod. Returns its exit code, other than 0 where the node did not succeed."""
    environment.prepare()
    options = _parser().parse_args(arguments)
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    with logs.as_json() as stdout, Console.create("json", stdout):
        try:
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
    node = actions.add_parser("node")
    node.set_defaults(action=_node)
    node.add_argument("--node", required=True, help="its id")
    node.add_argument("--plan", required=True, help="what `plan` wrote")
    node.add_argument("--run-id", required=True, help="name that the pods of a run share")
    node.add_argument("--executor-input", type=json.loads, required=True, help="Kubeflow's message")
    node.add_argument("--record", type=json.loads, help="what `plan` wrote for reports")
    node.add_argument("--report", type=Path, help="file for a report")
    return parser


def _plan(options: argparse.Namespace) -> None:
    from kubeflow import parameters

    scheduled = options.decision is not None
    loaded = parameters.load(options.given, dict(options.parameter), scheduled=scheduled)
    parameters.check_root(options.pipeline_root)
    origins = {key: origin for key, origin in loaded.origins.items() if origin != "default"}
    progress.report("config", recipe=loaded.config.train.recipe, origins=origins)

    from kubeflow import metadata, plan, results
    from kubeflow.patient_metadata import PatientMetadata
    from pipeline import preflight
    from pipeline.run import beginning

    # The tables are made here, by one pod and before two nodes could at once.
    with PatientMetadata(os.environ):
        connection = metadata.connection_config(os.environ)
    if options.decision and not _decide(loaded.config, connection, options):
        return
    ir = plan.make(loaded.config, options.pipeline_root)
    nodes = ",".join(node.pipeline_node.node_info.id for node in ir.nodes)
    if nodes != options.nodes:
        raise ConfigError(
            f"this image and these parameters make the nodes {nodes}, but {options.nodes} were "
            "compiled; compile the pipeline again, with the image's version of the code"
        )
    record = beginning(loaded.config, loaded.origins, options.run_id)
    place = preflight.Place(*loaded, connection, pod=True, scheduled=scheduled)
    preflight.check(place, record["preflight"])
    results.write_file(options.record, json.dumps(record))
    results.write_file(options.output, plan.encode(ir))


def _decide(config: Config, connection: Any, options: argparse.Namespace) -> bool:
    """Whether the run goes on. All outputs of the task have to be there, also where it does not."""
    from kubeflow import results
    from pipeline.retraining.look import decide_in_cluster

    decision = decide_in_cluster(config, connection, options.pipeline_root)
    progress.report("note", text=str(decision))
    results.write_file(options.decision, results.RETRAIN if decision.retrain else "nothing to do")
    if not decision.retrain:
        results.write_file(options.record, "")
        results.write_file(options.output, "")
    return decision.retrain


def _node(options: argparse.Namespace) -> None:
    from tfx.orchestration.local import runner_utils
    from tfx.proto.orchestration import executable_spec_pb2

    from kubeflow import plan
    from kubeflow.patient_metadata import PatientMetadata

    handle = PatientMetadata(os.environ)
    ir = plan.decode(options.plan, options.run_id)
    node = plan.find(ir, options.node)
    spec = runner_utils.extract_executor_spec(
        runner_utils.extract_local_deployment_config(ir), options.node
    )
    light = not isinstance(spec, executable_spec_pb2.BeamExecutableSpec)
    if light:
        imports.defer("tfx.components")
    with imports.without("apache_beam") if light else contextlib.nullcontext():
        from kubeflow import attempts, results
        from pipeline.local_runner import NodeRunner

    runner = NodeRunner(
        ir,
        handle,
        undo=lambda: attempts.clean_up(handle, ir, node),
        log="the lines above",
    )
    with runner.interruptible():
        result = runner.run(node, finished=attempts.clean_up(handle, ir, node))
        page = results.report(os.environ, options.record, result) if options.report else None
        if page is not None:
            results.write_file(options.report, page)
        results.write(options.executor_input, result, page)


def _failed(kind: str, message: str, exit_code: int) -> int:
    progress.report("error", kind=kind, message=message, exit_code=exit_code)
    return exit_code


if __name__ == "__main__":
    sys.exit(main())
