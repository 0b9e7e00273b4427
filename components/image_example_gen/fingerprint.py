"""The digest of a data set's content in the cache key of its ingest."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator

from components.image_example_gen import files, scratch
from components.image_example_gen.dataset import DataSet
from components.image_example_gen.inputs import Reader, read_here, scan
from components.image_example_gen.ledger import Ledger
from components.image_example_gen.sources.base import Content
from components.parallel import quick_in_order


def read_all(data: DataSet, read: Reader = read_here) -> Ledger:
    """Read and hash every input."""
    ledger = Ledger()
    for entries in scan(data, read):
        ledger.add(entries)
    return ledger


def fingerprint(data: DataSet, ledger: Ledger | None = None) -> str:
    """Compute a digest of the name, class, split and bytes of every input.

    Times of modification do not count. Of remote data no file is read: their stores know checksums.

    Args:
      data: the data set.
      ledger: its inputs as they were read; not needed if the data is remote.
    """
    if data.is_remote:
        lines = quick_in_order(_checked, _sorted(data.contents()), lambda _: 0)
    else:
        assert ledger is not None
        lines = map(json.dumps, ledger.read_inputs())
    total = hashlib.sha256(json.dumps(sorted(data.declared)).encode())
    for line in lines:
        total.update(f"{line}\n".encode())
    return total.hexdigest()


def _checked(content: Content) -> str:
    digest = files.digest(content.path) if content.path else ""
    return json.dumps([content.identity, digest])


def _sorted(contents: Iterator[Content]) -> Iterator[Content]:
    base = scratch.database("CREATE TABLE contents (identity TEXT, path BLOB)")
    rows = ((each.identity, scratch.to_blob(each.path)) for each in contents)
    base.executemany("INSERT INTO contents VALUES (?, ?)", rows)
    for identity, path in base.execute("SELECT * FROM contents ORDER BY 1, 2"):
        yield Content(identity, scratch.to_text(path))
