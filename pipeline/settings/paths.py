"""Settings that are paths or URIs, made absolute."""

from __future__ import annotations

from pathlib import Path

from pydantic import (
    BeforeValidator,
)

from components import storage
from components.image_example_gen import source_name
from components.redaction import ENV

BUILT_IN_SOURCES = (source_name.DIGITS,)


def is_unicode(text: str) -> bool:
    """Tell whether Python could decode all bytes of a text of the command line."""
    return not any("\ud800" <= char <= "\udfff" for char in text)


def _absolute_path(value: object) -> object:
    if value is None:
        return None
    if not isinstance(value, str | Path):
        raise ValueError("must be a path, in quotes")
    if not value:
        # An unset shell variable: the working directory is not what was meant.
        raise ValueError("must not be empty")
    if not is_unicode(str(value)):
        raise ValueError("must be UTF-8")
    try:
        return Path(value).expanduser().resolve()
    except (RuntimeError, ValueError) as error:  # a link to itself, ~nobody, a null character
        raise ValueError(f"is not a usable path: {error}") from None


def _absolute_source(value: object) -> object:
    if not isinstance(value, str):
        return str(_absolute_path(value))
    if value.startswith(ENV):
        return value
    name = source_name.parse(value)
    if name.is_local:
        return name._replace(location=str(_absolute_path(name.location))).text
    if not is_unicode(value):
        raise ValueError("must be UTF-8")
    return value


def absolute_location(value: object) -> object:
    """Make a path or URI that nodes write to absolute. Raises ValueError for a wrong one."""
    if isinstance(value, str) and storage.is_uri(value):
        if not value.partition("://")[2].strip("/"):
            raise ValueError("must name a bucket after ://")
        return value.rstrip("/")
    path = _absolute_path(value)
    return None if path is None else str(path)


# One instance each: the settings that hold a path are found by it.
PATH = BeforeValidator(_absolute_path)
SOURCE = BeforeValidator(_absolute_source)
LOCATION = BeforeValidator(absolute_location)  # a path or a URI such as gs://bucket/models
