"""What the driver and the executor of one execution share with the process that launches both."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Iterator, Sequence
from contextvars import ContextVar
from typing import Any


@dataclasses.dataclass
class Launch:
    """One execution of a node.

    Attributes:
      beam_args: arguments of its Beam jobs, which TFX gives to executors only.
      found: what the driver found out, for the executor; None for nothing.
      workers_cpu_s: CPU seconds that Beam's workers spent on it outside of this process.
    """

    beam_args: Sequence[str] = ()
    found: Any = None
    workers_cpu_s: float = 0.0


_CURRENT: ContextVar[Launch] = ContextVar("launch")


@contextlib.contextmanager
def launching(beam_args: Sequence[str]) -> Iterator[Launch]:
    """Make a launch the current one."""
    token = _CURRENT.set(Launch(beam_args))
    try:
        yield _CURRENT.get()
    finally:
        _CURRENT.reset(token)


def current() -> Launch:
    """Return the current launch; an empty one where nothing is launched."""
    return _CURRENT.get(None) or Launch()
