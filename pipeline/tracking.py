"""Logs each run to MLflow, where MLFLOW_TRACKING_URI is set.

The experiment is the name of the pipeline. A run has its settings as parameters, the curves of the
training and the metrics of candidate and baseline as metrics, its outcome as tags, and the report,
its JSON and the settings as artifacts.
"""

from __future__ import annotations

import logging
import os
from typing import TYPE_CHECKING

from components import progress
from pipeline.report import history

if TYPE_CHECKING:
    from pipeline.workspace import Workspace

VARIABLE = "MLFLOW_TRACKING_URI"
_LOG = logging.getLogger("perennial.tracking")
# A server that is away must not keep a run from ending.
_PATIENCE = {"MLFLOW_HTTP_REQUEST_TIMEOUT": "20", "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1"}


def log(workspace: Workspace, run_id: str) -> str | None:
    """Log a run that has ended. Returns its id in MLflow; None where it is not logged.

    Never raises: whether a run can be logged must not decide how it ends.
    """
    uri = os.environ.get(VARIABLE)
    if not uri:
        return None
    try:
        from pipeline import mlflow_log
    except ImportError:
        _note(f"{VARIABLE} is set, but MLflow is not installed: make venv EXTRAS=mlflow")
        return None
    for name, value in _PATIENCE.items():
        os.environ.setdefault(name, value)
    try:
        facts = history.read_facts(workspace, history.find(workspace, run_id))
        logged = mlflow_log.log(uri, facts, workspace.run_dir(run_id))
    except Exception as error:
        _LOG.exception("the run could not be logged to MLflow")
        reason = " ".join(str(error).split())[:300]
        _note(f"the run was not logged to MLflow at {uri}: {reason}")
        return None
    _note(f"logged to MLflow at {uri}, run {logged}")
    return logged


def _note(text: str) -> None:
    progress.report("note", text=text)
