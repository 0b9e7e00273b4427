"""The servers that follow a model configuration, and waiting until they do."""

from __future__ import annotations

import contextlib
import io
import socket
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from components import progress
from components.errors import ConfigError, PromotionFailed, UserError
from components.kubernetes_api import request
from components.model_registry.config_map import ConfigMapKey
from components.model_server.errors import ServingError

if TYPE_CHECKING:
    from components.model_registry.serving import Serving
    from components.model_server.client import Client

_POLL_SECONDS = 0.2
_LIST_SECONDS = 1.0
_REACH_SECONDS = 5.0
_TURN_SECONDS = 10.0  # for one server, before the servers are listed again
_LATER = ("DEADLINE_EXCEEDED", "UNAVAILABLE")
_PORT_NAME = "grpc"
_SERVICE_LABEL = "kubernetes.io/service-name"
# A changed annotation lets kubelet look at the pod, and so at the ConfigMaps in it, at once.
TOUCHED = "perennial/models-config"


class _NotYetError(PromotionFailed):
    """A server that may follow later."""


class Followers:
    """The servers of one configuration. False where there is nobody to wait for.

    timeout: seconds that they get by default.
    """

    timeout = 120.0
    _nobody = "no server answers"

    def __init__(self) -> None:
        self._former: dict[str, dict[int, str]] = {}  # failures of before, by name and version

    def now(self) -> Mapping[str, str]:
        """Return the gRPC addresses, HOST:PORT, of those that answer requests, by name."""
        raise NotImplementedError

    def __bool__(self) -> bool:
        return True

    def prepare(self, model: str) -> None:
        """Note which versions could not be loaded before the change: they may be repaired since.

        Raises UserError where a server cannot be reached.
        """
        for name, address in self.now().items():
            with _client(address, _REACH_SECONDS) as client, contextlib.suppress(ServingError):
                self._former[name] = client.failures(model)

    def hurry(self, version: str) -> None:
        """Make them look at the configuration of that resourceVersion soon, if that is allowed."""

    def wait(self, model: str, expected: Serving, timeout: float) -> None:
        """Wait until all servers, also those that come meanwhile, serve as configured.

        Raises PromotionFailed where one does not, or there is none after `timeout` seconds.
        """
        deadline = time.monotonic() + timeout
        done: set[str] = set()
        while self:
            found = self._found({})
            left = [name for name in found if name not in done]
            if found and not left:
                return
            for name in left:
                turn = min(max(0.0, deadline - time.monotonic()), _TURN_SECONDS)
                try:
                    self._wait(name, found[name], model, expected, turn)
                    done.add(name)
                    progress.report("note", text=f"{name} serves {_told(expected)}")
                except PromotionFailed as error:
                    if name not in self._found(found):
                        continue
                    if not isinstance(error, _NotYetError):
                        raise
                    if time.monotonic() > deadline:
                        raise PromotionFailed(f"{error} after {timeout:g} s") from error
            if not left and time.monotonic() > deadline:
                raise PromotionFailed(f"{self._nobody} after {timeout:g} s")
            time.sleep(_LIST_SECONDS)

    def _found(self, default: Mapping[str, str]) -> Mapping[str, str]:
        try:
            return self.now()
        except UserError:  # asked again until the time is over
            return default

    def _wait(self, name: str, address: str, model: str, expected: Serving, timeout: float) -> None:
        """Wait until a server has answered one real request for each version and label."""
        deadline = time.monotonic() + timeout
        loaded = sorted(expected.loaded or ())
        former = self._former.get(name, {})
        # Without a label the highest version answers, once those that are dropped are gone.
        wanted = [*expected.labels.items(), ("", loaded[-1])]
        try:
            with _client(address, max(1.0, timeout)) as client:
                for version in loaded:
                    left = max(0.0, deadline - time.monotonic())
                    client.wait_available(model, version, left, former.get(version, ""))
                    _smoke(client, model, version=version)
                for label, version in wanted:
                    while (found := _answering(client, model, label)) != version:
                        if time.monotonic() > deadline:
                            raise _NotYetError(
                                f"{name} answers for the label {label!r} with {found} and not with "
                                f"version {version} (does it follow this configuration?)"
                            )
                        time.sleep(_POLL_SECONDS)
        except ServingError as error:
            # UNAVAILABLE is a server that is being stopped, perhaps before it is unlisted.
            kind = _NotYetError if error.code in _LATER else PromotionFailed
            raise kind(
                f"{name} does not serve the new configuration: {error.code}: {error.message}"
            ) from error


class Named(Followers):
    """Servers that are named by their addresses; there may be none."""

    def __init__(self, addresses: Sequence[str]) -> None:
        super().__init__()
        self._addresses = {address: address for address in addresses}

    def now(self) -> Mapping[str, str]:
        return self._addresses

    def __bool__(self) -> bool:
        return bool(self._addresses)


class Pods(Followers):
    """The ready pods of the Service of a ConfigMap, from its EndpointSlices."""

    # kubelet brings a ConfigMap after up to 90 s, and servers look every 30 s.
    timeout = 300.0

    def __init__(self, place: ConfigMapKey) -> None:
        super().__init__()
        self._place = place
        self._nobody = f"the Service {place.namespace}/{place.service} has no ready pod"

    def now(self) -> Mapping[str, str]:
        return dict(self._ready())

    def prepare(self, model: str) -> None:
        """Check too that each ready pod can be reached from here.

        There may be none: the configured version may be missing.
        """
        for name, address in self.now().items():
            host, _, port = address.rpartition(":")
            try:
                with socket.create_connection((host.strip("[]"), int(port)), _REACH_SECONDS):
                    pass
            except OSError as error:
                if name not in self.now():
                    continue
                raise ConfigError(
                    f"the pod {name} at {address} cannot be reached from here: {error}; promote "
                    "in the cluster (kubeflow/serving/promote-job.yaml), or name forwarded ports "
                    "with --server"
                ) from error
        super().prepare(model)

    def hurry(self, version: str) -> None:
        """Touch the pods; the right to do so is optional, as it is the right to change them."""
        body = {"metadata": {"annotations": {TOUCHED: version}}}
        arguments = "patch pods", "CoreV1Api", "patch_namespaced_pod"
        with contextlib.suppress(UserError):
            for name in self.now():
                request(*arguments, name, self._place.namespace, body)

    def _ready(self) -> Iterator[tuple[str, str]]:
        slices = request(
            "list endpointslices",
            "DiscoveryV1Api",
            "list_namespaced_endpoint_slice",
            self._place.namespace,
            label_selector=f"{_SERVICE_LABEL}={self._place.service}",
        )
        seen: set[str] = set()
        # A pod with two kinds of addresses is in two slices.
        for each in sorted(slices.get("items") or (), key=lambda found: found["addressType"]):
            ports = {port.get("name"): port.get("port") for port in each.get("ports") or ()}
            only = next(iter(ports.values())) if len(ports) == 1 else None
            port = ports.get(_PORT_NAME) or only
            for endpoint in each.get("endpoints") or ():
                host = endpoint["addresses"][0]
                name = (endpoint.get("targetRef") or {}).get("name") or host
                # Unset means ready, says the API.
                ready = (endpoint.get("conditions") or {}).get("ready") is not False
                if ready and port and name not in seen:
                    seen.add(name)
                    yield name, f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def _client(address: str, timeout: float) -> Client:
    from components.model_server.client import Client

    host, _, port = address.rpartition(":")
    return Client(host, int(port), 0, timeout)


def _told(expected: Serving) -> str:
    labels = {number: label for label, number in expected.labels.items()}
    each = (f"{n} ({labels[n]})" if n in labels else f"{n}" for n in sorted(expected.loaded or ()))
    return f"version {', '.join(each)}"


def _answering(client: Client, model: str, label: str) -> str | int:
    try:
        return _smoke(client, model, label=label)
    except ServingError as error:
        # A label that is not known yet, or that is ahead of its version.
        if error.code not in ("INVALID_ARGUMENT", "NOT_FOUND"):
            raise
        return f"{error.code} ({error.message})"


def _smoke(client: Client, model: str, version: int | None = None, label: str = "") -> int:
    """Classify an image, and return the version that answered.

    Raises ServingError where it does not, or its answer is not a distribution over classes.
    """
    import numpy as np
    from PIL import Image

    from components.model_server.client import strings

    image = io.BytesIO()
    Image.new("RGB", (32, 32), (90, 120, 150)).save(image, "PNG")
    inputs: dict[str, Any] = {"image_bytes": strings([image.getvalue()])}
    answered, outputs = client.predict(model, inputs, version=version, label=label)
    probabilities = outputs.get("probabilities", np.zeros(1))
    if not (np.isfinite(probabilities).all() and np.isclose(probabilities.sum(), 1, atol=1e-3)):
        raise ServingError("INTERNAL", f"version {answered} gives no probabilities for an image")
    return int(answered)
