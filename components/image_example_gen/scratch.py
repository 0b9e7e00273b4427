"""Temporary tables on disk, as millions of inputs do not fit into memory."""

from __future__ import annotations

import sqlite3

_CACHE_KB = 8192


def database(tables: str) -> sqlite3.Connection:
    """Create an empty database with `tables`, in a temporary file that is deleted on closing.

    At most a few megabytes of it are in memory; a small one is never written. For a single user:
    changes cannot be rolled back.
    """
    made = sqlite3.connect("", isolation_level=None, check_same_thread=False)
    made.executescript(
        f"PRAGMA cache_size = -{_CACHE_KB}; PRAGMA journal_mode = OFF; PRAGMA synchronous = OFF; "
        f"PRAGMA temp_store = FILE; {tables}; BEGIN"
    )
    return made


def to_blob(text: str) -> bytes:
    """Encode a text that may contain a file name's undecodable bytes; blobs sort like texts."""
    return text.encode("utf-8", "surrogatepass")


def to_text(blob: bytes) -> str:
    """Undo `to_blob`."""
    return blob.decode("utf-8", "surrogatepass")
