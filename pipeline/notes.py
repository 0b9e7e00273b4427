"""Notes of a command, on standard error."""

from __future__ import annotations

import contextlib
import logging
import sys
from collections.abc import Iterator
from typing import TextIO

from components import progress


class _Notes(logging.Handler):
    """Printer of notes, which keeps them while standard output and error are redirected."""

    def __init__(self, stream: TextIO | None) -> None:
        super().__init__()
        self._stream = stream
        self._kept: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        others = set(progress.LOGGER.handlers) - {self}
        if record.msg != "note" or others:
            return  # a console shows them
        text = str(record.__dict__["fields"]["text"])
        if text not in self._kept:
            self._kept.append(text)
        if sys.stderr is self._stream:
            self.flush()

    def flush(self) -> None:
        """Print the notes that were kept."""
        kept, self._kept = self._kept, []
        with contextlib.suppress(OSError, ValueError):
            for text in kept:
                print(f"perennial: note: {text}", file=self._stream, flush=True)


@contextlib.contextmanager
def shown() -> Iterator[None]:
    """Show the notes of the block, unless a console shows them as they come."""
    handler = _Notes(sys.stderr)
    level = progress.LOGGER.level
    progress.LOGGER.setLevel(logging.INFO)
    progress.LOGGER.addHandler(handler)
    try:
        yield
    finally:
        handler.flush()
        progress.LOGGER.removeHandler(handler)
        progress.LOGGER.setLevel(level)
