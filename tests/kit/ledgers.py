"""Judging inputs that are at hand as objects, which the ingest keeps in a ledger."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Collection, Mapping, Sequence

from components.image_example_gen import grouping, inputs
from components.image_example_gen.inputs import Input
from components.image_example_gen.ledger import Ledger
from components.image_example_gen.near_duplicates import Pair


def judge(
    entries: Sequence[Input],
    shares: Mapping[str, int],
    window: Collection[int] | None = None,
    earlier: Callable[[str], str] | None = None,
) -> Ledger:
    """Have them judged, and what becomes of them noted on them. Returns their ledger."""
    ledger = Ledger()
    ledger.add(entries)
    inputs.judge(ledger, shares, window, earlier)
    _note(entries, ledger)
    return ledger


def settle(
    ledger: Ledger,
    kept: Sequence[Input],
    pairs: Sequence[Pair],
    shares: Mapping[str, int],
    group: bool,
    window: Collection[int] | None,
) -> None:
    """Have the splits of what is kept settled; `pairs` has positions in it."""
    found = [Pair(kept[pair.first].id, kept[pair.second].id) for pair in pairs]
    grouping.settle(ledger, found, shares, group, window)
    _note(kept, ledger)


def _note(entries: Sequence[Input], ledger: Ledger) -> None:
    found = ledger.of([entry.id for entry in entries])
    for entry in entries:
        for field in dataclasses.fields(Input):
            setattr(entry, field.name, getattr(found[entry.id], field.name))
