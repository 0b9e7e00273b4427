"""The remaining work of an ingest, and the reuse of outcomes of earlier ingests."""

from __future__ import annotations

import json
import posixpath
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from components import reuse, storage
from components.attempts import Attempt
from components.image_example_gen.dataset import DataSet, SpanUnit
from components.image_example_gen.inputs import KEPT, PASSING, Input, Problem
from components.image_example_gen.ledger import Ledger
from components.image_example_gen.writing import Facts, Outcome, Target, Work, shards
from components.storage import staging

FOLDER = "units"  # in an Examples artifact: the outcomes of units
_LEFT = f"{KEPT} AND width IS NULL"


class Pieces:
    """Iterable of a `Work` for each unit with kept inputs that are not written yet.

    Args:
      data: the data set.
      ledger: all inputs.
      classes: sorted names.
      made_by: digest of everything besides the inputs that the outcome depends on.
    """

    def __init__(self, data: DataSet, ledger: Ledger, classes: Sequence[str], made_by: str) -> None:
        self._data, self._ledger, self._made_by = data, ledger, made_by
        self._ids = {name: index for index, name in enumerate(classes)}

    @property
    def images(self) -> int:
        """The number of remaining images."""
        return self._ledger.count(_LEFT)

    @property
    def splits(self) -> list[str]:
        """The splits that have images."""
        return self._ledger.values("split", KEPT)

    def __iter__(self) -> Iterator[Work]:
        for index, unit in enumerate(self._data.units):
            work = self._work(index, unit, self._ledger.unit(index))
            if work.images:
                yield work

    def _work(self, index: int, unit: SpanUnit, entries: Sequence[Input]) -> Work:
        targets = tuple(
            Target(self._ids[entry.label], entry.split, entry.sha256)
            if entry.is_kept and not entry.is_done
            else None
            for entry in entries
        )
        kept = [
            (position, entries[position].name, entries[position].label, target)
            for position, target in enumerate(targets)
            if target
        ]
        keys = {
            split: reuse.key(
                self._made_by, unit.span, [each for each in kept if each[3].split == split]
            )
            for split in sorted({target.split for _, _, _, target in kept})
        }
        return Work(index, keys, unit, targets)


class Units:
    """The outcomes of units in earlier ingests beside the artifact at `uri`, by split."""

    def __init__(self, uri: str) -> None:
        self._uri = uri
        self._known = reuse.earlier(uri, FOLDER)
        self._shards = reuse.earlier(uri, "Split-*") if self._known else {}

    @property
    def are_known(self) -> bool:
        """Whether there are any."""
        return bool(self._known)

    def take_over(self, work: Work) -> list[Outcome]:
        """Copy the files of known outcomes, and return these outcomes."""
        return [outcome for split in work.keys for outcome in self._take_over(work, split)]

    def _take_over(self, work: Work, split: str) -> list[Outcome]:
        location = self._known.get(_name(work, split))
        if location is None:
            return []
        outcomes = decode(json.loads(storage.read_bytes(location)))
        # Files whose near duplicates were moved have other names.
        needed = shards(work, outcomes)
        if not self._shards.keys() >= needed.keys():
            return []
        for name in needed:
            staging.take_over(self._shards[name], posixpath.join(self._uri, name))
        name = _name(work, split)
        staging.take_over(location, posixpath.join(self._uri, name))
        return outcomes


def keep(work: Work, outcomes: Iterable[Outcome], attempt: Attempt) -> None:
    """Write the outcomes of a unit for later ingests, if this attempt wins."""
    by_split: dict[str, list[Outcome]] = {}
    for position, fate in outcomes:
        if target := work.targets[position]:
            by_split.setdefault(target.split, []).append((position, fate))
    for split, found in by_split.items():
        kinds = {fate.kind for _, fate in found if isinstance(fate, Problem)}
        if not kinds.intersection(PASSING):
            path = attempt.path(_name(work, split))
            storage.write_text(path, json.dumps(encode(found)), durable=False)


def encode(outcomes: Iterable[Outcome]) -> list[Any]:
    """Convert outcomes to JSON-able values."""
    return [
        [at, isinstance(fate, Problem), [v.hex() if isinstance(v, bytes) else v for v in fate]]
        for at, fate in outcomes
    ]


def decode(rows: Iterable[Any]) -> list[Outcome]:
    """Undo `encode`."""
    return [
        (at, Problem(*fate) if is_bad else Facts._make((*fate[:3], bytes.fromhex(fate[3]))))
        for at, is_bad, fate in rows
    ]


def _name(work: Work, split: str) -> str:
    return f"{FOLDER}/{work.keys[split]}.json"
