"""The configuration of a server: a ModelServerConfig, in the text form of protobuf."""

from __future__ import annotations

from pathlib import Path

from google.protobuf import text_format
from tensorflow_serving.config.model_server_config_pb2 import ModelServerConfig

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
    try:
        return parse(path.read_text(encoding="utf-8"), str(path))
    except OSError as error:
        raise ConfigError(f"{path} cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path} is not a ModelServerConfig: {error}") from error
