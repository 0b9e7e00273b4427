"""Failures that are nobody's bug: what came in, or what it came to, is not good enough."""


class BadDataError(Exception):
    """The data cannot be used: the message is one line that names it and says what to do."""


class NotServableError(Exception):
    """A candidate that a model server does not serve as it should: the message is one line."""


class PushRefusedError(Exception):
    """The destination cannot take a model: the message is one line that says why."""
