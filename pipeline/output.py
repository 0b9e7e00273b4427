"""Losses of standard output, and lines for a person who waits.

A reader that is gone is not a failure, as in `perennial runs | head`. A full disk is one: the file
would be incomplete without a sign of it.
"""

from __future__ import annotations

import contextlib
import errno
import os
import stat
import sys

_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO)

_lost: list[OSError] = []


def announce(text: str) -> None:
    """Print a line before some seconds without output; only if standard error is a terminal."""
    if sys.stderr is not None and sys.stderr.isatty():
        print(text, file=sys.stderr, flush=True)


def lost(error: OSError) -> None:
    """Note that something could not be printed."""
    if error.errno != errno.EPIPE:
        _lost.append(error)


def blamed(error: Exception) -> bool:
    """Tell whether it is standard output that could not be written."""
    if not isinstance(error, OSError) or error.errno not in _FULL or error.filename is not None:
        return False
    try:
        kind = os.fstat(sys.stdout.fileno()).st_mode
    except (OSError, ValueError):
        return False  # no file of the system's
    if stat.S_ISFIFO(kind) or stat.S_ISSOCK(kind):
        return False  # which never fill, and whose reader would take the line below for a result
    try:
        # A stream without a buffer has forgotten what it could not write, so that it has to try.
        print(flush=True)
    except OSError:
        lost(error)
        return True
    return False


def failure() -> str:
    """Return why standard output is incomplete, "" where it is whole, and forget it."""
    if sys.stdout is not None:
        try:
            sys.stdout.flush()
        except OSError as error:
            lost(error)
            _discard()
        except ValueError:
            pass  # closed
    reason = _lost[0].strerror or str(_lost[0]) if _lost else ""
    _lost.clear()
    return reason


def _discard() -> None:
    """Let the interpreter end without another attempt, and its message."""
    with contextlib.suppress(OSError, ValueError):
        nothing = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nothing, sys.stdout.fileno())
        os.close(nothing)
