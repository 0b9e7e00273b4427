"""Submit a compiled pipeline to Kubeflow, and follow the run."""

from __future__ import annotations

import contextlib
import datetime
import json
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from components import progress
from kubeflow import cluster
from kubeflow.client import Kubeflow, Version
from kubeflow.commands.connection import Connection
from kubeflow.commands.submit import Request
from kubeflow.follow import follow
from kubeflow.package import Package, arguments, read
from pipeline.commands.options import LogFormat
from pipeline.console import Console
from pipeline.formatting import duration


def submit(
    path: Path,
    name: str | None,
    request: Request,
    connection: Connection,
    log_format: LogFormat,
    *,
    wait: bool,
) -> None:
    """Start a run of a compiled pipeline, and print its page."""
    now = datetime.datetime.now(datetime.UTC)
    package, values = prepare(path, request, connection)
    kubeflow = Kubeflow(connection, dry_run=request.dry_run)
    version = kubeflow.upload(package)
    run_id, page = kubeflow.run(
        version,
        experiment=request.experiment or package.name,
        name=name or f"{package.name} {now:%Y-%m-%d %H:%M:%S}",
        arguments=values,
        service_account=request.service_account,
    )
    if request.dry_run:
        print_requests(kubeflow)
        return
    if log_format is not LogFormat.JSON:
        print_version(package, version)
        print(f"Run       {page}", flush=True)
    elif not wait:
        print(json.dumps({"run_id": run_id, "page": page, "version": package.version}))
    if wait:
        _wait(kubeflow, run_id, page, package.nodes, log_format)


def prepare(path: Path, request: Request, connection: Connection) -> tuple[Package, dict[str, Any]]:
    """Read a compiled pipeline and its arguments, and check that its pods can start.

    Raises ConfigError.
    """
    package = read(path)
    values = arguments(package, request.param or [])
    if request.check and not request.dry_run:
        for note in cluster.check(package, connection.namespace, request.service_account):
            print(f"perennial: note: {note}", file=sys.stderr)
    return package, values


def print_requests(kubeflow: Kubeflow) -> None:
    """Print the requests of a dry run."""
    print(json.dumps(kubeflow.requests, indent=2, ensure_ascii=False))


def print_version(package: Package, version: Version) -> None:
    """Print the name and version of a pipeline."""
    state = "uploaded" if version.uploaded else "uploaded before"
    print(f"Pipeline  {package.name}, version {package.version} ({state})")


def _wait(
    kubeflow: Kubeflow, run_id: str, page: str, nodes: Sequence[str], log_format: LogFormat
) -> None:
    with _not_repeated(), Console.create(log_format.resolved, sys.stdout) as console:
        try:
            ending = follow(kubeflow, run_id, nodes)
        except KeyboardInterrupt:
            progress.report("note", text=f"the run continues: {page}")
            raise
        outcome = dict(ending.outcome)
        rows = [("Run", f"succeeded after {duration(ending.wall_s)}")]
        if "accuracy" in outcome:
            verdict = "blessed" if outcome["blessed"] else "not blessed"
            rows.append(("Accuracy", f"{outcome['accuracy']:.4f}, {verdict}"))
        if "pushed" in outcome:
            rows.append(("Pushed", outcome["pushed"] or "nothing"))
        if "report" in outcome:
            outcome["report"] = kubeflow.artifact(outcome["report"])
            rows.append(("Report", outcome["report"]))
        rows.append(("Page", page))
        console.summary(rows, {"run_id": run_id, "state": "complete", **outcome, "page": page})


@contextlib.contextmanager
def _not_repeated() -> Iterator[None]:
    """Keep events from the root logger, whose records kfp's libraries print."""
    before = progress.LOGGER.propagate
    progress.LOGGER.propagate = False
    try:
        yield
    finally:
        progress.LOGGER.propagate = before
