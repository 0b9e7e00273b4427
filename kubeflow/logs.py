"""What a pod says: one JSON object a line on standard output, and what native libraries print."""

from __future__ import annotations

import contextlib
import datetime
import json
import logging
import os
from collections.abc import Iterator
from typing import TextIO

from components import progress
from components.redaction import redact_all
from pipeline.noise import records_to

# They tell at INFO what they are made of, for pages.
_WORDY = ("absl", "apache_beam", "tensorflow")


@contextlib.contextmanager
def as_json() -> Iterator[TextIO]:
    """Yield the process's standard output, to which log records of INFO and up go as JSON.

    What else is printed goes to standard error.
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
    handler.addFilter(lambda record: record.name != progress.LOGGER.name)  # has its own rendering
    with records_to(handler, _WORDY):
        yield


class _Formatter(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        moment = datetime.datetime.fromtimestamp(record.created, datetime.UTC)
        line = {
            "ts": moment.isoformat(timespec="milliseconds"),
            "event": "log",
            "level": record.levelname,
            "logger": record.name,
            "message": record.getMessage(),
        }
        if record.exc_info:
            line["traceback"] = self.formatException(record.exc_info)
        return json.dumps(redact_all(line), ensure_ascii=False)
