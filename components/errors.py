"""Failures that a component blames on its input."""


class BadDataError(Exception):
    """The data cannot be used: the message is one line that names it and says what to do."""
