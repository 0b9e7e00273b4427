"""A model configuration in a ConfigMap of Kubernetes, named as configmap://NAMESPACE/NAME."""

from __future__ import annotations

import dataclasses
import re
from urllib.parse import parse_qs, urlsplit

from components.errors import ConfigError
from components.kubernetes_api import Json, request

SCHEME = "configmap://"
_FORM = f"must be {SCHEME}NAMESPACE/NAME, perhaps with /KEY and ?service=NAME behind it"
_NAME = re.compile(r"[a-z0-9]([-.a-z0-9]*[a-z0-9])?")  # a DNS subdomain
_KEY = re.compile(r"[-._a-zA-Z0-9]+")


@dataclasses.dataclass(frozen=True)
class ConfigMapKey:
    """The place of a configuration, and the Service, in its namespace, of the pods that follow."""

    namespace: str
    name: str
    key: str = "models.config"
    service: str = "model-server"

    @classmethod
    def parse(cls, location: str) -> ConfigMapKey:
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
        """Return the configuration in the object. Raises ConfigError where it has no such key."""
        data = content.get("data") or {}
        if self.key not in data:
            there_are = ", ".join(sorted(data)) or "none"
            raise ConfigError(f"{self} has no key {self.key}; there are: {there_are}")
        return str(data[self.key])


def is_config_map(location: str) -> bool:
    """Whether a location is a ConfigMap."""
    return location.startswith(SCHEME)


def read(place: ConfigMapKey) -> Json:
    """Read the object, with the resourceVersion that `replace` needs. Raises UserError."""
    method = "read_namespaced_config_map"
    return request("get configmaps", "CoreV1Api", method, place.name, place.namespace)


def replace(place: ConfigMapKey, content: Json) -> Json:
    """Replace the object, and return the new one. Raises UserError.

    Raises ConflictError where somebody else has changed it since it was read.
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
