"""Failures that a person can act on: each is one line on stderr and an exit code of its own.

Exit code 0 means pushed or nothing to do, 1 an unexpected failure, 130 an interrupt.
Code 2 is shared with the usage errors of the command line: both mean that nothing was started.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from components.errors import BadDataError, DataLossError
from components.errors import ConfigError as ConfigError
from components.errors import KubernetesUnreachable as KubernetesUnreachable
from components.errors import PromotionFailed as PromotionFailed
from components.errors import UserError as UserError

INTERRUPTED = 130
UNEXPECTED = 1


class DataError(UserError):
    """Images that cannot be used. findings: as in components/errors.py, for the report."""

    exit_code = 3
    meaning = "bad data"

    def __init__(self, message: str, findings: Iterable[str] = ()) -> None:
        super().__init__(message)
        self.findings = tuple(findings)


class DataLost(DataError):
    """Images that are gone or labelled otherwise, or too few of them to judge by."""

    exit_code = 12
    meaning = "data is missing or relabelled, or too small to judge a model"


class NotBlessed(UserError):
    """A trained model that did not pass evaluation or is not served, so it was not pushed."""

    exit_code = 4
    meaning = "model not blessed, so not pushed"


class NodeFailed(UserError):
    """A node of the DAG that failed for a reason other than its data."""

    exit_code = 5
    meaning = "a node failed"


class WorkspaceBusy(UserError):
    """A workspace that another run holds."""

    exit_code = 6
    meaning = "workspace in use by another run"


class SchemaDiffers(UserError):
    """A candidate schema that is not the committed one."""

    exit_code = 8
    meaning = "schemas differ"


class DriftFound(UserError):
    """Images, new or served, that differ from those that the baseline was made of."""

    exit_code = 9
    meaning = "drift found, and nothing retrained"


class KubeflowUnreachable(UserError):
    """An installation of Kubeflow Pipelines that does not answer."""

    exit_code = 10
    meaning = "Kubeflow does not answer"


class KubeflowRefused(UserError):
    """A request that Kubeflow Pipelines answered with a refusal."""

    exit_code = 11
    meaning = "Kubeflow refused the request"


class DatabaseLost(UserError):
    """An ML Metadata database that a node of a Kubeflow run does not reach, or not any more."""

    exit_code = 14
    meaning = "the ML Metadata database is out of reach"


def data_error(error: BadDataError, message: str | None = None) -> DataError:
    """Make the error of the command line of a component's; `message` replaces its text."""
    kind = DataLost if isinstance(error, DataLossError) else DataError
    return kind(str(error) if message is None else message, error.findings)


def kinds(kind: type[UserError] = UserError) -> Iterator[type[UserError]]:
    """Yield all kinds of failures below one that have an exit code of their own."""
    for each in kind.__subclasses__():
        if "exit_code" in vars(each):
            yield each
        yield from kinds(each)


EXIT_CODES: dict[int, str] = {
    0: "done",
    UNEXPECTED: "unexpected failure",
    **dict(sorted((kind.exit_code, kind.meaning) for kind in kinds())),
    INTERRUPTED: "interrupted",
}
