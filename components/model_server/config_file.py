"""The configuration of a server: a ModelServerConfig, in the text form of protobuf."""

from __future__ import annotations

from pathlib import Path

from google.protobuf import text_format
from tensorflow_serving.config.model_server_config_pb2 import ModelServerConfig

from components import storage
from components.errors import ConfigError

NAME = "models.config"  # in the folder that holds the folders of versions


def parse(text: str, location: str) -> ModelServerConfig:
    """Read the text of a configuration; `location` is for the message. Raises ConfigError."""
    try:
        return text_format.Parse(text, ModelServerConfig())
    except text_format.ParseError as error:
        raise ConfigError(f"{location} is not a ModelServerConfig: {error}") from error


def read(path: Path) -> ModelServerConfig:
    """Read a file. Raises ConfigError, which names it and what is wrong."""
    text = read_text(str(path))
    if text is None:
        raise ConfigError(f"{path} cannot be read: there is no such file")
    return parse(text, str(path))


def read_text(location: str) -> str | None:
    """Read the text at a path or URI; None where there is no file. Raises ConfigError."""
    try:
        return storage.read_text(location)
    except UnicodeDecodeError as error:
        raise ConfigError(f"{location} is not a ModelServerConfig: {error}") from error
    except OSError as error:
        raise ConfigError(f"{location} cannot be read: {error.strerror}") from error
