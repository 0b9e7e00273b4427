"""Which versions are loaded and labelled, how promotions change that, and the file that says so.

The configuration is TensorFlow Serving's model_config_list, which servers follow. A model is in one
of two states there:

- newest: the policy `latest`. Every push is served as soon as it is loaded. `perennial serve`
  writes this where a model has no entry yet.
- promoted: the policy `specific`, with labels. A push changes nothing that is served. The labels
  are `stable`, `canary`, and `previous` for the stable version before, which stays loaded so that a
  rollback needs no loading.

A request without a label or version goes to the highest version loaded, which with a canary is
the canary: clients that must not see it use the label `stable`.

A server refuses to move a label that is in use to a version that it has not loaded. Such a change
is made in two steps, the first of which only loads, and needs a server that shows when it is done.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from pathlib import Path

from google.protobuf import text_format
from tensorflow_serving.config.model_server_config_pb2 import ModelConfig, ModelServerConfig

from components import storage
from components.errors import ConfigError
from components.model_server import config_file

STABLE, CANARY, PREVIOUS = "stable", "canary", "previous"

Labels = Mapping[str, int]


@dataclasses.dataclass(frozen=True)
class Serving:
    """The versions that have a label, and those that are loaded: None where it is the newest."""

    labels: Labels
    loaded: frozenset[int] | None

    @classmethod
    def of(cls, labels: Labels) -> Serving:
        """Load just the versions that have a label."""
        return cls(dict(labels), frozenset(labels.values()))

    def as_json(self) -> dict[str, object]:
        """Return what an audit log has of it."""
        loaded = "newest" if self.loaded is None else sorted(self.loaded)
        return {"labels": dict(self.labels), "loaded": loaded}

    def __str__(self) -> str:
        if not self.labels and self.loaded is None:
            return "the newest version is served"
        labels = ", ".join(f"{label} is version {number}" for label, number in self.labels.items())
        others = sorted((self.loaded or frozenset()) - {*self.labels.values()})
        rest = f"without a label: {', '.join(map(str, others))}" if others else ""
        return "; ".join(filter(None, [labels, rest])) or "no version is served"


def promoted(
    labels: Labels, version: int, to: str, exists: Callable[[int], bool]
) -> dict[str, int]:
    """Return the labels with `version` as "stable" or "canary". Raises ConfigError."""
    new = dict(labels)
    if to == CANARY:
        if labels.get(STABLE) == version:
            raise ConfigError(f"version {version} is {STABLE} already, so no {CANARY}")
        new[CANARY] = version
    elif labels.get(STABLE) != version:
        before = new.pop(STABLE, None)
        new.pop(PREVIOUS, None)
        # Not above it: a request without a label is answered by the highest version.
        if before is not None and before < version and exists(before):
            new[PREVIOUS] = before
        new[STABLE] = version
        if new.get(CANARY) == version:
            del new[CANARY]
    return new


def steps(
    old: Serving, new: Serving, followed: bool, exists: Callable[[int], bool]
) -> list[Serving]:
    """Return the states that are configured one after the other.

    Raises ConfigError where two are needed and no server is `followed` to the first.
    """
    loaded = old.loaded or frozenset()
    # Labels that are not in use yet, or of no version, may be ahead of what is loaded.
    ahead = [
        (label, number)
        for label, number in new.labels.items()
        if number not in loaded
        and old.labels.get(label, number) != number
        and exists(old.labels[label])
    ]
    if not ahead:
        return [new]
    if not followed:
        label, number = ahead[0]
        first = "promote it to canary first"
        if CANARY in old.labels:
            first = f"withdraw version {old.labels[CANARY]} first (perennial rollback)"
        raise ConfigError(
            f"version {number} is not loaded, so {label!r}, which is in use, cannot move to "
            f"it: {first}, or name a server (--server), which shows when it is loaded"
        )
    return [Serving(old.labels, frozenset({*loaded, *new.labels.values()})), new]


class Served:
    """A configuration, and the entry of a model in it.

    models: folders of versions by the name of the model.
    """

    def __init__(self, text: str | None, location: str, name: str) -> None:
        """Parse the text of the configuration at a location. Raises ConfigError."""
        self._location, self._name = location, name
        self._config = config_file.parse(text or "", location)
        self.models = {each.name: each.base_path for each in self._config.model_config_list.config}

    @property
    def serving(self) -> Serving:
        """What is served of the model."""
        model = _entry(self._config, self._name)
        if model is None:
            return Serving({}, None)
        policy = model.model_version_policy
        is_newest = policy.WhichOneof("policy_choice") != "specific"
        loaded = None if is_newest else frozenset(policy.specific.versions)
        return Serving(dict(model.version_labels), loaded)

    def named(self, base: str) -> set[int]:
        """Return the versions below `base` that are loaded, or have a label."""
        found: set[int] = set()
        for model in self._config.model_config_list.config:
            # The same folder may have another path where the server runs.
            if model.base_path == base or model.name == storage.name(base):
                found |= {*model.version_labels.values()}
                found |= {*model.model_version_policy.specific.versions}
        return found

    def rewritten(self, base: str | None, serving: Serving) -> str:
        """Return the text with something else served. Raises ConfigError without a folder."""
        changed = ModelServerConfig()
        changed.CopyFrom(self._config)
        model = _entry(changed, self._name)
        if model is None:
            if base is None:
                raise ConfigError(
                    f"{self._location} has no model {self._name}; name its --directory"
                )
            path = base if storage.is_uri(base) else str(Path(base).absolute())
            model = changed.model_config_list.config.add(
                name=self._name, base_path=path, model_platform="tensorflow"
            )
        if serving.loaded is not None:
            model.model_version_policy.specific.versions[:] = sorted(serving.loaded)
        model.version_labels.clear()
        model.version_labels.update(serving.labels)
        text = text_format.MessageToString(changed)
        return f"# Changed by `perennial promote` and `rollback`.\n{text}"

    def check_folder(self, base: str | None) -> None:
        """Raise ConfigError where the configuration serves another folder than `base`.

        A folder that is not on this machine may be the same one where the servers run, unless the
        configuration lies beside `base`.
        """
        configured = self.models.get(self._name)
        if base is None or not configured:
            return
        if storage.is_uri(base) or storage.is_uri(configured):
            is_same = configured.rstrip("/") == base.rstrip("/")
            is_known = True
        else:
            is_same = Path(configured).resolve() == Path(base).resolve()
            is_beside = self._location == storage.join(storage.parent(base), config_file.NAME)
            is_known = Path(configured).is_dir() or is_beside
        if is_known and not is_same:
            raise ConfigError(
                f"{self._location}: the model {self._name} has base_path {configured!r}, and its "
                f"versions here are in {base!r}: servers would not serve these; was the folder "
                "moved or copied? Put the right base_path there"
            )


def _entry(config: ModelServerConfig, name: str) -> ModelConfig | None:
    return next((each for each in config.model_config_list.config if each.name == name), None)
