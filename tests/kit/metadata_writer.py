"""Publishes executions as a node of a run does: python -m tests.kit.metadata_writer NAME COUNT.

The database is that of the environment. Waits for a line on standard input before the first word
with it, so that several can begin at once.
"""

from __future__ import annotations

import os
import sys

from ml_metadata.proto import metadata_store_pb2
from tfx.orchestration.portable import execution_publish_utils
from tfx.orchestration.portable.mlmd import context_lib
from tfx.types import standard_artifacts

from kubeflow.patient_metadata import PatientMetadata


def main(name: str, count: int) -> None:
    connection = PatientMetadata(os.environ)
    print("ready", flush=True)
    sys.stdin.readline()
    for number in range(count):
        with connection as metadata:
            contexts = [
                context_lib.register_context_if_not_exists(metadata, kind, context)
                for kind, context in (("pipeline", "digits"), ("pipeline_run", "run-1"))
            ]
            execution = execution_publish_utils.register_execution(
                metadata, metadata_store_pb2.ExecutionType(name=name), contexts
            )
        model = standard_artifacts.Model()
        model.uri = f"s3://bucket/{name}/{number}"
        with connection as metadata:
            execution_publish_utils.publish_succeeded_execution(
                metadata, execution.id, contexts, {"model": [model]}
            )


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]))
