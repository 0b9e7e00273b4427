"""Parts of units that an earlier ingest wrote just so: taken over as files, nothing is decoded."""

from __future__ import annotations

import json
import posixpath
from collections.abc import Iterable
from typing import Any

from components import reuse, storage
from components.attempts import Attempt
from components.image_example_gen.inputs import PASSING, Problem
from components.image_example_gen.writing import Facts, Outcome, Work, shards
from components.storage import staging

FOLDER = "units"


class Units:
    """The outcomes of units of earlier ingests beside the artifact at `uri`, by split."""

    def __init__(self, uri: str) -> None:
        self._uri = uri
        self._known = reuse.earlier(uri, FOLDER)
        self._shards = reuse.earlier(uri, "Split-*") if self._known else {}

    def take_over(self, work: Work) -> list[Outcome]:
        """Take over the files of known outcomes. Returns these outcomes."""
        return [outcome for split in work.keys for outcome in self._take_over(work, split)]

    def _take_over(self, work: Work, split: str) -> list[Outcome]:
        location = self._known.get(_name(work, split))
        if location is None:
            return []
        outcomes = decode(json.loads(storage.read_bytes(location)))
        # Files that were changed later, to bring near duplicates together, have other names.
        needed = shards(work, outcomes)
        if not self._shards.keys() >= needed.keys():
            return []
        for name in needed:
            staging.take_over(self._shards[name], posixpath.join(self._uri, name))
        name = _name(work, split)
        staging.take_over(location, posixpath.join(self._uri, name))
        return outcomes


def keep(work: Work, outcomes: Iterable[Outcome], attempt: Attempt) -> None:
    """Let later ingests take over what a unit became, if this attempt at it wins."""
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
    """Outcomes as JSON-able values."""
    return [
        [position, isinstance(fate, Problem), [_text(value) for value in fate]]
        for position, fate in outcomes
    ]


def decode(rows: Iterable[Any]) -> list[Outcome]:
    """Undo `encode`."""
    return [(at, Problem(*fate) if is_bad else _facts(*fate)) for at, is_bad, fate in rows]


def _name(work: Work, split: str) -> str:
    return f"{FOLDER}/{work.keys[split]}.json"


def _text(value: Any) -> Any:
    return value.hex() if isinstance(value, bytes) else value


def _facts(width: int, height: int, normalized: str, thumb: str) -> Facts:
    return Facts(width, height, normalized, bytes.fromhex(thumb))
