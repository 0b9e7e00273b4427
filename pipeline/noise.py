"""Output of libraries, which goes to a log file and not to the terminal.

TensorFlow, Beam, absl and their native libraries write to file descriptors 1 and 2 whenever they
like, some of it before their own logging is set up. So the descriptors themselves are redirected.
"""

from __future__ import annotations

import contextlib
import logging
import os
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple, TextIO

from components.redaction import redact


class Terminal(NamedTuple):
    """The process's own stdout and stderr, which no library can write to."""

    stdout: TextIO
    stderr: TextIO


@contextlib.contextmanager
def redirect_output(log_path: Path) -> Iterator[Terminal]:
    """Send descriptors 1 and 2, Python's warnings and its log records to `log_path`.

    Records are those of INFO and up, Beam's those of WARNING and up.

    Enter it before heavy imports: native libraries write while they load. The file is appended to
    and its folder created. Everything is put back at the end.

    Raises:
        OSError: the file cannot be written.
    """
    log_path.parent.mkdir(parents=True, exist_ok=True)
    with (
        _closing(_by_line(log_path, "a")) as log,
        _closing(_duplicate(1)) as stdout,
        _closing(_duplicate(2)) as stderr,
        _redirected(stdout, stderr, log),
        _logging_to(log),
    ):
        yield Terminal(stdout, stderr)


@contextlib.contextmanager
def _closing(stream: TextIO) -> Iterator[TextIO]:
    try:
        yield stream
    finally:
        # A full disk or a reader that is gone must not hide what the block raised.
        with contextlib.suppress(OSError):
            stream.close()


def _duplicate(descriptor: int) -> TextIO:
    try:
        copy = os.dup(descriptor)
    except OSError:  # the process was started without it
        copy = os.open(os.devnull, os.O_WRONLY)
    return _by_line(copy, "w", encoding=getattr(sys.__stdout__, "encoding", "utf-8"))


def _by_line(file: Path | int, mode: str, encoding: str = "utf-8") -> TextIO:
    """Open a writer that flushes each line, so that none is lost if the process is killed."""
    return open(file, mode, 1, encoding=encoding, errors="backslashreplace")  # type: ignore[return-value]


@contextlib.contextmanager
def _redirected(stdout: TextIO, stderr: TextIO, log: TextIO) -> Iterator[None]:
    previous = sys.stdout, sys.stderr
    _flush(*previous)
    for descriptor in (1, 2):
        os.dup2(log.fileno(), descriptor)
    # On a descriptor of its own: a handler that a library makes meanwhile keeps it, and whatever
    # comes out of it later shall not reach the terminal.
    sys.stdout = sys.stderr = _by_line(os.dup(log.fileno()), "w")
    try:
        yield
    finally:
        _flush(sys.stdout)
        sys.stdout, sys.stderr = previous
        os.dup2(stdout.fileno(), 1)
        os.dup2(stderr.fileno(), 2)


def _flush(*streams: TextIO | None) -> None:
    for stream in streams:
        # A process can lack a stdout, or have lost the reader of it.
        with contextlib.suppress(OSError, ValueError):
            if stream is not None:
                stream.flush()


class _Formatter(logging.Formatter):
    """Appends the fields of a progress event to its line, and redacts all of it."""

    def format(self, record: logging.LogRecord) -> str:
        line = super().format(record)
        fields = getattr(record, "fields", None)
        return redact(f"{line} {fields}" if fields else line)


@contextlib.contextmanager
def _logging_to(log: TextIO) -> Iterator[None]:
    handler = logging.StreamHandler(log)
    handler.setFormatter(_Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))
    # Beam logs hundreds of lines at INFO about type hints.
    with records_to(handler, ("apache_beam",)):
        yield


@contextlib.contextmanager
def records_to(handler: logging.Handler, wordy: Iterable[str]) -> Iterator[None]:
    """Send every log record of INFO and up to `handler`, and Python's warnings.

    Of the loggers named in `wordy` only warnings and up. All levels are put back at the end.
    """
    root = logging.getLogger()
    levels = {root: logging.INFO}
    levels |= {logging.getLogger(name): logging.WARNING for name in wordy}
    previous = {logger: logger.level for logger in levels}
    for logger, level in levels.items():
        logger.setLevel(level)
    root.addHandler(handler)
    logging.captureWarnings(True)
    try:
        yield
    finally:
        logging.captureWarnings(False)
        root.removeHandler(handler)
        for logger, level in previous.items():
            logger.setLevel(level)
