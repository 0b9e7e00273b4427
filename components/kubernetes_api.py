"""Requests to Kubernetes' API.

The client library supports exec plugins, certificates and renewed tokens, in a kubeconfig or a pod.
It comes with kfp, and is slow to import.
"""

from __future__ import annotations

import functools
import json
import os
from typing import Any

import yaml
from urllib3.exceptions import HTTPError

from components.errors import ConfigError, KubernetesUnreachable, UserError

TIMEOUT = (5, 20)  # s to connect, and for an answer
_RETRIES = 2
_CONFLICT = 409
_IN_POD = "KUBERNETES_SERVICE_HOST"

Json = dict[str, Any]


class ConflictError(ConfigError):
    """The object was changed by another client since it was read."""


def request(what: str, api: str, method: str, *arguments: Any, **options: Any) -> Json:
    """Call a method of an API and return the JSON of the response.

    Args:
        what: verb and object, such as "get configmaps", for the message.
        api: class of `kubernetes.client`.
        method: name of one of its methods.
        arguments: positional arguments of the method.
        options: keyword arguments of the method.

    Raises:
        ConfigError: no cluster is configured, or it refused the request.
        ConflictError: the object was changed by another client.
        KubernetesUnreachable: the cluster does not answer.
    """
    import kubernetes

    client = connection()
    call = getattr(getattr(kubernetes.client, api)(client), method)
    try:
        # Not as the library's models, which drop fields that are newer than the library.
        answer = call(*arguments, _preload_content=False, _request_timeout=TIMEOUT, **options)
        found: Json = json.loads(answer.data)
    except kubernetes.client.ApiException as error:
        raise _refusal(what, error) from error
    except (HTTPError, OSError, ValueError) as error:
        reason = " ".join(str(getattr(error, "reason", None) or error).split())
        raise KubernetesUnreachable(
            f"Kubernetes at {client.configuration.host} does not answer: {reason}"
        ) from error
    return found


def connection(retries: int = _RETRIES) -> Any:
    """Return a client of the cluster in KUBECONFIG, else of the pod, else in ~/.kube/config.

    Args:
        retries: of requests without an answer.

    Raises:
        ConfigError: no cluster is configured, or the configuration is invalid.
    """
    return _connection(os.environ.get("KUBECONFIG") or None, os.environ.get(_IN_POD), retries)


@functools.cache
def _connection(kubeconfig: str | None, host: str | None, retries: int) -> Any:
    import kubernetes

    settings = kubernetes.client.Configuration()
    try:
        if host and not kubeconfig:
            kubernetes.config.load_incluster_config(client_configuration=settings)
        else:
            kubernetes.config.load_kube_config(kubeconfig, client_configuration=settings)
    except (
        kubernetes.config.ConfigException,
        yaml.YAMLError,
        OSError,
        ValueError,
        TypeError,
        KeyError,
    ) as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        raise ConfigError(
            f"no cluster is named: {reason}; set KUBECONFIG, or run it in a pod with a token"
        ) from error
    settings.retries = retries
    return kubernetes.client.ApiClient(settings)


def _refusal(what: str, error: Any) -> UserError:
    try:
        message = json.loads(error.body)["message"]
    except (ValueError, TypeError, KeyError):
        message = str(error.reason)
    message = " ".join(str(message).split())
    if error.status == _CONFLICT:
        return ConflictError(message)
    if error.status == 401:
        return ConfigError(f"{what}: not logged in to Kubernetes ({message})")
    if error.status == 403:
        message = (
            f"{message}; bind the account to the Role model-promoter, "
            "kubeflow/serving/components/promotion"
        )
    return ConfigError(f"{what}: {message}")
