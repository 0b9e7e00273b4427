"""Model servers to test: the project's own, and TensorFlow Serving."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from components.model_server import launch
from components.model_server.server import ModelServer
from tests.kit.serving import MODEL

OWN, REAL = "own", "real"


def running(kind: str, base: Path, config: Path | None = None, follow: bool = True) -> Any:
    """Start a server that looks for new versions all the time, and follows a configuration file."""
    if kind == OWN:
        served = {"config_file": config} if config else {"base_path": base, "model_name": MODEL}
        seconds = 0.05 if follow else 0.0
        return ModelServer(
            **served, poll_seconds=0.05, config_poll_seconds=seconds, retry_seconds=0.1
        )
    source = launch.Source.of_config(config) if config else launch.Source.of_model(base, MODEL)
    process = launch.ServerProcess(launch.find_backend(), source)
    if not follow:
        flag = "--model_config_file_poll_wait_seconds="
        process.command = [each for each in process.command if not each.startswith(flag)]
    return process
