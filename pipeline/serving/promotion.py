"""Which pushed versions are served: promotion and rollback by rewriting the model configuration.

The configuration is TensorFlow Serving's model_config_list. Servers follow its file. A model is in
one of two states there:

- newest: the policy `latest`. Every push is served as soon as it is loaded. `perennial serve`
  writes this where a model has no entry yet.
- promoted: the policy `specific`, with labels. A push changes nothing that is served. The labels
  are `stable`, `canary`, and `previous` for the stable version before, which stays loaded so that a
  rollback needs no loading.

A request without a label or version goes to the highest version loaded, which with a canary is
the canary: clients that must not see it ask for the label `stable`.

A server refuses to move a label that is in use to a version that it has not loaded. So where that
is needed the change is made in two steps, the first of which only loads, and a server has to be
named that says when it is done.
"""

from __future__ import annotations

import contextlib
import dataclasses
import datetime
import getpass
import io
import json
import socket
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from components.atomic_pusher import served, storage, versions
from components.atomic_pusher.filesystem import locked
from pipeline.errors import ConfigError, PromotionFailed

if TYPE_CHECKING:
    from tensorflow_serving.config.model_server_config_pb2 import ModelConfig, ModelServerConfig

STABLE, CANARY, PREVIOUS = "stable", "canary", "previous"
AUDIT_FILE = "models.audit.jsonl"
_POLL_SECONDS = 0.2

Labels = Mapping[str, int]


@dataclasses.dataclass(frozen=True)
class Target:
    """A model whose served versions are changed, by path or URI.

    base: folder of its versions, or None where they cannot be seen from here. config: the model
    configuration. name: of the model in it. public_key: of whoever must have signed a version.
    """

    name: str
    base: str | None
    config: str
    public_key: Path | None = None


@dataclasses.dataclass(frozen=True)
class Serving:
    """What a configuration says of one model. `loaded` is None where it is the newest version."""

    labels: Labels
    loaded: frozenset[int] | None

    @classmethod
    def of(cls, labels: Labels) -> Serving:
        """Load just the versions that have a label."""
        return cls(dict(labels), frozenset(labels.values()))

    def as_json(self) -> dict[str, object]:
        """For the audit log."""
        loaded = "newest" if self.loaded is None else sorted(self.loaded)
        return {"labels": dict(self.labels), "loaded": loaded}


def current(target: Target) -> Serving:
    """What is configured now.

    Raises:
        ConfigError: the configuration cannot be read.
    """
    model = _entry(read_config(target.config), target.name)
    policy = None if model is None else model.model_version_policy
    if model is None or policy is None or policy.WhichOneof("policy_choice") != "specific":
        return Serving(dict(model.version_labels) if model else {}, None)
    return Serving(dict(model.version_labels), frozenset(policy.specific.versions))


def follow_newest(target: Target) -> None:
    """Let servers of the configuration serve the newest version, where it has no entry yet."""
    with _only_one(target):
        config = read_config(target.config)
        if _entry(config, target.name) is None:
            _add(config, target)
            storage.write_text(target.config, _text(config))


def promote(
    target: Target, version: int, to: str, servers: Sequence[str] = (), timeout: float = 120.0
) -> Serving:
    """Give `version` the label `to`, "stable" or "canary".

    Args:
        target: the model.
        version: a pushed version.
        to: a version becomes stable after it was canary, unless nothing is labelled yet or a
            server is named, with which it is tried just the same.
        servers: gRPC addresses, HOST:PORT, of servers that follow the configuration: the change
            counts when all of them have the versions AVAILABLE and answer a smoke request.
        timeout: seconds for that.

    Raises:
        ConfigError: it cannot be done; nothing has changed.
        PromotionFailed: a server did not follow; the old configuration is in force again.
    """
    with _only_one(target):
        _check_version(target, version)
        old = current(target)
        labels = _implied_labels(target, old, version)
        if to == CANARY:
            labels[CANARY] = version
            if labels.get(STABLE) == version:
                raise ConfigError(f"version {version} is {STABLE} already, so it is no {CANARY}")
        elif labels.get(STABLE) != version:
            before = labels.pop(STABLE, None)
            labels.pop(PREVIOUS, None)
            # Not above it: who asks for no label would be answered by the highest version.
            if before is not None and before < version:
                labels[PREVIOUS] = before
            labels[STABLE] = version
            if labels.get(CANARY) == version:
                del labels[CANARY]
        return _switch(target, old, labels, f"promote {version} to {to}", servers, timeout)


def rollback(target: Target, servers: Sequence[str] = (), timeout: float = 120.0) -> Serving:
    """Undo a promotion: withdraw the canary or, where there is none, bring the last stable back.

    Where the newest version is served, the one before it becomes stable. Arguments and errors as
    for `promote`.
    """
    with _only_one(target):
        old = current(target)
        labels = dict(old.labels)
        if CANARY in labels and STABLE in labels:
            del labels[CANARY]
        else:
            stable = labels.get(STABLE)
            version = labels.get(PREVIOUS) or _version_before(target, stable)
            _check_version(target, version)
            labels = {STABLE: version}
        return _switch(target, old, labels, "rollback", servers, timeout)


def _implied_labels(target: Target, old: Serving, version: int) -> dict[str, int]:
    """The labels now; where the newest version is served without one, it is the stable one."""
    if old.loaded is not None or old.labels or target.base is None:
        return dict(old.labels)
    newest = max(find_versions(target), default=version)
    return {} if newest == version else {STABLE: newest}


def _switch(
    target: Target,
    old: Serving,
    labels: Labels,
    action: str,
    servers: Sequence[str],
    timeout: float,
) -> Serving:
    new = Serving.of(labels)
    if new == old:
        return new
    loaded = old.loaded or frozenset()
    # Labels that are not in use yet may be ahead of what is loaded.
    ahead = [
        (label, number)
        for label, number in labels.items()
        if number not in loaded and old.labels.get(label, number) != number
    ]
    steps = [new]
    if ahead:
        if not servers:
            label, number = ahead[0]
            raise ConfigError(
                f"version {number} is not loaded, so {label!r}, which is in use, cannot move to "
                "it: promote it to canary first, or name a server (--server) that says when it is"
            )
        steps.insert(0, Serving(old.labels, frozenset({*loaded, *labels.values()})))
    before = storage.read_text(target.config)
    # First, so that not even a change that is killed goes unrecorded.
    _log(target, action, old, new, "started")
    try:
        for step in steps:
            _write(target, step)
            for server in servers:
                _wait(server, target.name, step, timeout)
    except BaseException as error:
        _put_back(target.config, before)
        _log(target, action, old, new, f"failed: {error or type(error).__name__}")
        raise
    _log(target, action, old, new, "done")
    return new


def _wait(server: str, model: str, expected: Serving, timeout: float) -> None:
    """Wait until a server serves as configured; one real answer for each label tells."""
    from pipeline.serving.client import Client
    from pipeline.serving.errors import ServingError

    host, _, port = server.rpartition(":")
    deadline = time.monotonic() + timeout
    loaded = sorted(expected.loaded or ())
    # Without a label the highest version answers, once those that are dropped are gone.
    wanted = [*expected.labels.items(), ("", loaded[-1])]
    try:
        with Client(host, int(port), 0, timeout=min(timeout, 30.0)) as client:
            for version in loaded:
                client.wait_available(model, version, max(0.0, deadline - time.monotonic()))
                _smoke(client, model, version=version)
            for label, version in wanted:
                while (found := _answering(client, model, label)) != version:
                    if time.monotonic() > deadline:
                        raise PromotionFailed(
                            f"{server} still answers for the label {label!r} with {found} and not "
                            f"with version {version} after {timeout:g} s; does it follow this "
                            "configuration? The old one is back in force"
                        )
                    time.sleep(_POLL_SECONDS)
    except ServingError as error:
        raise PromotionFailed(
            f"{server} does not serve the new configuration, so the old one is back in force: "
            f"{error.code}: {error.message}"
        ) from error


def _answering(client: object, model: str, label: str) -> str | int:
    from pipeline.serving.errors import ServingError

    try:
        return _smoke(client, model, label=label)
    except ServingError as error:
        # A label that is not known yet, or that is ahead of its version.
        if error.code not in ("INVALID_ARGUMENT", "NOT_FOUND"):
            raise
        return f"{error.code} ({error.message})"


def _smoke(client: object, model: str, version: int | None = None, label: str = "") -> int:
    """Classify an image; returns the version that answered.

    Raises:
        ServingError: it did not, or the answer is no distribution over classes.
    """
    import numpy as np
    from PIL import Image

    from pipeline.serving.client import Client, strings
    from pipeline.serving.errors import ServingError

    assert isinstance(client, Client)
    image = io.BytesIO()
    Image.new("RGB", (32, 32), (90, 120, 150)).save(image, "PNG")
    inputs = {"image_bytes": strings([image.getvalue()])}
    answered, outputs = client.predict(model, inputs, version=version, label=label)
    probabilities = outputs.get("probabilities", np.zeros(1))
    if not (np.isfinite(probabilities).all() and np.isclose(probabilities.sum(), 1, atol=1e-3)):
        raise ServingError("INTERNAL", f"version {answered} gives no probabilities for an image")
    return answered


def _check_version(target: Target, version: int) -> None:
    if target.base is None:
        if target.public_key:
            raise ConfigError("signatures cannot be checked from here; name the --directory")
        return
    known = find_versions(target)
    if version not in known:
        there_are = ", ".join(map(str, known)) or "none"
        raise ConfigError(f"{target.base} has no version {version}; there are: {there_are}")
    manifest = versions.read_manifest(target.base, version)
    if manifest is None:
        raise ConfigError(
            f"version {version} in {target.base} has no {versions.MANIFEST}: it was not pushed by "
            "perennial, or not completely"
        )
    damaged = versions.damaged_files(target.base, version, manifest)
    if damaged:
        raise ConfigError(
            f"version {version} in {target.base} is not what was pushed: {', '.join(damaged)}"
        )
    if target.public_key:
        check_signature(target.base, version, target.public_key)


def check_signature(base: str, version: int, public_key: Path) -> None:
    """Refuse a version that the holder of the private key did not sign.

    Raises:
        ConfigError: it must not be served.
    """
    from components.atomic_pusher.signing import SignatureError, verify_version

    try:
        verify_version(base, version, public_key)
    except SignatureError as error:
        raise ConfigError(f"{error}; what is served stays as it is") from error


def _version_before(target: Target, stable: int | None) -> int:
    known = [] if target.base is None else find_versions(target)
    if stable is None:
        if not known:
            raise ConfigError(f"{target.base or target.config} has no versions to bring back")
        stable = max(known)
    lower = [number for number in known if number < stable]
    if not lower:
        raise ConfigError(f"{target.name}: there is no version before {stable} to bring back")
    return lower[-1]


def find_versions(target: Target) -> list[int]:
    """The numbers in the folder of a target that has one, lowest first. Raises ConfigError."""
    from components.errors import PushRefusedError

    assert target.base is not None
    try:
        return versions.find(target.base)
    except PushRefusedError as error:
        raise ConfigError(str(error)) from error


def read_config(location: str) -> ModelServerConfig:
    """An empty one where there is no file. Raises ConfigError."""
    try:
        return served.read(location)
    except ValueError as error:
        raise ConfigError(str(error)) from error


def _entry(config: ModelServerConfig, name: str) -> ModelConfig | None:
    return next((model for model in config.model_config_list.config if model.name == name), None)


def _add(config: ModelServerConfig, target: Target) -> ModelConfig:
    if target.base is None:
        raise ConfigError(f"{target.config} has no model {target.name}; name its --directory")
    base = target.base if storage.is_uri(target.base) else str(Path(target.base).absolute())
    return config.model_config_list.config.add(
        name=target.name, base_path=base, model_platform="tensorflow"
    )


def _write(target: Target, serving: Serving) -> None:
    config = read_config(target.config)
    model = _entry(config, target.name) or _add(config, target)
    model.model_version_policy.specific.versions[:] = sorted(serving.loaded or ())
    model.version_labels.clear()
    model.version_labels.update(serving.labels)
    storage.write_text(target.config, _text(config))


def _text(config: ModelServerConfig) -> str:
    from google.protobuf import text_format

    return "# Changed by `perennial promote` and `rollback`.\n" + text_format.MessageToString(
        config
    )


def _put_back(location: str, text: str | None) -> None:
    if text is None:
        storage.remove(location)
    else:
        storage.write_text(location, text)


def _log(target: Target, action: str, old: Serving, new: Serving, result: str) -> None:
    entry = {
        "at": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "who": f"{getpass.getuser()}@{socket.gethostname()}",
        "model": target.name,
        "action": action,
        "from": old.as_json(),
        "to": new.as_json(),
        "result": " ".join(result.split()),
    }
    storage.append_line(storage.join(storage.parent(target.config), AUDIT_FILE), json.dumps(entry))


@contextlib.contextmanager
def _only_one(target: Target) -> Iterator[None]:
    """Keep other promotions away, and pushes, which could remove a version that is promoted.

    Object stores have no locks.
    """
    folders = [storage.parent(target.config), target.base or ""]
    with contextlib.ExitStack() as stack:
        for folder in folders:
            if folder and not storage.is_uri(folder) and Path(folder).is_dir():
                stack.enter_context(locked(Path(folder)))
        yield
