"""Log of a pod: one JSON object per line on standard output."""

from __future__ import annotations

import contextlib
import logging
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import TextIO

from components import progress
from components.redaction import redact, redact_all
from pipeline.noise import records_to

# Their INFO records fill pages.
_WORDY = ("absl", "apache_beam", "tensorflow")
# Warnings that users cannot act on: deprecated calls between libraries, and fallbacks of this
# build of ML Metadata.
_DEPRECATED = re.compile(r": (?:Pending)?(?:Deprecation|Future)Warning: ")
_DEPRECATED_CALL = re.compile(r"From .+: .+ \(from .+\) is deprecated and will be removed ")
# TFX creates a class for artifact types whose own class is not imported.
_UNIMPORTED = re.compile(
    r"Could not find matching artifact class for type '"
    r"(?:Example|InfraBlessing|Model|PushedModel|Schema|Transform)\w*' "
)
_RENAMED = re.compile(r"`.+` is not a valid tf\.function parameter name\. Sanitizing ")
_KNOWN = (
    "metadata_connection_config is not provided by IR",
    "Fallback to non-ZetaSQL ",
    "ArtifactQuery.property_predicate is not supported",
    "Examples artifact does not have payload_format custom property",
    # After an interrupted attempt, whose partial output has been removed.
    "Expected execution to be in state NEW or RUNNING",
    "Failed to extract number of input bytes",
)
_LAST_WORDS = Path("/dev/termination-log")
_LONGEST_LAST_WORDS = 2000  # bytes; Kubernetes keeps 4 KB


@contextlib.contextmanager
def as_json() -> Iterator[TextIO]:
    """Yield the standard output, to which log records of INFO and above are written as JSON.

    Everything else that is printed goes to standard error.
    """
    with open(os.dup(1), "w", buffering=1, encoding="utf-8", errors="backslashreplace") as stdout:
        os.dup2(2, 1)
        try:
            with _logging_to(stdout):
                yield stdout
        finally:
            os.dup2(stdout.fileno(), 1)


@contextlib.contextmanager
def _logging_to(stdout: TextIO) -> Iterator[None]:
    handler = logging.StreamHandler(stdout)
    handler.setFormatter(_Formatter())
    handler.addFilter(_worth_telling)
    with records_to(handler, _WORDY):
        yield


def _worth_telling(record: logging.LogRecord) -> bool:
    if record.name == progress.LOGGER.name:  # rendered elsewhere
        return False
    message = record.getMessage()
    if record.name == "py.warnings":
        return not _DEPRECATED.search(message)
    if record.name not in _WORDY:
        return True
    patterns = (_DEPRECATED_CALL, _RENAMED, _UNIMPORTED)
    known = message.startswith(_KNOWN) or any(each.match(message) for each in patterns)
    return not known


@contextlib.contextmanager
def of_node(node: str) -> Iterator[None]:
    """Add the name of a node to every line within the context, from any thread."""
    tag = _OfNode(node)
    places: list[logging.Filterer] = [progress.LOGGER, *logging.getLogger().handlers]
    for place in places:
        place.addFilter(tag)
    try:
        yield
    finally:
        for place in places:
            place.removeFilter(tag)


class _OfNode(logging.Filter):
    def __init__(self, node: str) -> None:
        super().__init__()
        self._node = node

    def filter(self, record: logging.LogRecord) -> bool:
        record.node = self._node
        if fields := getattr(record, "fields", None):
            fields.setdefault("node", self._node)
        return True


class _Formatter(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        line = {
            "level": record.levelname,
            "logger": record.name,
            "message": record.getMessage(),
        }
        if node := getattr(record, "node", None):
            line["node"] = node
        if record.exc_info:
            line["traceback"] = self.formatException(record.exc_info)
        return progress.as_line("log", redact_all(line), record.created)


def write_last_words(message: str) -> None:
    """Write the reason of a failure to Kubernetes' termination log, which Argo shows.

    Does nothing outside of a pod.
    """
    words = redact(message).encode()[:_LONGEST_LAST_WORDS].decode(errors="ignore")
    with contextlib.suppress(OSError):
        if _LAST_WORDS.exists():
            _LAST_WORDS.write_text(words, encoding="utf-8")
