"""Whether an environment can run every node: python3 -m kubeflow.image.smoke.

Compiles the default DAG and imports what each node executes, and with it every native library.
"""

from __future__ import annotations

import importlib
import tempfile
from pathlib import Path


def main() -> None:
    """Print each node with its executor; ImportError for what is missing."""
    from tfx.dsl.compiler.compiler import Compiler
    from tfx.proto.orchestration import executable_spec_pb2

    from pipeline.config import load
    from pipeline.dag import Locations, create_pipeline

    with tempfile.TemporaryDirectory() as folder:
        config = load(None, {"workspace": folder}).config
        places = Locations(pipeline_root=folder, push_directory=str(Path(folder) / "serving"))
        compiled = Compiler().compile(create_pipeline(config, places))
    for name, spec in compiled.deployment_config.ListFields():
        print(name, spec)
