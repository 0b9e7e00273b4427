"""A connection to ML Metadata that survives a restart of its database."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator, Mapping
from typing import Self

from ml_metadata import errors
from tfx.orchestration.metadata import Metadata

from components.progress import report
from kubeflow.metadata import connection_config, location, refusal
from pipeline.errors import DatabaseLost, NodeFailed

FIRST_PATIENCE_S = 60.0
PATIENCE_S = 600.0


# Errors of ML Metadata for a lost or refused connection.
_LOST = (
    errors.AbortedError,
    errors.InternalError,
    errors.UnavailableError,
    errors.UnknownError,
)


@contextlib.contextmanager
def loss_told_apart() -> Iterator[None]:
    """Raise DatabaseLost if a node fails in the context because its database went away."""
    try:
        yield
    except (NodeFailed, *_LOST) as error:
        cause: BaseException | None = error
        while cause is not None:
            if isinstance(cause, (DatabaseLost, *_LOST)):
                raise DatabaseLost(f"{error}; the database went away meanwhile") from error
            cause = cause.__cause__ or cause.__context__
        raise


class PatientMetadata(Metadata):
    """A connection that waits for its database, where TFX gives up after some 5 s.

    A node connects before and after its work, so hours of training are published even if the
    database was away at their end. If it goes away during a call, the node fails: see
    `loss_told_apart`.
    """

    def __init__(
        self,
        env: Mapping[str, str],
        first_patience_s: float = FIRST_PATIENCE_S,
        patience_s: float = PATIENCE_S,
    ) -> None:
        """Read the connection from `env`. Raises ConfigError as `connection_config` does.

        Args:
            env: variables that name the database.
            first_patience_s: seconds to wait for the first connection. It is shorter, as the
                settings may be wrong and no work is lost.
            patience_s: seconds to wait for later connections.
        """
        super().__init__(connection_config(env))
        self._env = env
        self._first_patience_s = first_patience_s
        self._patience_s = patience_s
        self._connected_before = False

    def __enter__(self) -> Self:
        """Connect. Raises DatabaseLost with the probable reason when the time is up."""
        patience = self._patience_s if self._connected_before else self._first_patience_s
        deadline = time.monotonic() + patience
        told = False
        while True:
            try:
                super().__enter__()
            except RuntimeError:  # after ten tries
                problem = f"ML Metadata in {location(self._env)}: {refusal(self._env)}"
            else:
                self._connected_before = True
                return self
            if time.monotonic() >= deadline:
                raise DatabaseLost(problem)
            if not told:
                report("note", text=f"{problem}; trying for {patience:.0f} s")
                told = True
