"""`perennial monitor-pipeline`: `monitor`, for a pipeline that runs on Kubeflow."""

from __future__ import annotations

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

    This is `perennial monitor` for a pipeline on Kubeflow. The baseline is read from the ML
    Metadata database that the environment variables PERENNIAL_METADATA_... name, as in the pods of
    a run. Findings are added to the journal in kubeflow.pipeline_root, which pipelines compiled
    with --retrain read.
    """
    from kubeflow import monitoring

    loaded = load(config, {}, settings).config
    window = Window(logs, days, until, output, as_json, dry_run)
    window.compare(loaded, lambda: monitoring.find_inputs(loaded, models))
