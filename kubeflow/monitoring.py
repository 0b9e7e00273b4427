"""Inputs of `perennial monitor-pipeline`."""

from __future__ import annotations

import os

from components import storage
from kubeflow.metadata import connection_config
from pipeline.errors import ConfigError
from pipeline.monitoring import monitor
from pipeline.retraining import journal
from pipeline.settings import Config


def find_inputs(config: Config, models: str | None) -> monitor.MonitorInputs:
    """Find the pipeline's baseline in the database of ML Metadata, and its journal.

    Raises ConfigError.
    """
    root = config.kubeflow.pipeline_root
    if root is None:
        raise ConfigError("kubeflow.pipeline_root: must be set, as findings are written below it")
    log = storage.join(root, journal.FILE)
    return monitor.find_inputs(config, None, models, log, connection_config(os.environ))
