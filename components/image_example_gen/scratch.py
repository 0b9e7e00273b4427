"""Tables on disk, for what would not fit into memory where there are millions of inputs."""

from __future__ import annotations

import sqlite3

_CACHE_KB = 8192


def database(tables: str) -> sqlite3.Connection:
    """Make an empty database with `tables`, in a temporary file that goes with its connection.

    A few megabytes of it are in memory, however much is in it; a small one is never written. There
    is no way back from a change: the one who makes it is the only one who uses it.
    """
    made = sqlite3.connect("", isolation_level=None, check_same_thread=False)
    made.executescript(
        f"PRAGMA cache_size = -{_CACHE_KB}; PRAGMA journal_mode = OFF; PRAGMA synchronous = OFF; "
        f"PRAGMA temp_store = FILE; {tables}; BEGIN"
    )
    return made


def to_blob(text: str) -> bytes:
    """Encode a text that may hold a file name's undecodable bytes; blobs sort as the texts do."""
    return text.encode("utf-8", "surrogatepass")


def to_text(blob: bytes) -> str:
    """Undo `to_blob`."""
    return blob.decode("utf-8", "surrogatepass")
