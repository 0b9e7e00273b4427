"""The modules that the nodes of the default DAG execute."""

from __future__ import annotations

import tempfile
from pathlib import Path

from tfx.dsl.compiler.compiler import Compiler
from tfx.orchestration.local import runner_utils

from pipeline.config import load
from pipeline.dag import Locations, create_pipeline


def modules() -> set[str]:
    """Compile the default DAG, and return the modules of its executors."""
    with tempfile.TemporaryDirectory() as folder:
        config = load(None, {"workspace": folder}).config
        places = Locations(pipeline_root=folder, push_directory=str(Path(folder) / "serving"))
        compiled = Compiler().compile(create_pipeline(config, places))
    deployment = runner_utils.extract_local_deployment_config(compiled)
    found = set()
    for node in compiled.nodes:
        spec = runner_utils.extract_executor_spec(deployment, node.pipeline_node.node_info.id)
        if spec is not None:  # a resolver has none
            spec = getattr(spec, "python_executor_spec", spec)
            found.add(spec.class_path.rpartition(".")[0])
    return found
