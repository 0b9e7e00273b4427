"""Failures that are nobody's bug: what came in, or what it came to, is not good enough."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator

_LONGEST_REASON = 300  # characters: a parser may quote a whole file


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


class DamagedFileError(ValueError):
    """A file of the product's own that cannot be read back: one line that names it and says why."""


@contextlib.contextmanager
def read_back(location: str) -> Iterator[None]:
    """Raise DamagedFileError where what is read inside is not what was written.

    Other bytes, other JSON, missing keys and other types are; an OSError is left as it is.
    """
    try:
        yield
    except OSError:
        raise
    # Of deeply nested brackets it is a RecursionError.
    except (LookupError, ValueError, TypeError, AttributeError, RecursionError) as error:
        reason = f"it has no {error.args[0]!r}" if isinstance(error, KeyError) else str(error)
        line = " ".join(reason.split())[:_LONGEST_REASON] or type(error).__name__
        raise DamagedFileError(
            f"{location} is damaged: {line}; put a good copy of it back"
        ) from error
