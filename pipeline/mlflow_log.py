"""The client of MLflow, which is an optional dependency."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from datetime import datetime
from pathlib import Path
from typing import Any

from mlflow.entities import Metric, Param, RunTag
from mlflow.exceptions import MlflowException
from mlflow.tracking import MlflowClient

from components import progress
from pipeline.report.facts import Facts, State

ARTIFACTS = ("report.html", "report.json", "config.toml")
_LONGEST = 6000  # characters of a parameter's value
_PER_CALL = 100  # parameters of a call, and tags; a call takes 1,000 metrics
_SEPARATE = ("epoch", "epochs")
_STATES = {State.PUSHED: "FINISHED", State.REJECTED: "FINISHED", State.INTERRUPTED: "KILLED"}


def log(uri: str, facts: Facts, folder: Path) -> str:
    """Log a run and the files of its report in `folder`. Returns its id. Raises MlflowException."""
    client = MlflowClient(tracking_uri=uri)
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
        reason = " ".join(str(error).split())[:300]
        progress.report("note", text=f"the report was not logged to MLflow: {reason}")
    client.set_terminated(created, _STATES.get(run.state, "FAILED"), end_time=ended)
    return created


def _params(facts: Facts) -> list[Param]:
    return [
        Param(key, "unset" if setting.value is None else str(setting.value)[:_LONGEST])
        for key, setting in facts.run.settings.items()
    ]


def _tags(facts: Facts) -> list[RunTag]:
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
