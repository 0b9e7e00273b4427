"""Files that are named on the command line; failures name them too."""

from __future__ import annotations

from pathlib import Path

from components.atomic_pusher import storage
from pipeline.errors import ConfigError


def write(path: Path, text: str) -> None:
    """Replace a file in one step, in a folder that is made where it is missing.

    Raises ConfigError.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        storage.write_text(str(path), text)
    except OSError as error:
        raise ConfigError(f"{str(path)!r} cannot be written: {error.strerror}") from None


def read_labels(path: Path) -> list[str]:
    """The names of classes, one a line. Raises ConfigError."""
    try:
        return path.read_text(encoding="utf-8").splitlines()
    except OSError as error:
        raise ConfigError(f"--labels {path}: cannot be read: {error.strerror}") from None
    except ValueError:
        raise ConfigError(f"--labels {path}: must be UTF-8 text, one name a line") from None
