"""One night of the month of retraining, in a process that can be killed."""

from __future__ import annotations

import datetime
import logging
import os
import signal
from pathlib import Path

FIRST = datetime.datetime(2026, 5, 1, 3, tzinfo=datetime.UTC)


def night(root: Path, day: int, accept_loss: bool = False) -> int:
    """Run `perennial retrain` as a schedule does, and return its exit code."""
    from pipeline.config import load
    from pipeline.errors import UserError
    from pipeline.retraining.retrain import retrain

    overrides = {"workspace": str(root / "workspace")}
    loaded = load(root / "perennial.toml", overrides, scheduled=True)
    now = FIRST + datetime.timedelta(days=day - 1)
    try:
        retrain(loaded.config, loaded.origins, "json", now=now, accept_loss=accept_loss)
    except UserError as error:
        print(type(error).__name__, error)
        return error.exit_code
    return 0


class Killer(logging.Handler):
    """Kills this process, as a power failure would, at the n-th event of a run."""

    def __init__(self, events: int) -> None:
        super().__init__()
        self._left = events

    def emit(self, record: logging.LogRecord) -> None:
        self._left -= record.msg in ("node_start", "node_end")
        if self._left <= 0:
            os.kill(os.getpid(), signal.SIGKILL)
