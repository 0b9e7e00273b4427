"""A model configuration in a ConfigMap of Kubernetes, named as configmap://NAMESPACE/NAME.

Kubernetes' client library is imported only where one is used. It comes with kfp, and knows what a
person's kubeconfig and a pod's token can be: exec plugins, certificates, tokens that are renewed.
"""

from __future__ import annotations

import dataclasses
import functools
import json
import os
import re
from typing import Any
from urllib.parse import parse_qs, urlsplit

from components.errors import ConfigError, KubernetesUnreachable, UserError

SCHEME = "configmap://"
_FORM = f"must be {SCHEME}NAMESPACE/NAME, perhaps with /KEY and ?service=NAME behind it"
_NAME = re.compile(r"[a-z0-9]([-.a-z0-9]*[a-z0-9])?")  # a DNS subdomain
_KEY = re.compile(r"[-._a-zA-Z0-9]+")
TIMEOUT = (5, 20)  # s to connect, and for an answer
_RETRIES = 2
_CONFLICT = 409
_IN_POD = "KUBERNETES_SERVICE_HOST"

Json = dict[str, Any]


class ConflictError(ConfigError):
    """Somebody else changed the object since it was read."""


@dataclasses.dataclass(frozen=True)
class Place:
    """Where a configuration is, and who follows it.

    key: of the ConfigMap's data. service: of the same namespace, whose pods follow it.
    """

    namespace: str
    name: str
    key: str = "models.config"
    service: str = "model-server"

    @classmethod
    def parse(cls, location: str) -> Place:
        """Read configmap://NAMESPACE/NAME[/KEY][?service=NAME]. Raises ValueError."""
        parts = urlsplit(location)
        names = [parts.netloc, *parts.path.strip("/").split("/")]
        query = parse_qs(parts.query, keep_blank_values=True)
        if f"{parts.scheme}://" != SCHEME or not 2 <= len(names) <= 3 or query.keys() - {"service"}:
            raise ValueError(_FORM)
        service = query.get("service", [cls.service])[-1]
        key = names[2] if len(names) == 3 else cls.key
        if not (all(map(_NAME.fullmatch, [*names[:2], service])) and _KEY.fullmatch(key)):
            raise ValueError(_FORM)
        return cls(names[0], names[1], key, service)

    def __str__(self) -> str:
        return f"the ConfigMap {self.namespace}/{self.name}"

    def text_of(self, content: Json) -> str:
        """The configuration in the object. Raises ConfigError where it has no such key."""
        data = content.get("data") or {}
        if self.key not in data:
            there_are = ", ".join(sorted(data)) or "none"
            raise ConfigError(f"{self} has no key {self.key}; there are: {there_are}")
        return str(data[self.key])


def is_config_map(location: str) -> bool:
    """Whether it is named by the scheme of ConfigMaps."""
    return location.startswith(SCHEME)


def request(what: str, api: str, method: str, *arguments: Any, **options: Any) -> Json:
    """Call a method of an API; returns the answer's JSON as it is.

    Args:
        what: verb and object, such as "get configmaps", for the message.
        api: class of `kubernetes.client`.
        method: of it.
        arguments: of it.
        options: of it.

    Raises:
        ConfigError: no cluster is named, or it refused. ConflictError is a kind of it.
        KubernetesUnreachable: it does not answer.
    """
    import kubernetes
    from kubernetes.client.exceptions import ApiException
    from urllib3.exceptions import HTTPError

    client = connection()
    call = getattr(getattr(kubernetes.client, api)(client), method)
    try:
        # Not as the library's models: they leave out what is newer than themselves.
        answer = call(*arguments, _preload_content=False, _request_timeout=TIMEOUT, **options)
        found: Json = json.loads(answer.data)
    except ApiException as error:
        raise _refusal(what, error) from error
    except (HTTPError, OSError, ValueError) as error:
        reason = " ".join(str(getattr(error, "reason", None) or error).split())
        raise KubernetesUnreachable(
            f"Kubernetes at {client.configuration.host} does not answer: {reason}"
        ) from error
    return found


def connection(retries: int = _RETRIES) -> Any:
    """A client of the cluster that KUBECONFIG names, else of the pod's own, else of ~/.kube/config.

    Args:
        retries: of requests that were not answered.

    Raises:
        ConfigError: none is named, or what is named cannot be used.
    """
    return _connection(os.environ.get("KUBECONFIG") or None, os.environ.get(_IN_POD), retries)


@functools.cache
def _connection(kubeconfig: str | None, host: str | None, retries: int) -> Any:
    import kubernetes
    import yaml
    from kubernetes.config.config_exception import ConfigException

    settings = kubernetes.client.Configuration()
    try:
        if host and not kubeconfig:
            kubernetes.config.load_incluster_config(client_configuration=settings)
        else:
            kubernetes.config.load_kube_config(kubeconfig, client_configuration=settings)
    except (ConfigException, yaml.YAMLError, OSError, ValueError, TypeError, KeyError) as error:
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


def read(place: Place) -> Json:
    """The whole object, with the resourceVersion that `replace` needs. Raises UserError."""
    method = "read_namespaced_config_map"
    return request("get configmaps", "CoreV1Api", method, place.name, place.namespace)


def replace(place: Place, content: Json) -> Json:
    """Replace the object where it is still the one that was read; returns the new one.

    Raises:
        ConflictError: somebody else changed it. UserError: it was refused.
    """
    return request(
        "update configmaps",
        "CoreV1Api",
        "replace_namespaced_config_map",
        place.name,
        place.namespace,
        content,
        # Whoever applies the file by the server's side is told of the conflict.
        field_manager="perennial",
    )
