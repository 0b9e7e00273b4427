"""The inventory of a data set: its inputs by content, and the differences of two."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import time
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import NamedTuple

from components import storage
from components.errors import read_back
from components.image_example_gen import files
from components.image_example_gen.dataset import DataSet, list_data
from components.image_example_gen.inputs import QUARANTINED, scan
from components.image_example_gen.options import Options
from components.image_example_gen.sources.base import Content

# A file changed twice within the clock's tick looks as if it had been changed once.
_SETTLED_NS = 2 * 10**9


class Entry(NamedTuple):
    """An input: hex digest of its bytes ("" if unreadable), class and span.

    is_used: whether it was not quarantined, if that is known.
    """

    sha256: str
    label: str
    span: int
    is_used: bool = True


# By name, which is the path within the source.
Inventory = Mapping[str, Entry]


@dataclasses.dataclass(frozen=True)
class DataChanges:
    """The differences of two inventories; each input counts once.

    Attributes:
      new: names of inputs with new content, or a new label for known content.
      changed: names of inputs whose content or label changed.
      removed: names of inputs whose name and content are missing.
      empty_spans: names of spans without inputs.
    """

    new: tuple[str, ...] = ()
    changed: tuple[str, ...] = ()
    removed: tuple[str, ...] = ()
    empty_spans: tuple[str, ...] = ()

    @property
    def images(self) -> tuple[str, ...]:
        """Return the names of the new and changed inputs."""
        return self.new + self.changed

    @property
    def count(self) -> int:
        return len(self.new) + len(self.changed) + len(self.removed)

    def __str__(self) -> str:
        named = {"new": self.new, "changed": self.changed, "removed": self.removed}
        found = [f"{len(names):,} {what}" for what, names in named.items() if names]
        return f"{' and '.join(found)} {'image' if self.count == 1 else 'images'}"


def compare(before: Inventory, now: Inventory) -> DataChanges:
    """Find the differences from `before` to `now`. A new name alone is none."""
    known = {(entry.sha256, entry.label) for entry in before.values()}
    there = {(entry.sha256, entry.label) for entry in now.values()}

    def differs(name: str) -> bool:
        return before[name][:2] != now[name][:2]

    return DataChanges(
        new=tuple(
            sorted(name for name in now.keys() - before.keys() if now[name][:2] not in known)
        ),
        changed=tuple(sorted(name for name in now.keys() & before.keys() if differs(name))),
        removed=tuple(
            sorted(name for name in before.keys() - now.keys() if before[name][:2] not in there)
        ),
    )


def digest(inventory: Inventory) -> str:
    """Digest names, contents and labels."""
    lines = sorted(json.dumps([name, *entry[:3]]) for name, entry in inventory.items())
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()[:16]


def take(source: str, options: Options, memo: Path | None) -> tuple[Inventory, list[int]]:
    """Read the inventory of the data, and the numbers of its spans.

    Spans whose files have the same sizes, times and inode numbers as at the last call are not read
    again.

    Args:
      source: data.source.
      options: how it is read.
      memo: file that keeps the inventory between calls, if any.

    Raises BadDataError if the data cannot be listed.
    """
    data = list_data(source, options)
    known = _load(memo) if memo else {}
    fresh: dict[str, tuple[str, dict[str, Entry]]] = {}
    for span in data.spans:
        part = _part(data, span.number)
        signature, changed_ns = _signature(part.contents())
        remembered, entries = known.get(span.location, ("", {}))
        if not signature or signature != remembered:
            entries = {
                entry.name: Entry(entry.sha256, entry.label, entry.span)
                for unit in scan(part)
                for entry in unit
            }
            if changed_ns > time.time_ns() - _SETTLED_NS:
                signature = ""
        fresh[span.location] = (signature, entries)
    if memo:
        _save(memo, fresh)
    inventory = {name: each for _, entries in fresh.values() for name, each in entries.items()}
    return inventory, [span.number for span in data.spans]


def read_inputs(location: str) -> Inventory:
    """Read an ingest's inventory from the path or URI `location`.

    Raises OSError if it is missing, DamagedFileError if it is damaged.
    """
    text = storage.read_bytes(location).decode("utf-8", errors="replace")
    with read_back(location):
        rows = map(json.loads, text.splitlines())
        return {
            str(row["path"]): Entry(
                str(row["sha256"] or ""),
                str(row["label"]),
                int(row["span"]),
                row["fate"] != QUARANTINED,
            )
            for row in rows
        }


def _part(data: DataSet, number: int) -> DataSet:
    parts = [part for part in data.parts if part.span == number]
    return dataclasses.replace(data, parts=parts)


def _signature(contents: Iterable[Content]) -> tuple[str, int]:
    """Digest the files' metadata without reading them; also return the latest change, in ns."""
    lines, latest = [], 0
    for content in contents:
        state: list[object] = []
        if content.path and storage.is_uri(content.path):
            state = [files.digest(content.path)]
        elif content.path:
            try:
                status = Path(content.path).stat()
            except OSError:
                return "", 0
            state = [status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns]
            latest = max(latest, status.st_mtime_ns, status.st_ctime_ns)
        lines.append(json.dumps([content.identity, *state]))
    return hashlib.sha256("\n".join(sorted(lines)).encode()).hexdigest(), latest


def _load(memo: Path) -> dict[str, tuple[str, dict[str, Entry]]]:
    try:
        kept = json.loads(memo.read_text("utf-8"))
        return {
            location: (signature, {name: Entry(*entry) for name, entry in entries.items()})
            for location, (signature, entries) in kept.items()
        }
    except (OSError, ValueError, TypeError, AttributeError, RecursionError):
        return {}  # everything is read again


def _save(memo: Path, spans: Mapping[str, tuple[str, dict[str, Entry]]]) -> None:
    storage.write_text(str(memo), json.dumps(spans))
