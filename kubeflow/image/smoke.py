"""Whether an environment can run every node: python3 -m kubeflow.image.smoke.

Compiles the default DAG and imports what each of its nodes executes, native libraries included.
"""

from __future__ import annotations

import importlib
import tempfile
from pathlib import Path


def main() -> None:
    """Print what was imported. ImportError says what the environment lacks."""
    from tfx.dsl.compiler.compiler import Compiler
    from tfx.orchestration.local import runner_utils

    from pipeline.config import load
    from pipeline.dag import Locations, create_pipeline

    with tempfile.TemporaryDirectory() as folder:
        config = load(None, {"workspace": folder}).config
        places = Locations(pipeline_root=folder, push_directory=str(Path(folder) / "serving"))
        compiled = Compiler().compile(create_pipeline(config, places))
    deployment = runner_utils.extract_local_deployment_config(compiled)
    modules = {"trainer_module.run_fn", "kubeflow.patient_metadata", "kfp.client"}
    for node in compiled.nodes:
        spec = runner_utils.extract_executor_spec(deployment, node.pipeline_node.node_info.id)
        if spec is not None:  # a resolver has none
            spec = getattr(spec, "python_executor_spec", spec)
            modules.add(spec.class_path.rpartition(".")[0])
    for module in sorted(modules):
        importlib.import_module(module)
        print(module)


if __name__ == "__main__":
    main()
