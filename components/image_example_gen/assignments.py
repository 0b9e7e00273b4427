"""The assignment of images to splits by earlier ingests, in a file beside the examples."""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from components import reuse, storage
from components.image_example_gen import scratch
from components.image_example_gen.accounting import write_lines

FILE = "assignments.jsonl"  # in an Examples artifact: the splits of all images of all ingests
_OLD = "assignments.json"  # format of earlier versions, in one line

_DIGITS = 16  # hex digits of a SHA-256 that are stored; enough to identify an image
_TABLE = "CREATE TABLE splits (image TEXT PRIMARY KEY, split TEXT) WITHOUT ROWID"


class Assignments:
    """Table of splits by the first digits of an image's SHA-256.

    `rule` is a digest of the settings: a table that was made with other settings is not used.
    """

    def __init__(self, rule: str, splits: Mapping[str, str] | None = None) -> None:
        self.rule = rule
        self._base = scratch.database(_TABLE)
        self.update((splits or {}).items())

    def __iter__(self) -> Iterator[tuple[str, str]]:
        yield from self._base.execute("SELECT image, split FROM splits ORDER BY image")

    def of(self, sha256: str) -> str:
        """Return the split of an image, "" if it has none yet."""
        found = self._base.execute(
            "SELECT split FROM splits WHERE image = ?", (sha256[:_DIGITS],)
        ).fetchone()
        return found[0] if found else ""

    def update(self, splits: Iterable[tuple[str, str]]) -> None:
        """Add or change the splits of images, by their SHA-256."""
        self._base.executemany(
            "INSERT OR REPLACE INTO splits VALUES (?, ?)",
            ((sha256[:_DIGITS], split) for sha256, split in splits),
        )

    def write(self, folder: str) -> None:
        """Write the file to an Examples artifact."""
        lines = itertools.chain([{"rule": self.rule}], self)
        write_lines(lines, storage.join(folder, FILE))


def read(uri: str, shares: Mapping[str, int], group: bool) -> Assignments:
    """Read the table of the latest ingest beside the artifact at `uri` with the same settings."""
    rule = reuse.key(dict(shares), group)
    known = Assignments(rule)
    for path in reuse.siblings(uri, FILE, _OLD):
        with storage.opened(path) as file:
            head = json.loads(file.readline())
            if head["rule"] == rule:
                known.update(_old(head) if path.endswith(_OLD) else map(json.loads, file))
                break
    return known


def _old(head: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    for split, images in head["splits"].items():
        yield from ((image, split) for image in images)
