"""Which versions a model server has been told to serve: its ModelServerConfig, a text proto."""

from __future__ import annotations

from typing import TYPE_CHECKING

from components.atomic_pusher import storage
from components.errors import PushRefusedError

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
    """
    from google.protobuf import text_format
    from tensorflow_serving.config.model_server_config_pb2 import ModelServerConfig

    try:
        return text_format.Parse(storage.read_text(location) or "", ModelServerConfig())
    except (text_format.ParseError, UnicodeDecodeError) as error:
        raise ValueError(f"{location} is not a ModelServerConfig: {error}") from error


def pinned(location: str, base: str) -> set[int]:
    """Versions below `base` that the configuration names, as loaded or by a label.

    Raises:
        PushRefusedError: the configuration cannot be read, so that nobody knows.
    """
    if storage.read_text(location) is None:
        return set()
    try:
        config = read(location)
    except ValueError as error:
        raise PushRefusedError(f"which versions are served is not known: {error}") from error
    found: set[int] = set()
    for model in config.model_config_list.config:
        # The same folder may have another path where the server runs.
        if model.base_path == base or model.name == storage.name(base):
            found |= {*model.version_labels.values(), *model.model_version_policy.specific.versions}
    return found
