"""`perennial monitor-pipeline`: `monitor`, for a pipeline that runs on Kubeflow."""

from __future__ import annotations

import os

from pipeline.commands.monitor import (
    DaysOption,
    DryRunOption,
    JsonOption,
    ModelsOption,
    OutputOption,
    UntilOption,
    Window,
)
from pipeline.commands.options import ConfigOption, SettingsOption, load
from pipeline.commands.traffic import LogsArgument


def monitor_pipeline(
    logs: LogsArgument,
    config: ConfigOption = None,
    days: DaysOption = None,
    until: UntilOption = None,
    models: ModelsOption = None,
    output: OutputOption = None,
    as_json: JsonOption = False,
    dry_run: DryRunOption = False,
    settings: SettingsOption = None,
) -> None:
    """Compare a window of recorded traffic with the data of the pipeline's baseline.

    As `perennial monitor`, but the baseline is that of ML Metadata in the database that the
    variables PERENNIAL_METADATA_... name, as in the pods of a run, and what is found goes to the
    journal below kubeflow.pipeline_root, where `perennial compile --retrain` finds it.
    """
    from components import storage
    from kubeflow.metadata import connection_config
    from pipeline.errors import ConfigError
    from pipeline.monitoring import monitor as monitoring
    from pipeline.retraining import journal

    loaded = load(config, {}, settings).config
    root = loaded.kubeflow.pipeline_root
    if root is None:
        raise ConfigError("kubeflow.pipeline_root: must be set, for what is found goes below it")
    log = storage.join(root, journal.FILE)
    window = Window(logs, days, until, output, as_json, dry_run)
    window.compare(
        loaded,
        lambda: monitoring.find_place(loaded, None, models, log, connection_config(os.environ)),
    )
