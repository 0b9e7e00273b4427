"""Which versions a model server has been told to serve: its ModelServerConfig, a text proto."""

from __future__ import annotations

from typing import TYPE_CHECKING

from components import storage
from components.errors import PushRefusedError
from components.model_registry import config_map, pending

if TYPE_CHECKING:
    from tensorflow_serving.config.model_server_config_pb2 import ModelServerConfig

FILE = "models.config"


def default_config(base: str) -> str:
    """Where the configuration is unless one says otherwise: beside the folder of versions."""
    return storage.join(storage.parent(base), FILE)


def read(location: str) -> ModelServerConfig:
    """Read a configuration; an empty one where there is no file.

    Raises:
        ValueError: it is no ModelServerConfig; names the file.
        ClusterError: it is in a ConfigMap, which cannot be read.
    """
    return parse(read_text(location) or "", location)


def read_text(location: str) -> str | None:
    """The text at a path or URI, or in a ConfigMap; None where there is no file.

    Raises:
        ValueError: it is no text.
        ClusterError: the ConfigMap cannot be read.
    """
    if config_map.is_config_map(location):
        return config_map.read_text(location)
    try:
        return storage.read_text(location)
    except UnicodeDecodeError as error:
        raise ValueError(f"{location} is not a ModelServerConfig: {error}") from error


def parse(text: str, location: str) -> ModelServerConfig:
    """Read the text of a configuration; `location` is for the message. Raises ValueError."""
    from google.protobuf import text_format
    from tensorflow_serving.config.model_server_config_pb2 import ModelServerConfig

    try:
        return text_format.Parse(text, ModelServerConfig())
    except text_format.ParseError as error:
        raise ValueError(f"{location} is not a ModelServerConfig: {error}") from error


def pinned(location: str, base: str) -> set[int]:
    """Versions below `base` that the configuration names, as loaded or by a label.

    Those of a change that is under way count as well.

    Raises:
        PushRefusedError: the configuration cannot be read, so that nobody knows.
    """
    try:
        texts = [read_text(location) or ""]
        if not config_map.is_config_map(location):
            texts += pending.texts(location)
        configs = [parse(text, location) for text in texts]
    except (OSError, ValueError, config_map.ClusterError) as error:
        raise PushRefusedError(f"which versions are served is not known: {error}") from error
    found: set[int] = set()
    for config in configs:
        for model in config.model_config_list.config:
            # The same folder may have another path where the server runs.
            if model.base_path == base or model.name == storage.name(base):
                found |= {*model.version_labels.values()}
                found |= {*model.model_version_policy.specific.versions}
    return found
