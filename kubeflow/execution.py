"""Run the nodes of a pod, and write the results that Kubeflow shows.

Import it within `plan.imports_for`: TFX's modules import Beam and every component.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Mapping
from typing import Any

from tfx.proto.orchestration.pipeline_pb2 import Pipeline

from kubeflow import attempts, logs, plan, results
from kubeflow.patient_metadata import PatientMetadata, loss_told_apart
from pipeline.local_runner import NodeRunner


def run(
    ir: Pipeline,
    record: Mapping[str, Any] | None,
    handle: PatientMetadata | None,
    options: argparse.Namespace,
) -> None:
    """Run the nodes of this pod in turn, except those that an earlier attempt has finished.

    Args:
      ir: the plan of the run.
      record: the record for reports; None in pods without a report.
      handle: connection to ML Metadata; None for a new one.
      options: of the command line.
    """
    handle = handle or PatientMetadata(os.environ)
    nodes = [plan.find(ir, each) for each in options.run]
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
        page = None
        if options.report and record:
            from kubeflow import run_report  # plots, which most pods do without

            page = run_report.render(os.environ, record, done)
        if page is not None:
            results.write_file(options.report, page)
        results.write(options.executor_input, done, page, earlier)
