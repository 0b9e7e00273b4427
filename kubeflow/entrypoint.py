"""The program of the pods of a compiled pipeline: `python3 -m kubeflow.entrypoint plan|nodes`.

`plan` makes the plan of a run from the pipeline's parameters, and may run the first nodes. `nodes`
runs one or more of the other nodes in turn. Standard output has one JSON object per line. The exit
codes are those of `perennial run`.

Nothing heavy is imported before `supervisor.run` has forked, and each pod imports only what its
nodes need.
"""

from __future__ import annotations

import argparse
import gc
import itertools
import json
import logging
import os
import re
import sys
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from components import environment, progress
from kubeflow import logs, supervisor
from pipeline.console import Console
from pipeline.errors import INTERRUPTED, UNEXPECTED, ConfigError, UserError

if TYPE_CHECKING:
    from tfx.proto.orchestration.pipeline_pb2 import Pipeline

    from kubeflow.patient_metadata import PatientMetadata

COMMAND = ["python3", "-m", "kubeflow.entrypoint"]

_LOG = logging.getLogger("perennial.kubeflow")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one pod, and return its exit code."""
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
            # Collecting TensorFlow's objects would take seconds.
            gc.freeze()
    return 0


def _check_resolved(arguments: Sequence[str]) -> None:
    """Raise ConfigError for a placeholder that Kubeflow did not replace.

    Runs with the same placeholder as their id would share their executions.
    """
    for option, value in itertools.pairwise(["", *arguments]):
        if placeholder := re.search(r"{{\$.{,80}", value):
            raise ConfigError(
                f"argument {option}: Kubeflow left the placeholder {placeholder[0]} as it is; "
                "compile the pipeline again, with the image's version of the code"
            )
        if option == "--run-id" and not value:
            raise ConfigError("argument --run-id: must not be empty: it identifies the run")


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
    plan.add_argument("--record", type=Path, required=True, help="file for the record of the run")
    plan.add_argument("--decision", type=Path, help="file for the decision to retrain")
    plan.add_argument("--run", type=_ids, default=[], help="nodes to run as well, with commas")
    nodes = actions.add_parser("nodes")
    nodes.set_defaults(action=_nodes)
    nodes.add_argument("--run", type=_ids, required=True, help="their ids, with commas")
    nodes.add_argument("--plan", required=True, help="the plan that `plan` wrote")
    nodes.add_argument("--run-id", required=True, help="name that the pods of a run share")
    nodes.add_argument("--record", type=json.loads, help="the record that `plan` wrote")
    for each in (plan, nodes):
        each.add_argument("--executor-input", type=json.loads, help="Kubeflow's message")
        each.add_argument("--report", type=Path, help="file for a report")
    return parser


def _ids(text: str) -> list[str]:
    return text.split(",")


def _plan(options: argparse.Namespace) -> None:
    from kubeflow import planning

    if planned := planning.make(options):
        _run(planned.imports, planned.ir, planned.record, planned.handle, options)


def _nodes(options: argparse.Namespace) -> None:
    from kubeflow import plan

    ir = plan.decode(options.plan, options.run_id)
    _run(plan.imports_for(ir, options.run), ir, options.record, None, options)


def _run(
    imports: AbstractContextManager[None],
    ir: Pipeline,
    record: Mapping[str, Any] | None,
    handle: PatientMetadata | None,
    options: argparse.Namespace,
) -> None:
    with imports:
        from kubeflow import execution
    execution.run(ir, record, handle, options)


def _failed(kind: str, message: str, exit_code: int) -> int:
    progress.report("error", kind=kind, message=message, exit_code=exit_code)
    logs.write_last_words(message)
    return exit_code


if __name__ == "__main__":
    sys.exit(supervisor.run(main, os.environ))
