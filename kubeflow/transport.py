"""Requests to the API of Kubeflow Pipelines, and messages for its errors."""

from __future__ import annotations

import json
import warnings
from pathlib import Path
from typing import Any

import kfp
import kfp_server_api as api
from kfp.client.set_volume_credentials import ServiceAccountTokenVolumeCredentials

from kubeflow.commands.connection import Connection
from pipeline.errors import ConfigError, KubeflowRefused, KubeflowUnreachable

_POD_TOKEN = Path("/var/run/secrets/kubeflow/pipelines/token")
_CONNECT_S, _READ_S = 5, 60


class Client(kfp.Client):
    """A client that takes the number of users from --namespace.

    kfp would query it five times in half a minute, and print a traceback each time.
    """

    def __init__(self, **options: Any) -> None:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            super().__init__(**options)

    @property
    def server(self) -> api.ApiClient:
        """Return the client that sends all requests."""
        return self._run_api.api_client

    def get_kfp_healthz(self, sleep_duration: int = 0) -> api.V2beta1GetHealthzResponse:
        return api.V2beta1GetHealthzResponse(multi_user=False)


def watched(server: api.ApiClient) -> Any:
    """Return `server.call_api` with a timeout, and an error for login pages."""
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


def options(connection: Connection, host: str) -> dict[str, Any]:
    """Return the arguments of kfp.Client. Raises ConfigError for unreadable files."""
    found: dict[str, Any] = {"host": host, "client_id": connection.iap_client_id}
    if connection.namespace:
        found["namespace"] = connection.namespace
    if connection.ca_file:
        _read(connection.ca_file, "--ca-file")
        found["ssl_ca_cert"] = str(connection.ca_file)
    if connection.token_file:
        found["existing_token"] = _secret(connection.token_file, "--token-file")
    if connection.cookies_file:
        found["cookies"] = _secret(connection.cookies_file, "--cookies-file")
    if connection.in_cluster and _POD_TOKEN.exists():
        found["credentials"] = ServiceAccountTokenVolumeCredentials(str(_POD_TOKEN))
    return found


def _read(path: Path, option: str) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except OSError as error:
        raise ConfigError(f"{option} {path}: cannot be read: {error.strerror}") from None
    except UnicodeDecodeError:
        raise ConfigError(f"{option} {path}: is not text") from None


def _secret(path: Path, option: str) -> str:
    text = _read(path, option).strip()
    if not text or len(text.splitlines()) > 1 or not text.isascii():
        raise ConfigError(f"{option} {path}: must be one line of ASCII")
    return text


def refusal(host: str, error: api.ApiException) -> Exception:
    """Return the exception for an answer other than 2xx."""
    if error.status in (401, 403):
        what = "not logged in" if error.status == 401 else "not allowed"
        return KubeflowRefused(
            f"{host}: {what} ({error.status} {error.reason}); give or renew --token-file, "
            "--cookies-file, --iap-client-id or --in-cluster, and check --namespace"
        )
    if error.status == 0:  # TLS
        return KubeflowUnreachable(f"{host}: {brief(error.reason)}; perhaps give --ca-file")
    try:
        body = json.loads(error.body)
        message = body.get("error_message") or body.get("message") or error.reason
    except (TypeError, ValueError, AttributeError):
        message = error.reason
    return KubeflowRefused(f"{host}: Kubeflow Pipelines refused: {brief(message)} ({error.status})")


def brief(reason: object) -> str:
    """Shorten a reason to one line of at most 300 characters."""
    text = " ".join(str(reason).split())
    # urllib3's messages start with the object that failed.
    text = text.rpartition(" object at 0x")[2].partition(": ")[2] or text
    return text if len(text) <= 300 else f"{text[:300]}..."
