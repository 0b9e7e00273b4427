"""What is asked of the API of Kubeflow Pipelines, through kfp.Client."""

from __future__ import annotations

import contextlib
import io
import json
import warnings
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import google.auth.exceptions
import kfp
import kfp_server_api as api
import urllib3
from kfp.client.set_volume_credentials import ServiceAccountTokenVolumeCredentials

from kubeflow.package import Package
from pipeline.commands.connection import Connection
from pipeline.errors import ConfigError, KubeflowRefused, KubeflowUnreachable, NodeFailed

_IN_CLUSTER = "http://ml-pipeline.kubeflow.svc.cluster.local:8888"
_POD_TOKEN = Path("/var/run/secrets/kubeflow/pipelines/token")
_CONNECT_S, _READ_S = 5, 60
_PAGE = 100
_LOOK_EVERY_S = 10
_FOREVER_S = 10**9


class Version(NamedTuple):
    """A version of a pipeline that Kubeflow has. uploaded: whether it is new."""

    pipeline_id: str
    version_id: str
    uploaded: bool


class Schedule(NamedTuple):
    """A recurring run. cron: None for one that has none, made elsewhere."""

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
            dry_run: ask nothing, but keep in `requests` what would be sent to an installation
                that has none of it yet.
        """
        host = connection.host or (_IN_CLUSTER if connection.in_cluster else None)
        if host is None and not dry_run:
            raise ConfigError(
                "--host is not given: the URL of Kubeflow Pipelines, or KF_PIPELINES_ENDPOINT, "
                "or --in-cluster"
            )
        self.requests: list[dict[str, Any]] = []
        self._host = (host or "http://kubeflow").rstrip("/")
        self._namespace = connection.namespace
        with self._told():
            self._client = _Client(**_options(connection, self._host))
        server = self._client.server
        server.call_api = self._record(server) if dry_run else _watched(server)

    def upload(self, package: Package) -> Version:
        """Make the package a version of the pipeline of its name, unless it is one already."""
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
        return made.run_id, f"{self._host}/#/runs/details/{made.run_id}"

    def wait(self, run_id: str) -> None:
        """Until the run is over, looking every few seconds. Raises NodeFailed where it failed."""
        with self._told():
            run = self._client.wait_for_run_completion(run_id, _FOREVER_S, _LOOK_EVERY_S)
        if run.state != api.V2beta1RuntimeState.SUCCEEDED:
            raise NodeFailed(f"run {run_id} ended as {run.state}; its page shows which node failed")

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
        """Start runs by `cron` and return the address of the schedule's page.

        One at a time, and without those that were missed while it was paused or Kubeflow was down.
        Raises ConfigError where the name is taken.
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
        return f"{self._host}/#/recurringrun/details/{made.recurring_run_id}"

    def schedules(self) -> list[Schedule]:
        """All that there are."""
        with self._told():
            return self._schedules(None)

    def find_schedule(self, name: str) -> Schedule:
        """The one of that name. Raises ConfigError where there is none, or are several."""
        with self._told():
            found = self._schedules(name)
        if len(found) == 1:
            return found[0]
        if found:
            raise ConfigError(f"{len(found)} schedules are called {name!r}; delete all but one")
        raise ConfigError(f"no schedule is called {name!r}; see perennial schedule list")

    def pause(self, schedule: Schedule) -> None:
        """Start no more runs until `resume`."""
        with self._told():
            self._client.disable_recurring_run(schedule.id)

    def resume(self, schedule: Schedule) -> None:
        """Start runs again."""
        with self._told():
            self._client.enable_recurring_run(schedule.id)

    def delete(self, schedule: Schedule) -> None:
        """Forget it; its runs stay."""
        with self._told():
            self._client.delete_recurring_run(schedule.id)

    def _experiment(self, name: str) -> str:
        made = self._client.create_experiment(name, namespace=self._namespace)
        return str(made.experiment_id)

    def _schedules(self, name: str | None) -> list[Schedule]:
        found: list[Schedule] = []
        token = ""
        while True:
            page = self._client.list_recurring_runs(
                page_token=token,
                page_size=_PAGE,
                namespace=self._namespace,
                filter=_named(name) if name else None,
            )
            for each in page.recurring_runs or []:
                trigger = each.trigger and each.trigger.cron_schedule
                enabled = each.status == api.V2beta1RecurringRunStatus.ENABLED
                cron = trigger.cron if trigger else None
                found.append(Schedule(each.recurring_run_id, each.display_name, cron, enabled))
            token = page.next_page_token or ""
            if not token:
                return found

    def _record(self, server: api.ApiClient) -> Any:
        """Takes the place of `server.call_api`: keeps the request and makes up the answer."""

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
        """Say in a line what went wrong, and nothing of what kfp prints."""
        try:
            with contextlib.redirect_stdout(io.StringIO()):
                yield
        except api.ApiException as error:
            raise _refusal(self._host, error) from None
        except urllib3.exceptions.HTTPError as error:
            reason = getattr(error, "reason", None) or error
            raise KubeflowUnreachable(
                f"{self._host}: no answer from Kubeflow Pipelines ({_brief(reason)}); check --host "
                "and whether kubectl port-forward still runs"
            ) from None
        except google.auth.exceptions.GoogleAuthError as error:
            raise KubeflowRefused(f"{self._host}: no Google credentials: {error}") from None


class _Client(kfp.Client):
    """Made without asking whether there are several users: --namespace says so.

    kfp would ask five times, half a minute long, and print a traceback each time.
    """

    def __init__(self, **options: Any) -> None:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            super().__init__(**options)

    @property
    def server(self) -> api.ApiClient:
        """Through which everything is asked."""
        return self._run_api.api_client

    def get_kfp_healthz(self, sleep_duration: int = 0) -> api.V2beta1GetHealthzResponse:
        return api.V2beta1GetHealthzResponse(multi_user=False)


def _watched(server: api.ApiClient) -> Any:
    """`server.call_api` that waits for seconds only, and tells the API from a login page."""
    ask = server.call_api

    def call_api(*args: Any, **kwargs: Any) -> Any:
        kwargs["_request_timeout"] = kwargs.get("_request_timeout") or (_CONNECT_S, _READ_S)
        answer = ask(*args, **kwargs)
        if "html" in (server.last_response.getheader("Content-Type") or ""):
            raise KubeflowRefused(
                f"{server.configuration.host}: answers with a web page, perhaps to log in, and not "
                "as Kubeflow's API; give --cookies-file or --token-file, or check --host"
            )
        return answer

    return call_api


def _options(connection: Connection, host: str) -> dict[str, Any]:
    options: dict[str, Any] = {"host": host, "client_id": connection.iap_client_id}
    if connection.namespace:
        options["namespace"] = connection.namespace
    if connection.ca_file:
        _read(connection.ca_file, "--ca-file")
        options["ssl_ca_cert"] = str(connection.ca_file)
    if connection.token_file:
        options["existing_token"] = _secret(connection.token_file, "--token-file")
    if connection.cookies_file:
        options["cookies"] = _secret(connection.cookies_file, "--cookies-file")
    if connection.in_cluster and _POD_TOKEN.exists():
        options["credentials"] = ServiceAccountTokenVolumeCredentials(str(_POD_TOKEN))
    return options


def _read(path: Path, option: str) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except OSError as error:
        raise ConfigError(f"{option} {path}: cannot be read: {error.strerror}") from None
    except UnicodeDecodeError:
        raise ConfigError(f"{option} {path}: is no text") from None


def _secret(path: Path, option: str) -> str:
    text = _read(path, option).strip()
    if not text or len(text.splitlines()) > 1 or not text.isascii():
        raise ConfigError(f"{option} {path}: must be one line of ASCII")
    return text


def _named(name: str) -> str:
    predicate = {"operation": "EQUALS", "key": "display_name", "stringValue": name}
    return json.dumps({"predicates": [predicate]})


def _refusal(host: str, error: api.ApiException) -> Exception:
    if error.status in (401, 403):
        what = "does not know who asks" if error.status == 401 else "does not allow it"
        return KubeflowRefused(
            f"{host}: {what} ({error.status} {error.reason}); give or renew --token-file, "
            "--cookies-file, --iap-client-id or --in-cluster, and check --namespace"
        )
    if error.status == 0:  # TLS
        return KubeflowUnreachable(f"{host}: {_brief(error.reason)}; perhaps give --ca-file")
    try:
        body = json.loads(error.body)
        message = body.get("error_message") or body.get("message") or error.reason
    except (TypeError, ValueError, AttributeError):
        message = error.reason
    return KubeflowRefused(f"{host}: Kubeflow Pipelines says: {_brief(message)} ({error.status})")


def _brief(reason: object) -> str:
    text = " ".join(str(reason).split())
    # urllib3 begins with the object that failed.
    text = text.rpartition(" object at 0x")[2].partition(": ")[2] or text
    return text if len(text) <= 300 else f"{text[:300]}..."
