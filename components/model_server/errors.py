"""Errors with one of the canonical codes that gRPC and TensorFlow share."""

from __future__ import annotations

# In the order of their numbers, which TensorFlow's C API and gRPC agree on.
CODES = (
    "OK",
    "CANCELLED",
    "UNKNOWN",
    "INVALID_ARGUMENT",
    "DEADLINE_EXCEEDED",
    "NOT_FOUND",
    "ALREADY_EXISTS",
    "PERMISSION_DENIED",
    "RESOURCE_EXHAUSTED",
    "FAILED_PRECONDITION",
    "ABORTED",
    "OUT_OF_RANGE",
    "UNIMPLEMENTED",
    "INTERNAL",
    "UNAVAILABLE",
    "DATA_LOSS",
    "UNAUTHENTICATED",
)

# What TensorFlow Serving's REST API answers for each; whatever is not listed is a 500.
HTTP_STATUS = {
    "OK": 200,
    "CANCELLED": 499,
    "INVALID_ARGUMENT": 400,
    "DEADLINE_EXCEEDED": 504,
    "NOT_FOUND": 404,
    "ALREADY_EXISTS": 409,
    "PERMISSION_DENIED": 403,
    "RESOURCE_EXHAUSTED": 429,
    "FAILED_PRECONDITION": 400,
    "ABORTED": 409,
    "OUT_OF_RANGE": 400,
    "UNIMPLEMENTED": 501,
    "UNAVAILABLE": 503,
    "UNAUTHENTICATED": 401,
}

LONGEST_MESSAGE = 1024  # gRPC sends it as a header, and those are limited to 8 kB


class ServingError(Exception):
    """A failure that the caller is told about: `code` is one of CODES, `message` one text.

    http_status: what REST answers; the code's own, unless HTTP has a more telling one.
    """

    def __init__(self, code: str, message: str, http_status: int | None = None) -> None:
        if len(message) > LONGEST_MESSAGE:
            message = f"{message[:LONGEST_MESSAGE]}...TRUNCATED"
        super().__init__(message)
        self.code = code
        self.message = message
        self.http_status = http_status or HTTP_STATUS.get(code, 500)


def invalid(message: str) -> ServingError:
    """Make the error for a request that can never succeed as it is."""
    return ServingError("INVALID_ARGUMENT", message)
