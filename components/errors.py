"""Failures that are nobody's bug: what came in, or what it came to, is not good enough."""

from __future__ import annotations

from collections.abc import Iterable


class BadDataError(Exception):
    """The data cannot be used: the message is one line that names it and says what to do.

    findings: a line for each thing that is wrong, where the message has no room for all.
    """

    def __init__(self, message: str, findings: Iterable[object] = ()) -> None:
        super().__init__(message)
        self.findings = tuple(map(str, findings))


class DataLossError(BadDataError):
    """Data that is gone, or too few images to tell anything by: what is left is not to be used."""


class NotServableError(Exception):
    """A candidate that a model server does not serve as it should: the message is one line."""


class PushRefusedError(Exception):
    """The destination cannot take a model: the message is one line that says why."""


class JobError(Exception):
    """A job that Beam's runner did not finish: the message is one line."""
