"""What a command has noticed by the way, on standard error."""

from __future__ import annotations

import contextlib
import logging
import sys
from collections.abc import Iterator
from typing import TextIO

from components import progress


class _Notes(logging.Handler):
    """Prints the notes, or keeps them while standard output and error go elsewhere."""

    def __init__(self, stream: TextIO | None) -> None:
        super().__init__()
        self._stream = stream
        self._kept: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        others = set(progress.LOGGER.handlers) - {self}
        if record.msg != "note" or others:
            return  # who shows progress shows them too
        text = str(record.__dict__["fields"]["text"])
        if text not in self._kept:
            self._kept.append(text)
        if sys.stderr is self._stream:
            self.flush()

    def flush(self) -> None:
        """Print what was kept."""
        kept, self._kept = self._kept, []
        with contextlib.suppress(OSError, ValueError):
            for text in kept:
                print(f"perennial: note: {text}", file=self._stream, flush=True)


@contextlib.contextmanager
def shown() -> Iterator[None]:
    """Show the notes of what is done inside, unless something else shows them as they come."""
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
