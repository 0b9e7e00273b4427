"""Files that are named on the command line; failures name them too."""

from __future__ import annotations

from pathlib import Path

from components import storage
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
    """Read the names of classes, one a line. Raises ConfigError."""
    try:
        # Windows editors begin a file with a byte-order mark, which belongs to no name.
        return path.read_text(encoding="utf-8-sig").splitlines()
    except OSError as error:
        why = error.strerror
    except ValueError:
        why = "is not UTF-8"
    raise ConfigError(f"--labels {path}: cannot be read: {why}; give a file of one class per line")
