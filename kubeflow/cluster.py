"""Check that the pods of a compiled pipeline can start in the cluster that kubectl uses.

A pod with a missing resource does not fail: it stays pending.
"""

from __future__ import annotations

import dataclasses
import os
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from kubernetes.client import ApiException, CoreV1Api, V1Node
from kubernetes.utils.quantity import parse_quantity

from components import kubernetes_api
from pipeline.errors import ConfigError

if TYPE_CHECKING:
    from kubeflow.package import Package

AUTOSCALED = "PERENNIAL_AUTOSCALED"
_DEFAULT_NAMESPACE = "kubeflow"
_API_SERVER = "ml-pipeline"
_POD_TOKEN = Path("/var/run/secrets/kubernetes.io/serviceaccount/token")
_TIMEOUT_S = 10
_SHOWN = 3  # of the tasks that need a thing
_EVICTING = ("NoSchedule", "NoExecute")


def check(package: Package, namespace: str | None, service_account: str) -> list[str]:
    """Check the claims, secrets with their keys, service account and machines of the pods.

    Args:
      package: a compiled pipeline.
      namespace: namespace of the pods; None for Kubeflow's own.
      service_account: account of the pods.

    Returns:
      Notes about checks that were not possible; none without a configuration of kubectl.

    Raises ConfigError for missing resources.
    """
    if not _is_named():
        return []
    remarks: list[str] = []
    try:
        core = _connect()
        place = f"the cluster at {core.api_client.configuration.host}"
        look = _Look(core, namespace or _DEFAULT_NAMESPACE)
        if not look.kubeflow_is_there():
            return [
                f"{place} has no Kubeflow Pipelines, so it was not checked whether pods can start"
            ]
        missing = [*look.missing(package, service_account), *look.unplaceable(package, remarks)]
    except Exception as error:  # of urllib3, ssl, credential plug-ins and what they call
        reason = " ".join(str(getattr(error, "reason", None) or error).split())[:200]
        return [f"it was not checked whether pods can start: {reason}"]
    if missing:
        raise ConfigError(
            f"{'; '.join(missing)}; so pods would wait for ever in {place}, namespace "
            f"{look.namespace}; --no-check submits all the same"
        )
    return [*look.refused, *remarks]


def _is_named() -> bool:
    """Return whether kubectl would have a cluster here."""
    home = Path.home() / ".kube/config"
    return bool(os.environ.get("KUBECONFIG")) or home.exists() or _POD_TOKEN.exists()


def _connect() -> CoreV1Api:
    """Connect without retries, as the user is waiting. Raises ConfigError."""
    return CoreV1Api(kubernetes_api.connection(retries=0))


class PodLogs:
    """Logs of pods, if kubectl could read them here."""

    def __init__(self) -> None:
        """Create a reader that connects on first use."""
        self._core: CoreV1Api | None = None
        self._at_hand = True

    def read(self, namespace: str, pod: str) -> str:
        """Return the log of a pod's main container so far; an empty text if it cannot be read."""
        if not self._at_hand:
            return ""
        try:
            if self._core is None:
                self._core = _connect() if _is_named() else None
            if self._core is not None:
                # The library would decode a single JSON line into a Python object.
                answer = self._core.read_namespaced_pod_log(
                    pod, namespace, container="main", _request_timeout=_TIMEOUT_S,
                    _preload_content=False,
                )  # fmt: skip
                return str(answer.data.decode("utf-8", "replace"))
        except Exception as error:  # of urllib3, ssl, credential plug-ins and what they call
            # A pod of another cluster, or one without a container yet: try again next time.
            if getattr(error, "status", None) in (400, 404):
                return ""
        self._at_hand = False
        return ""


class _Look:
    """A reader of one namespace. refused: notes about resources that may not be read."""

    def __init__(self, core: CoreV1Api, namespace: str) -> None:
        self.namespace = namespace
        self.refused: list[str] = []
        self._core = core

    def kubeflow_is_there(self) -> bool:
        """Return whether the cluster has Kubeflow; true if that may not be read."""
        for namespace in {self.namespace, _DEFAULT_NAMESPACE}:
            if self._read(self._core.read_namespaced_service, _API_SERVER, namespace) is not None:
                return True
        return False

    def missing(self, package: Package, service_account: str) -> Iterator[str]:
        """Yield a clause for each missing resource of the namespace."""
        account = self._read(self._core.read_namespaced_service_account, service_account)
        if account is None:
            yield f"there is no service account {service_account!r}"
        for claim, tasks in _needed(package, _claims).items():
            if self._read(self._core.read_namespaced_persistent_volume_claim, claim) is None:
                yield f"there is no claim {claim!r}, which {tasks} mount"
        keys = _needed(package, _secret_keys)
        for secret in dict.fromkeys(name for name, _ in keys):
            found = self._read(self._core.read_namespaced_secret, secret)
            wanted = {key: tasks for (name, key), tasks in keys.items() if name == secret}
            if found is None:
                yield f"there is no secret {secret!r}, which {next(iter(wanted.values()))} use"
            elif found is not _UNREADABLE:
                for key, tasks in wanted.items():
                    if key and key not in (found.data or {}):
                        yield f"secret {secret!r} has no key {key!r}, which {tasks} use"

    def unplaceable(self, package: Package, remarks: list[str]) -> Iterator[str]:
        """Yield a clause for each group of pods that no machine could run even if it were empty."""
        found = self._read(self._core.list_node)
        if found is _UNREADABLE or found is None:
            return
        for wish, tasks in _needed(package, _wishes).items():
            problems = Counter(filter(None, (wish.problem(node) for node in found.items)))
            if sum(problems.values()) < len(found.items):
                continue
            why = ", ".join(f"{count} {problem}" for problem, count in problems.items())
            text = f"none of the {len(found.items)} machines can take {tasks}: {why}"
            if wish.autoscaled:
                remarks.append(f"{text}; the cluster has to make one")
            else:
                yield f"{text} (if machines are made on demand, set kubeflow.autoscaled)"

    def _read(self, read: Callable[..., Any], *names: str) -> Any:
        """Read a resource. Returns None if it does not exist, `_UNREADABLE` if it is forbidden."""
        if len(names) == 1:
            names = (*names, self.namespace)
        try:
            return read(*names, _request_timeout=_TIMEOUT_S)
        except ApiException as error:
            if error.status == 404:
                return None
            if error.status not in (401, 403):
                raise
            kind = read.__name__.removeprefix("read_namespaced_").removeprefix("list_")
            what = f"{kind.replace('_', ' ')} {names[0] if names else ''}".strip()
            self.refused.append(f"not checked, for it may not be read: {what}")
            return _UNREADABLE


_UNREADABLE: Any = object()


@dataclasses.dataclass(frozen=True)
class _Wish:
    """Requirements of a pod on its machine. tolerations: key, operator, value, effect."""

    labels: tuple[tuple[str, str], ...]
    tolerations: tuple[tuple[str, str, str, str], ...]
    resources: tuple[tuple[str, str], ...]
    autoscaled: bool

    def problem(self, node: V1Node) -> str | None:
        """Return why a machine cannot run the pod, such as "without label a=b", or None."""
        labels = node.metadata.labels or {}
        for name, value in self.labels:
            if labels.get(name) != value:
                return f"without label {name}={value}"
        for taint in node.spec.taints or []:
            if taint.effect in _EVICTING and not any(
                _tolerates(each, taint) for each in self.tolerations
            ):
                return f"with taint {taint.key}"
        for name, quantity in self.resources:
            there = node.status.allocatable.get(name, "0")
            if parse_quantity(there) < parse_quantity(quantity):
                return f"with {there} of {name} where {quantity} are needed"
        return None


def _tolerates(toleration: tuple[str, str, str, str], taint: Any) -> bool:
    key, operator, value, effect = toleration
    return (
        (not effect or effect == taint.effect)
        and (not key or key == taint.key)
        and (operator == "Exists" or value == (taint.value or ""))
    )


_Thing = TypeVar("_Thing")


def _needed(
    package: Package, of: Callable[[Mapping[str, Any], Mapping[str, Any]], Iterable[_Thing]]
) -> dict[_Thing, str]:
    """Collect the requirements of pods, with the names of their tasks."""
    tasks: dict[_Thing, list[str]] = {}
    for task, executor in package.executors.items():
        for thing in dict.fromkeys(of(executor["container"], executor["kubernetes"])):
            tasks.setdefault(thing, []).append(task)
    return {thing: _listed(names) for thing, names in tasks.items()}


def _listed(names: Sequence[str]) -> str:
    more = len(names) - _SHOWN
    return ", ".join(names[:_SHOWN]) + (f" and {more} more" if more > 0 else "")


def _claims(_: Mapping[str, Any], kubernetes: Mapping[str, Any]) -> Iterator[str]:
    for mount in kubernetes.get("pvcMount", []):
        yield mount["constant"]


def _secret_keys(
    _: Mapping[str, Any], kubernetes: Mapping[str, Any]
) -> Iterator[tuple[str, str | None]]:
    for secret in kubernetes.get("secretAsEnv", []):
        for each in secret["keyToEnv"]:
            yield secret["secretName"], each["secretKey"]
    for secret in kubernetes.get("secretAsVolume", []):
        yield secret["secretName"], None


def _wishes(container: Mapping[str, Any], kubernetes: Mapping[str, Any]) -> Iterator[_Wish]:
    resources = container.get("resources", {})
    wanted = {
        "cpu": resources.get("resourceCpuRequest"),
        "memory": resources.get("resourceMemoryRequest"),
    }
    if accelerator := resources.get("accelerator"):
        wanted[accelerator["resourceType"]] = accelerator["resourceCount"]
    env = {each["name"]: each.get("value") for each in container.get("env", [])}
    yield _Wish(
        labels=tuple(kubernetes.get("nodeSelector", {}).get("labels", {}).items()),
        tolerations=tuple(
            tuple(each.get(part, "") for part in ("key", "operator", "value", "effect"))
            for each in kubernetes.get("tolerations", [])
        ),
        resources=tuple((name, value) for name, value in wanted.items() if value),
        autoscaled=env.get(AUTOSCALED) == "true",
    )
