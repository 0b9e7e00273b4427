"""Units that an earlier ingest wrote just so: their files are taken over, nothing is decoded."""

from __future__ import annotations

import json
import posixpath
from collections.abc import Iterable, Mapping
from typing import Any

import tensorflow as tf

from components import reuse
from components.image_example_gen.inputs import Problem
from components.image_example_gen.writing import Facts, Outcome, Work, shards

FOLDER = "units"
# What may be otherwise the next time, with the content the same.
_PASSING = ("changed", "unreadable")


class Units:
    """What became of the units of the ingests beside the artifact at `uri`."""

    def __init__(self, uri: str) -> None:
        self._uri = uri
        self._known = reuse.earlier(uri, f"{FOLDER}/*.json")
        self._shards = reuse.earlier(uri, "Split-*/*") if self._known else {}

    def take_over(self, work: Work) -> list[Outcome] | None:
        """The outcomes of a unit, whose files are there from now on; None where it is not known."""
        location = self._known.get(_name(work))
        if location is None:
            return None
        with tf.io.gfile.GFile(location) as file:
            outcomes = decode(json.loads(file.read()))
        needed = shards(work, outcomes)
        # Files that were changed later, to bring near duplicates together, have other names.
        if not self._shards.keys() >= needed.keys():
            return None
        for name in needed:
            reuse.take_over(self._shards[name], posixpath.join(self._uri, name))
        self._write(work, outcomes)
        return outcomes

    def keep(self, pieces: Iterable[Work], outcomes: Mapping[int, list[Outcome]]) -> None:
        """Let later ingests take over what these units became."""
        for work in pieces:
            found = outcomes[work.index]
            kinds = {fate.kind for _, fate in found if isinstance(fate, Problem)}
            if not kinds.intersection(_PASSING):
                self._write(work, found)

    def _write(self, work: Work, outcomes: list[Outcome]) -> None:
        path = posixpath.join(self._uri, _name(work))
        tf.io.gfile.makedirs(posixpath.dirname(path))
        with tf.io.gfile.GFile(f"{path}.partial", "w") as file:
            file.write(json.dumps(encode(outcomes)))
        tf.io.gfile.rename(f"{path}.partial", path, overwrite=True)


def encode(outcomes: Iterable[Outcome]) -> list[Any]:
    """Outcomes as JSON-able values."""
    return [
        [position, isinstance(fate, Problem), [_text(value) for value in fate]]
        for position, fate in outcomes
    ]


def decode(rows: Iterable[Any]) -> list[Outcome]:
    """Undo `encode`."""
    return [(at, Problem(*fate) if is_bad else _facts(*fate)) for at, is_bad, fate in rows]


def _name(work: Work) -> str:
    return f"{FOLDER}/{work.key}.json"


def _text(value: Any) -> Any:
    return value.hex() if isinstance(value, bytes) else value


def _facts(width: int, height: int, normalized: str, thumb: str) -> Facts:
    return Facts(width, height, normalized, bytes.fromhex(thumb))
