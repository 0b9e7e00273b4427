"""Submit a compiled pipeline to Kubeflow, and follow the run."""

from __future__ import annotations

import contextlib
import datetime
import json
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

from components import progress
from kubeflow import cluster
from kubeflow.client import Kubeflow, Version
from kubeflow.commands.connection import Connection
from kubeflow.follow import follow
from kubeflow.package import Package, arguments, read
from pipeline.commands.options import LogFormat
from pipeline.console import Console, duration


def submit(
    path: Path,
    param: Sequence[str],
    connection: Connection,
    *,
    experiment: str | None,
    name: str | None,
    service_account: str,
    wait: bool,
    check: bool,
    dry_run: bool,
    log_format: LogFormat,
) -> None:
    """Upload a compiled pipeline unless Kubeflow has it, start a run, and print its page."""
    package = read(path)
    values = arguments(package, param)
    if check and not dry_run:
        check_cluster(package, connection, service_account)
    now = datetime.datetime.now(datetime.UTC)
    kubeflow = Kubeflow(connection, dry_run=dry_run)
    version = kubeflow.upload(package)
    run_id, page = kubeflow.run(
        version,
        experiment=experiment or package.name,
        name=name or f"{package.name} {now:%Y-%m-%d %H:%M:%S}",
        arguments=values,
        service_account=service_account,
    )
    if dry_run:
        print_requests(kubeflow)
        return
    if log_format is not LogFormat.JSON:
        print_version(package, version)
        print(f"Run       {page}", flush=True)
    elif not wait:
        print(json.dumps({"run_id": run_id, "page": page, "version": package.version}))
    if wait:
        _wait(kubeflow, run_id, page, package.nodes, log_format)


def check_cluster(package: Package, connection: Connection, service_account: str) -> None:
    """Check that pods can start, if Kubernetes can be read. Raises ConfigError."""
    for remark in cluster.check(package, connection.namespace, service_account):
        print(f"perennial: note: {remark}", file=sys.stderr)


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
