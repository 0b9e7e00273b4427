"""Failures that are nobody's bug: what came in, or what it came to, is not good enough."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator
from typing import ClassVar

from components.redaction import redact

_LONGEST_REASON = 300  # characters: a parser may quote a whole file


class UserError(Exception):
    """A failure with a one-line message; line breaks in what it quotes become spaces.

    Secrets of URLs in it are replaced.
    """

    exit_code: ClassVar[int]
    meaning: ClassVar[str]
    findings: tuple[str, ...] = ()

    def __init__(self, message: str) -> None:
        super().__init__(redact(" ".join(message.splitlines())))


class ConfigError(UserError):
    """A configuration that cannot be used."""

    exit_code = 2
    meaning = "bad configuration or usage"


class PromotionFailed(UserError):
    """A version that is not served as it should be; what was served before is, or it is told."""

    exit_code = 7
    meaning = "promotion failed; the old versions stay, unless the message reports otherwise"


class KubernetesUnreachable(UserError):
    """A cluster whose API server does not answer."""

    exit_code = 13
    meaning = "Kubernetes does not answer"


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
