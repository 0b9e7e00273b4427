"""The modules that the nodes of the default DAG execute."""

from __future__ import annotations

import tempfile

from tfx.orchestration.local import runner_utils

from kubeflow import dag
from pipeline.config import load


def modules() -> set[str]:
    """Compile the default DAG, and return the modules of its executors."""
    with tempfile.TemporaryDirectory() as folder:
        compiled = dag.make(load(None, {"workspace": folder}).config, folder)
    deployment = runner_utils.extract_local_deployment_config(compiled)
    found = set()
    for node in compiled.nodes:
        spec = runner_utils.extract_executor_spec(deployment, node.pipeline_node.node_info.id)
        if spec is not None:  # a resolver has none
            spec = getattr(spec, "python_executor_spec", spec)
            found.add(spec.class_path.rpartition(".")[0])
    return found
