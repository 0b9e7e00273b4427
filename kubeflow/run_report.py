"""The report page of a run on Kubeflow."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from typing import Any

from components import progress
from kubeflow import results
from kubeflow.metadata import connection_config
from pipeline.local_runner import NodeResult
from pipeline.report import page, plots
from pipeline.report.collect import artifacts_in, collect
from pipeline.report.facts import Run, State

_LOG = logging.getLogger("perennial.kubeflow")


def render(
    env: Mapping[str, str], record: Mapping[str, Any], done: Sequence[NodeResult]
) -> str | None:
    """Render the page of a run so far; None, with a note, if that fails.

    Args:
      env: names the database of ML Metadata with the artifacts of the run.
      record: as made by `pipeline.run.beginning`.
      done: results of the nodes that have just ended.
    """
    known = dict(record)
    for result in done:
        if results.pushes(result):
            pushed = results.pushed(result)
            known |= {"state": State.PUSHED if pushed else State.REJECTED, "pushed": pushed}
    try:
        run = Run.model_validate(known)
        facts = collect(run, artifacts_in(connection_config(env), run.run_id))
        return page.render(facts, plots.draw(facts))
    except Exception as error:
        _LOG.exception("no report")
        progress.report("note", text=f"the report could not be made: {error}")
        return None
