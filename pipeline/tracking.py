"""Logs each run to MLflow, where MLFLOW_TRACKING_URI is set.

The experiment is the name of the pipeline. A run has its settings as parameters, the curves of the
training and the metrics of candidate and baseline as metrics, its outcome as tags, and the report,
its JSON and the settings as artifacts.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator, Mapping
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from components import progress
from pipeline.report.facts import Facts, State

if TYPE_CHECKING:
    from mlflow.entities import Metric, Param, RunTag
    from mlflow.tracking import MlflowClient

    from pipeline.workspace import Workspace

VARIABLE = "MLFLOW_TRACKING_URI"
ARTIFACTS = ("report.html", "report.json", "config.toml")
_LOG = logging.getLogger("perennial.tracking")
# A server that is away must not keep a run from ending.
_PATIENCE = {"MLFLOW_HTTP_REQUEST_TIMEOUT": "20", "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1"}
_LONGEST = 6000  # characters of a parameter's value
_PER_CALL = 100  # parameters of a call, and tags; a call takes 1,000 metrics
_SEPARATE = ("epoch", "epochs")
_STATES = {State.PUSHED: "FINISHED", State.REJECTED: "FINISHED", State.INTERRUPTED: "KILLED"}


def log(workspace: Workspace, run_id: str) -> str | None:
    """Log a run that has ended. Returns its id in MLflow; None where it is not logged.

    Never raises: whether a run can be logged must not decide how it ends.
    """
    uri = os.environ.get(VARIABLE)
    if not uri:
        return None
    try:
        from mlflow.tracking import MlflowClient
    except ImportError:
        _note(f"{VARIABLE} is set, but MLflow is not installed: make venv EXTRAS=mlflow")
        return None
    from pipeline.report import history

    for name, value in _PATIENCE.items():
        os.environ.setdefault(name, value)
    try:
        facts = history.read_facts(workspace, history.find(workspace, run_id))
        logged = _log(MlflowClient(tracking_uri=uri), facts, workspace.run_dir(run_id))
    except Exception as error:
        _LOG.exception("the run could not be logged to MLflow")
        reason = " ".join(str(error).split())[:300]
        _note(f"the run was not logged to MLflow at {uri}: {reason}")
        return None
    _note(f"logged to MLflow at {uri}, run {logged}")
    return logged


def _note(text: str) -> None:
    progress.report("note", text=text)


def _log(client: MlflowClient, facts: Facts, folder: Path) -> str:
    from mlflow.exceptions import MlflowException

    run = facts.run
    experiment = client.get_experiment_by_name(run.name)
    number = experiment.experiment_id if experiment else client.create_experiment(run.name)
    started = round(datetime.fromisoformat(run.started).timestamp() * 1000)
    ended = started + round(1000 * (run.wall_s or 0))
    created: str = client.create_run(number, start_time=started, run_name=run.run_id).info.run_id
    params, tags = _params(facts), _tags(facts)
    for begin in range(0, max(len(params), len(tags)), _PER_CALL):
        part = slice(begin, begin + _PER_CALL)
        client.log_batch(created, params=params[part], tags=tags[part])
    metrics = list(_metrics(facts, started, ended))
    for begin in range(0, len(metrics), 10 * _PER_CALL):
        client.log_batch(created, metrics=metrics[begin : begin + 10 * _PER_CALL])
    try:
        for name in ARTIFACTS:
            if (folder / name).exists():
                client.log_artifact(created, str(folder / name))
    except MlflowException as error:
        _note(f"the report was not logged to MLflow: {' '.join(str(error).split())[:300]}")
    client.set_terminated(created, _STATES.get(run.state, "FAILED"), end_time=ended)
    return created


def _params(facts: Facts) -> list[Param]:
    from mlflow.entities import Param

    return [
        Param(key, "unset" if setting.value is None else str(setting.value)[:_LONGEST])
        for key, setting in facts.run.settings.items()
    ]


def _tags(facts: Facts) -> list[RunTag]:
    from mlflow.entities import RunTag

    run = facts.run
    found: Mapping[str, Any] = {
        "state": run.state.value,
        "recipe": run.recipe,
        "data": run.data.source,
        "blessed": facts.verdict and str(facts.verdict.blessed).lower(),
        "version": run.version,
        "pushed": run.pushed,
        "commit": run.code.commit,
        "error": run.error and run.error[:_LONGEST],
    }
    return [RunTag(f"perennial.{key}", str(value)) for key, value in found.items() if value]


def _metrics(facts: Facts, started: int, ended: int) -> Iterator[Metric]:
    """Yield metrics with their moments in epoch milliseconds, those of an epoch with its number."""
    from mlflow.entities import Metric

    for row in facts.training.epochs if facts.training else ():
        for name, value in row.items():
            if name not in _SEPARATE:
                yield Metric(name, float(value), started, int(row["epoch"]))
    if evaluation := facts.evaluation:
        models = {
            "candidate": evaluation.candidate,
            "baseline": evaluation.baseline,
            "test": evaluation.test,
        }
        for model, figures in models.items():
            for name, estimate in figures.metrics.items() if figures else ():
                if estimate.value is not None:
                    yield Metric(f"{model}.{name}", estimate.value, ended, 0)
