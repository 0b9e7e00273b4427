"""Errors with one of the canonical codes that gRPC and TensorFlow share."""

from __future__ import annotations

# The answers of TensorFlow Serving's REST API; whatever is not listed is a 500.
HTTP_STATUS = {
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
    """A failure with a canonical code, such as "NOT_FOUND", and a message of one line."""

    def __init__(self, code: str, message: str, http_status: int | None = None) -> None:
        """Shorten the message; `http_status` is for REST where the code's own is less exact."""
        if len(message) > LONGEST_MESSAGE:
            message = f"{message[:LONGEST_MESSAGE]}...TRUNCATED"
        super().__init__(message)
        self.code = code
        self.message = message
        self.http_status = http_status or HTTP_STATUS.get(code, 500)


def invalid(message: str) -> ServingError:
    """Make the error for a request that can never succeed as it is."""
    return ServingError("INVALID_ARGUMENT", message)
