"""Configuration files and values as TOML, read and written."""

from __future__ import annotations

import json
import re
import reprlib
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from pipeline.errors import ConfigError
from pipeline.settings.paths import is_unicode

PRESETS = Path(__file__).parent.parent / "presets"
_DEEP_KEY = re.compile(r"""(?<![\w"'-])(?:[\w"'-]++[ \t]*+\.[ \t]*+){100}""")
# The tables of a TOML file, or the settings in them; what tomllib returns.
Tree = Mapping[str, Any]


def parse_set(text: str) -> tuple[str, Any]:
    """Split `KEY=VALUE`; VALUE is read as a TOML value, or is a string if it is not one.

    Raises ConfigError.
    """
    key, equals, value = text.partition("=")
    key, value = key.strip(), value.strip()
    if not (equals and key):
        raise ConfigError(f"--set {text!r}: must be KEY=VALUE, such as train.epochs=5")
    if not is_unicode(text):
        raise ConfigError(f"--set {text!r}: must be UTF-8")
    if _DEEP_KEY.search(key):
        raise ConfigError(f"--set {reprlib.repr(text)}: nested too deeply")
    try:
        parsed = parse(f"value = {value}")
    except (ValueError, RecursionError):
        return key, value
    # More keys than one: VALUE held line breaks, and was not one TOML value.
    return key, parsed["value"] if len(parsed) == 1 else value


def read(path: Path) -> dict[str, Any]:
    """Read a TOML file. Raises ConfigError."""
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        raise ConfigError(f"{path}: no such configuration file") from None
    except IsADirectoryError:
        raise ConfigError(f"{path}: is a folder, not a configuration file") from None
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        raise ConfigError(f"{path}: cannot read the configuration file: {reason}") from None
    try:
        # Windows editors begin a file with a byte-order mark, which TOML does not allow for.
        return parse(data.decode("utf-8-sig"))
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise ConfigError(
            f"{path}: not UTF-8: byte {data[error.start]:#04x} (at line {line}); save it as UTF-8"
        ) from None
    except RecursionError:
        raise ConfigError(f"{path}: not TOML: nested too deeply") from None
    except ValueError as error:
        raise ConfigError(f"{path}: not TOML: {error}") from None


def parse(text: str) -> dict[str, Any]:
    """Parse TOML. Raises ValueError, and RecursionError for what is nested too deeply.

    tomllib keeps each beginning of a dotted key, so that a key of 100,000 parts takes 13 GB.
    """
    if _DEEP_KEY.search(text):
        raise RecursionError
    return tomllib.loads(text)


def value_of(value: object) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int | float):
        return repr(value)
    if isinstance(value, str | Path):
        return string(str(value))
    if isinstance(value, list | tuple):
        return f"[{', '.join(map(value_of, value))}]"
    if isinstance(value, BaseModel):
        return value_of(value.model_dump(exclude_none=True))
    if isinstance(value, Mapping):
        items = (f"{string(str(key))} = {value_of(item)}" for key, item in value.items())
        return f"{{{', '.join(items)}}}"
    raise TypeError(f"no TOML for {value!r}")


def string(text: str) -> str:
    # TOML's basic strings take JSON's escapes; of what JSON leaves alone they forbid DEL only.
    return json.dumps(text, ensure_ascii=False).replace("\x7f", "\\u007f")
