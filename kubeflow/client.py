"""Calls of the Kubeflow Pipelines API, through kfp.Client."""

from __future__ import annotations

import contextlib
import datetime
import io
import json
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple
from urllib.parse import urlencode

import google.auth.exceptions
import kfp_server_api as api
import urllib3

from kubeflow.cluster import PodLogs
from kubeflow.commands.connection import Connection
from kubeflow.package import Package
from kubeflow.transport import Client, brief, options, refusal, watched
from kubeflow.workflow import Workflow, events, parse
from pipeline.errors import ConfigError, KubeflowRefused, KubeflowUnreachable

_IN_CLUSTER = "http://ml-pipeline.kubeflow.svc.cluster.local:8888"
_PAGE = 100
_ENDED = ("SUCCEEDED", "SKIPPED", "FAILED", "CANCELED")
_UNFINISHED = ("RUNTIME_STATE_UNSPECIFIED", "PENDING", "RUNNING", "CANCELING", "PAUSED")


class Version(NamedTuple):
    """A version of a pipeline on Kubeflow. uploaded: whether it is new."""

    pipeline_id: str
    version_id: str
    uploaded: bool


class Run(NamedTuple):
    """A run as Kubeflow lists it. created: epoch seconds. page: its address."""

    id: str
    name: str
    state: str
    created: float
    page: str

    @property
    def over(self) -> bool:
        """Return whether the run has ended, with any result."""
        return self.state in _ENDED


class Schedule(NamedTuple):
    """A recurring run. cron: None for one with an interval, made by another tool."""

    id: str
    name: str
    cron: str | None
    enabled: bool


class Kubeflow:
    """An installation of Kubeflow Pipelines.

    Every method raises KubeflowUnreachable or KubeflowRefused.
    """

    def __init__(self, connection: Connection, *, dry_run: bool = False) -> None:
        """Connect. Raises ConfigError for files that cannot be read, too.

        Args:
            connection: where, and as whom.
            dry_run: send nothing, but keep in `requests` what would be sent to an empty
                installation.
        """
        host = connection.host or (_IN_CLUSTER if connection.in_cluster else None)
        if host is None and not dry_run:
            raise ConfigError(
                "--host is not given: the URL of Kubeflow Pipelines, or KF_PIPELINES_ENDPOINT, "
                "or --in-cluster"
            )
        self.requests: list[dict[str, Any]] = []
        self._host = (host or "http://kubeflow").rstrip("/")
        # Kubeflow serves its pages below this path.
        self._pages = (connection.ui_host or connection.host or "/pipeline").rstrip("/")
        self._namespace = connection.namespace
        self._pod_logs = PodLogs()
        with self._told():
            self._client = Client(**options(connection, self._host))
        server = self._client.server
        server.call_api = self._record(server) if dry_run else watched(server)

    def upload(self, package: Package) -> Version:
        """Upload the package as a version of its pipeline, unless Kubeflow has it already."""
        with self._told():
            found = self._client.list_pipelines(
                filter=_named(package.name), namespace=self._namespace
            )
            if found.pipelines:
                pipeline_id = found.pipelines[0].pipeline_id
            else:
                body = api.V2beta1Pipeline(
                    display_name=package.name, name=package.name, namespace=self._namespace
                )
                pipeline_id = self._client.pipelines.pipeline_service_create_pipeline(
                    body
                ).pipeline_id
            versions = self._client.list_pipeline_versions(
                pipeline_id, filter=_named(package.version)
            ).pipeline_versions
            if versions:
                return Version(pipeline_id, versions[0].pipeline_version_id, uploaded=False)
            version = self._client.upload_pipeline_version(
                str(package.path), package.version, pipeline_id=pipeline_id
            )
        return Version(pipeline_id, version.pipeline_version_id, uploaded=True)

    def run(
        self,
        version: Version,
        *,
        experiment: str,
        name: str,
        arguments: Mapping[str, Any],
        service_account: str,
    ) -> tuple[str, str]:
        """Start a run and return its id and the address of its page."""
        with self._told():
            made = self._client.run_pipeline(
                self._experiment(experiment),
                name,
                params=dict(arguments),
                pipeline_id=version.pipeline_id,
                version_id=version.version_id,
                service_account=service_account,
            )
        return made.run_id, f"{self._pages}/#/runs/details/{made.run_id}"

    def look(self, run_id: str) -> Run:
        """Return the current state of a run."""
        with self._told():
            return self._run(self._client.get_run(run_id))

    def unfinished(self) -> list[Run]:
        """List all runs that have not ended, including those being canceled."""
        states = {"values": [*_UNFINISHED]}
        return self._runs({"operation": "IN", "key": "state", "stringValues": states})

    def ended_since(self, moment: datetime.datetime) -> list[Run]:
        """List all runs that ended at a moment or later."""
        value = moment.astimezone(datetime.UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
        since = {"operation": "GREATER_THAN_EQUALS", "key": "finished_at", "timestampValue": value}
        return [run for run in self._runs(since) if run.over]

    def workflow(self, run_id: str) -> Workflow | None:
        """Return Argo's workflow of a run; None if Kubeflow does not return it."""
        try:
            with self._told():
                found = self._get("/apis/v1beta1/runs/{run_id}", {"run_id": run_id})
            return parse(found["pipeline_runtime"]["workflow_manifest"])
        except (KubeflowRefused, KeyError, TypeError, ValueError):
            return None

    def log(self, run_id: str, namespace: str, pod: str) -> list[dict[str, Any]]:
        """Return the events in the log of a pod; an empty list if no source has the log.

        Sources are the API, the server of Kubeflow's pages, and Kubernetes. In an installation for
        one user, the API has logs of finished pods only, as it looks up running pods without a
        namespace (ReadLog in resource_manager.go of 2.17).
        """
        ids = {"run_id": run_id, "pod": pod}
        query = {"runid": run_id, "podname": pod, "podnamespace": namespace}
        for path, parameters in (
            ("/apis/v1alpha1/runs/{run_id}/nodes/{pod}/log", {}),
            ("/k8s/pod/logs", query),
        ):
            try:
                with self._told():
                    found = events(self._get(path, ids, parameters))
            except KubeflowRefused:
                continue
            if found:
                return found
        return events(self._pod_logs.read(namespace, pod))

    def artifact(self, uri: str) -> str:
        """Return the address of an artifact on Kubeflow's pages, for a URI like minio://bucket/key."""
        scheme, _, rest = uri.partition("://")
        bucket, _, key = rest.partition("/")
        query = {"source": "gcs" if scheme == "gs" else scheme, "bucket": bucket, "key": key}
        if self._namespace:
            query["namespace"] = self._namespace
        return f"{self._pages}/artifacts/get?{urlencode(query)}"

    def terminate(self, run_id: str) -> None:
        """Terminate a run."""
        with self._told():
            self._client.terminate_run(run_id)

    def schedule(
        self,
        version: Version,
        *,
        cron: str,
        experiment: str,
        name: str,
        arguments: Mapping[str, Any],
        service_account: str,
    ) -> str:
        """Create a schedule, and return the address of its page.

        It has one run at a time, and skips runs that were due while it was paused or Kubeflow was
        down. Raises ConfigError if the name exists.
        """
        with self._told():
            if self._schedules(name):
                raise ConfigError(
                    f"schedule {name!r} exists; delete it first, or give another --name"
                )
            made = self._client.create_recurring_run(
                self._experiment(experiment),
                name,
                cron_expression=cron,
                max_concurrency=1,
                no_catchup=True,
                params=dict(arguments),
                pipeline_id=version.pipeline_id,
                version_id=version.version_id,
                service_account=service_account,
            )
        return f"{self._pages}/#/recurringrun/details/{made.recurring_run_id}"

    def schedules(self) -> list[Schedule]:
        """List all schedules."""
        with self._told():
            return self._schedules(None)

    def find_schedule(self, name: str) -> Schedule:
        """Return the schedule of a name. Raises ConfigError unless there is exactly one."""
        with self._told():
            found = self._schedules(name)
        if len(found) == 1:
            return found[0]
        if found:
            raise ConfigError(f"{len(found)} schedules are called {name!r}; delete all but one")
        raise ConfigError(f"no schedule is called {name!r}; see perennial schedule list")

    def pause(self, schedule: Schedule) -> None:
        """Pause a schedule until `resume`."""
        with self._told():
            self._client.disable_recurring_run(schedule.id)

    def resume(self, schedule: Schedule) -> None:
        """Resume a schedule."""
        with self._told():
            self._client.enable_recurring_run(schedule.id)

    def delete(self, schedule: Schedule) -> None:
        """Delete a schedule. Its runs stay."""
        with self._told():
            self._client.delete_recurring_run(schedule.id)

    def _run(self, found: api.V2beta1Run) -> Run:
        return Run(
            id=found.run_id,
            name=found.display_name,
            state=found.state or "PENDING",
            created=found.created_at.timestamp(),
            page=f"{self._pages}/#/runs/details/{found.run_id}",
        )

    def _runs(self, predicate: Mapping[str, Any]) -> list[Run]:
        filter_by = json.dumps({"predicates": [predicate]})
        with self._told():
            return [*map(self._run, self._all(self._client.list_runs, "runs", filter_by))]

    def _all(self, ask: Callable[..., Any], field: str, filter_by: str | None) -> Iterator[Any]:
        """Iterate over all pages of a list method of kfp.Client, in the namespace."""
        token = ""
        while True:
            page = ask(
                page_token=token, page_size=_PAGE, namespace=self._namespace, filter=filter_by
            )
            yield from getattr(page, field) or []
            token = page.next_page_token or ""
            if not token:
                return

    def _get(self, path: str, ids: Mapping[str, str], query: Mapping[str, str] = {}) -> Any:
        """Get a path without a model in kfp. Returns JSON or text."""
        answer, *_ = self._client.server.call_api(
            path,
            "GET",
            dict(ids),
            list(query.items()),
            {},
            response_type="object",
            auth_settings=["Bearer"],
        )
        return answer

    def _experiment(self, name: str) -> str:
        made = self._client.create_experiment(name, namespace=self._namespace)
        return str(made.experiment_id)

    def _schedules(self, name: str | None) -> list[Schedule]:
        found = []
        filter_by = _named(name) if name else None
        for each in self._all(self._client.list_recurring_runs, "recurring_runs", filter_by):
            trigger = each.trigger and each.trigger.cron_schedule
            enabled = each.status == api.V2beta1RecurringRunStatus.ENABLED
            cron = trigger.cron if trigger else None
            found.append(Schedule(each.recurring_run_id, each.display_name, cron, enabled))
        return found

    def _record(self, server: api.ApiClient) -> Any:
        """Return a replacement of `server.call_api` that records requests and makes up answers."""

        def call_api(
            path: str, method: str, path_params: Any, query: Any, _: Any, **options: Any
        ) -> Any:
            for name, value in (path_params or {}).items():
                path = path.replace(f"{{{name}}}", str(value))
            if method != "GET":
                request = {"method": method, "url": f"{self._host}{path}", "query": dict(query)}
                if options.get("body") is not None:
                    request["body"] = server.sanitize_for_serialization(options["body"])
                if options.get("files"):
                    request["files"] = options["files"]
                self.requests.append({key: value for key, value in request.items() if value})
            kind = getattr(api, options["response_type"])
            ids = {key: f"<{key}>" for key in kind.openapi_types if key.endswith("_id")}
            return kind(**ids)

        return call_api

    @contextlib.contextmanager
    def _told(self) -> Iterator[None]:
        """Turn errors into one line, and suppress the output of kfp."""
        try:
            with contextlib.redirect_stdout(io.StringIO()):
                yield
        except api.ApiException as error:
            raise refusal(self._host, error) from None
        except urllib3.exceptions.HTTPError as error:
            reason = getattr(error, "reason", None) or error
            raise KubeflowUnreachable(
                f"{self._host}: no answer from Kubeflow Pipelines ({brief(reason)}); check --host "
                "and whether kubectl port-forward still runs"
            ) from None
        except google.auth.exceptions.GoogleAuthError as error:
            raise KubeflowRefused(f"{self._host}: no Google credentials: {error}") from None


def _named(name: str) -> str:
    predicate = {"operation": "EQUALS", "key": "display_name", "stringValue": name}
    return json.dumps({"predicates": [predicate]})
