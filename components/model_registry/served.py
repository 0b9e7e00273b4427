"""What the text of a model configuration tells servers of one model."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from components import storage
from components.errors import ConfigError
from components.model_server import config_file

if TYPE_CHECKING:
    from tensorflow_serving.config.model_server_config_pb2 import ModelConfig

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
        """For the audit log."""
        loaded = "newest" if self.loaded is None else sorted(self.loaded)
        return {"labels": dict(self.labels), "loaded": loaded}

    def __str__(self) -> str:
        if not self.labels and self.loaded is None:
            return "the newest version is served"
        labels = ", ".join(f"{label} is version {number}" for label, number in self.labels.items())
        others = sorted((self.loaded or frozenset()) - {*self.labels.values()})
        rest = f"without a label: {', '.join(map(str, others))}" if others else ""
        return "; ".join(filter(None, [labels, rest])) or "no version is served"


class Served:
    """A configuration, and the entry of a model in it.

    models: folders of versions by the name of the model. has_entry: whether the model is there.
    """

    def __init__(self, text: str | None, location: str, name: str) -> None:
        """Read the text of the configuration at a location. Raises ConfigError."""
        self._location, self._name = location, name
        self._config = config_file.parse(text or "", location)
        self.models = {model.name: model.base_path for model in self._entries()}
        self.has_entry = name in self.models

    def _entries(self) -> Iterable[ModelConfig]:
        found: Iterable[ModelConfig] = self._config.model_config_list.config
        return found

    def _entry(self) -> ModelConfig | None:
        return next((each for each in self._entries() if each.name == self._name), None)

    @property
    def serving(self) -> Serving:
        """What is served of the model."""
        model = self._entry()
        if model is None:
            return Serving({}, None)
        policy = model.model_version_policy
        is_newest = policy.WhichOneof("policy_choice") != "specific"
        loaded = None if is_newest else frozenset(policy.specific.versions)
        return Serving(dict(model.version_labels), loaded)

    def named(self, base: str) -> set[int]:
        """Versions below `base` that are loaded, or have a label."""
        found: set[int] = set()
        for model in self._entries():
            # The same folder may have another path where the server runs.
            if model.base_path == base or model.name == storage.name(base):
                found |= {*model.version_labels.values()}
                found |= {*model.model_version_policy.specific.versions}
        return found

    def rewritten(self, base: str | None, serving: Serving) -> str:
        """The text with something else served. Raises ConfigError where there is no folder."""
        from google.protobuf import text_format
        from tensorflow_serving.config.model_server_config_pb2 import ModelServerConfig

        changed = ModelServerConfig()
        changed.CopyFrom(self._config)
        model = next((m for m in changed.model_config_list.config if m.name == self._name), None)
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
        """Refuse a configuration that serves another folder than `base`.

        A folder that is not on this machine may be the same one where the servers run, unless the
        configuration lies beside `base`. Raises ConfigError.
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
