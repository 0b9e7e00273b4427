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
import os
import socket
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from components import progress, storage
from components.errors import ConfigError, KubernetesUnreachable, PromotionFailed
from components.model_registry import config_map, pending, served
from components.model_registry.change import (
    PUT_BACK,
    Change,
    ChangedMeanwhileError,
    ConfigMapChange,
    Entry,
    FileChange,
    user_error,
)
from components.model_registry.checks import (
    check_folder,
    check_labels,
    check_version,
    entry_of,
    exists,
    find_versions,
    version_before,
)
from components.model_registry.config_map import ClusterError, Place
from components.model_registry.filesystem import locked
from components.model_registry.followers import Followers, Named, Pods

if TYPE_CHECKING:
    from tensorflow_serving.config.model_server_config_pb2 import ModelConfig, ModelServerConfig

STABLE, CANARY, PREVIOUS = "stable", "canary", "previous"
_TRIES = 5

Labels = Mapping[str, int]


@dataclasses.dataclass(frozen=True)
class Target:
    """A model whose served versions are changed, by path or URI.

    base: folder of its versions, or None where they cannot be seen from here. config: the model
    configuration, perhaps in a ConfigMap. name: of the model in it. public_key: of whoever must
    have signed a version.
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


def recover(target: Target) -> None:
    """Undo or finish a promotion that was cut off, with a note, unless somebody is at work.

    That of a ConfigMap is undone by the next promotion.
    """
    if not config_map.is_config_map(target.config):
        pending.recover_if_idle(target.config)


def current(target: Target) -> Serving:
    """What is configured now.

    Raises:
        ConfigError: the configuration cannot be read.
    """
    return _serving(read_config(target.config), target)


def _serving(config: ModelServerConfig, target: Target) -> Serving:
    model = entry_of(config, target.name)
    policy = None if model is None else model.model_version_policy
    if model is None or policy is None or policy.WhichOneof("policy_choice") != "specific":
        return Serving(dict(model.version_labels) if model else {}, None)
    return Serving(dict(model.version_labels), frozenset(policy.specific.versions))


def follow_newest(target: Target) -> None:
    """Let servers of the configuration serve the newest version, where it has no entry yet.

    Raises ConfigError where it serves another folder.
    """
    with _only_one(target):
        config = read_config(target.config)
        check_folder(config, target)
        if entry_of(config, target.name) is None:
            _add(config, target)
            storage.write_text(target.config, _text(config))


def followers_of(target: Target, servers: Sequence[str]) -> Followers:
    """Who is waited for: the servers that are named, else a ConfigMap's pods, else nobody."""
    if servers or not config_map.is_config_map(target.config):
        return Named(servers)
    try:
        return Pods(Place.parse(target.config))
    except ValueError as error:
        raise ConfigError(f"{target.config}: {error}") from error


def promote(
    target: Target,
    version: int,
    to: str,
    servers: Sequence[str] = (),
    timeout: float | None = None,
) -> Serving:
    """Give `version` the label `to`, "stable" or "canary".

    Args:
        target: the model.
        version: a pushed version.
        to: a version becomes stable after it was canary, unless nothing is labelled yet or there
            are servers to wait for, with which it is tried just the same.
        servers: gRPC addresses, HOST:PORT, of servers that follow the configuration: the change
            counts when all of them have the versions AVAILABLE and answer a smoke request. For a
            ConfigMap they are its Service's ready pods, unless they are named.
        timeout: seconds for that, twice where it takes two steps; None for what is usual.

    Raises:
        ConfigError: it cannot be done; nothing has changed.
        KubernetesUnreachable: likewise, of a ConfigMap.
        PromotionFailed: a server did not follow; the old configuration is in force again.
    """

    def labels_for(old: Serving) -> dict[str, int]:
        check_version(target, version)
        labels = _implied_labels(target, old, version)
        if to == CANARY:
            labels[CANARY] = version
            if labels.get(STABLE) == version:
                raise ConfigError(f"version {version} is {STABLE} already, so it is no {CANARY}")
        elif labels.get(STABLE) != version:
            before = labels.pop(STABLE, None)
            labels.pop(PREVIOUS, None)
            # Not above it: who asks for no label would be answered by the highest version.
            if before is not None and before < version and exists(target, before):
                labels[PREVIOUS] = before
            labels[STABLE] = version
            if labels.get(CANARY) == version:
                del labels[CANARY]
        return labels

    return _change(target, labels_for, f"promote {version} to {to}", servers, timeout)


def rollback(target: Target, servers: Sequence[str] = (), timeout: float | None = None) -> Serving:
    """Undo a promotion: withdraw the canary or, where there is none, bring the last stable back.

    Where the newest version is served, the one before it becomes stable. Arguments and errors as
    for `promote`.
    """

    def labels_for(old: Serving) -> dict[str, int]:
        labels = dict(old.labels)
        if CANARY in labels and STABLE in labels:
            del labels[CANARY]
            return labels
        check_labels(target, labels)
        version = labels.get(PREVIOUS) or version_before(target, labels.get(STABLE))
        check_version(target, version)
        return {STABLE: version}

    return _change(target, labels_for, "rollback", servers, timeout)


def _change(
    target: Target,
    labels_for: Callable[[Serving], Labels],
    action: str,
    servers: Sequence[str],
    timeout: float | None,
) -> Serving:
    """Decide by what is configured now, and do it; once more where that changed in between."""
    followers = followers_of(target, servers)
    with _only_one(target):
        for _ in range(_TRIES):
            change = _read(target)
            config = _parsed(change.text, target.config)
            check_folder(config, target)
            old = _serving(config, target)
            labels = labels_for(old)
            check_labels(target, labels)
            with contextlib.suppress(ChangedMeanwhileError):
                return _switch(target, change, old, labels, action, followers, timeout)
    raise ConfigError(
        f"{target.config} was changed by somebody else each of the {_TRIES} times that it was "
        "read; nothing was changed, try again"
    )


def _read(target: Target) -> Change:
    if config_map.is_config_map(target.config):
        return ConfigMapChange(target.config, target.base)
    return FileChange(target.config)


def _implied_labels(target: Target, old: Serving, version: int) -> dict[str, int]:
    """The labels now; where the newest version is served without one, it is the stable one."""
    if old.loaded is not None or old.labels or target.base is None:
        return dict(old.labels)
    newest = max(find_versions(target), default=version)
    return {} if newest == version else {STABLE: newest}


def _switch(
    target: Target,
    change: Change,
    old: Serving,
    labels: Labels,
    action: str,
    followers: Followers,
    timeout: float | None,
) -> Serving:
    new = Serving.of(labels)
    if new == old:
        return new
    loaded = old.loaded or frozenset()
    # Labels that are not in use yet, or of no version, may be ahead of what is loaded.
    ahead = [
        (label, number)
        for label, number in labels.items()
        if number not in loaded
        and old.labels.get(label, number) != number
        and exists(target, old.labels[label])
    ]
    steps = [new]
    if ahead:
        if not followers:
            label, number = ahead[0]
            first = (
                f"withdraw version {old.labels[CANARY]} first (perennial rollback)"
                if CANARY in old.labels
                else "promote it to canary first"
            )
            raise ConfigError(
                f"version {number} is not loaded, so {label!r}, which is in use, cannot move to "
                f"it: {first}, or name a server (--server) that says when it is"
            )
        steps.insert(0, Serving(old.labels, frozenset({*loaded, *labels.values()})))
    timeout = timeout or followers.timeout
    texts = [_rewritten(target, change.text, step) for step in steps]
    try:
        followers.check()
        followers.remember_failures(target.name)
    except ClusterError as error:
        raise user_error(error, target.config) from error
    try:
        entry = _entry_of(target, action, old, new)
        change.begin(entry, len(steps) * timeout, texts, bool(followers))
        for step, text in zip(steps, texts, strict=True):
            followers.hurry(change.write(text))
            followers.wait(target.name, step, timeout)
        change.end()
    except ChangedMeanwhileError:
        raise
    except BaseException as error:
        raise _failure(target, change, error) from error
    return new


def _failure(target: Target, change: Change, error: BaseException) -> BaseException:
    """Put the old configuration back; returns what is to be raised, with what is in force now."""
    left = change.put_back(f"failed: {str(error) or type(error).__name__}")
    if isinstance(error, ClusterError) and not change.written:
        return user_error(error, target.config)
    why = str(error)
    if isinstance(error, OSError):
        why = f"{error.filename or target.config} cannot be written: {error.strerror or error}"
    elif not isinstance(error, PromotionFailed | ClusterError):
        if left:
            progress.report("note", text=f"{left}. {_in_force(target)}")
        return error
    return PromotionFailed(f"{why}. {f'{left}. {_in_force(target)}' if left else PUT_BACK}")


def _in_force(target: Target) -> str:
    """What is configured now, as a person is told of it after a failure."""
    try:
        return f"In force: {told(current(target))}; the next command puts it right"
    except (ConfigError, KubernetesUnreachable, OSError) as error:
        return f"It is not known what is in force: {error}"


def told(serving: Serving) -> str:
    """What is configured, in words."""
    if not serving.labels and serving.loaded is None:
        return "the newest version is served"
    labels = ", ".join(f"{label} is version {number}" for label, number in serving.labels.items())
    others = sorted((serving.loaded or frozenset()) - {*serving.labels.values()})
    rest = f"without a label: {', '.join(map(str, others))}" if others else ""
    return "; ".join(filter(None, [labels, rest])) or "no version is served"


def read_config(location: str) -> ModelServerConfig:
    """An empty one where there is no file. Raises ConfigError."""
    try:
        return served.read(location)
    except OSError as error:
        raise ConfigError(f"{location} cannot be read: {error.strerror}") from error
    except (ValueError, ClusterError) as error:
        raise user_error(error, location) from error


def _parsed(text: str | None, location: str) -> ModelServerConfig:
    try:
        return served.parse(text or "", location)
    except ValueError as error:
        raise ConfigError(str(error)) from error


def _add(config: ModelServerConfig, target: Target) -> ModelConfig:
    if target.base is None:
        raise ConfigError(f"{target.config} has no model {target.name}; name its --directory")
    base = target.base if storage.is_uri(target.base) else str(Path(target.base).absolute())
    return config.model_config_list.config.add(
        name=target.name, base_path=base, model_platform="tensorflow"
    )


def _rewritten(target: Target, text: str | None, serving: Serving) -> str:
    config = _parsed(text, target.config)
    model = entry_of(config, target.name) or _add(config, target)
    model.model_version_policy.specific.versions[:] = sorted(serving.loaded or ())
    model.version_labels.clear()
    model.version_labels.update(serving.labels)
    return _text(config)


def _text(config: ModelServerConfig) -> str:
    from google.protobuf import text_format

    return "# Changed by `perennial promote` and `rollback`.\n" + text_format.MessageToString(
        config
    )


def _entry_of(target: Target, action: str, old: Serving, new: Serving) -> Entry:
    return {
        "at": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "who": f"{getpass.getuser()}@{socket.gethostname()}",
        "model": target.name,
        "action": action,
        "from": old.as_json(),
        "to": new.as_json(),
    }


@contextlib.contextmanager
def _only_one(target: Target) -> Iterator[None]:
    """Keep other promotions away, and pushes, which could remove a version that is promoted.

    Object stores have no locks, and a ConfigMap has one of its own.
    """
    folders = [storage.parent(target.config), target.base or ""]
    with contextlib.ExitStack() as stack:
        for folder in folders:
            # One that is mounted to be read is not pushed to from here either.
            if folder and not storage.is_uri(folder) and os.access(folder, os.W_OK):
                try:
                    stack.enter_context(locked(Path(folder)))
                except OSError as error:
                    raise ConfigError(
                        f"{error.filename or folder} cannot be locked: {error.strerror}; nothing "
                        "was changed"
                    ) from error
        yield
