"""Assignment of images to splits, which is kept in later ingests.

1. A split that the source names is kept, as is one that an earlier ingest assigned.
2. Otherwise the split is drawn from the SHA-256 of the image's bytes.
3. With `data.group_near_duplicates`, images that look the same follow one of them.
4. If a class is then missing from train, eval or a drawn test split, one of its images is moved
   there: preferably a new one, then one of the latest span, then one that looks like no other, then
   the one with the lowest SHA-256.

A rule without memory could not keep images in their splits: of three images of a class two share a
split, but as the only two images of the class they must be in different ones. Therefore the
assignments are stored beside the examples, and read by the next ingest. Step 4 is done span by
span, so that new spans do not change the outcome for earlier ones.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from components.image_example_gen.inputs import Input
    from components.image_example_gen.ledger import Ledger

SPLITS = ("train", "eval", "test")


def fill(
    ledger: Ledger,
    shares: Mapping[str, int],
    window: Collection[int] | None = None,
    groups: Sequence[Sequence[int]] = (),
    group: bool = False,
) -> None:
    """Move images so that each class is in train and eval, and with three images in a drawn test.

    Args:
      ledger: the inputs; those that are kept have splits.
      shares: split name to its share.
      window: numbers of the spans to train on, None for all.
      groups: ids of images that look the same.
      group: whether these are in one split, and must stay together.
    """
    of = {at: number for number, members in enumerate(groups) for at in members}
    entries = ledger.of(of) if group else {}
    mixed = {
        number
        for number, members in enumerate(groups if group else ())
        if len({entries[at].label for at in members}) > 1
        or any(entries[at].is_given for at in members)
    }
    names = [name for name in SPLITS if name in shares]
    if ledger.has_given("test"):
        names = [name for name in names if name != "test"]
    for label in list(_lacking(ledger, names)):
        places, before = [], {}
        for entry in ledger.of_class(label):
            # A group of its own if it looks like no other.
            number = of.get(entry.id, len(groups) + entry.id)
            movable = not entry.is_given and number not in mixed
            alike = len(groups[number]) if entry.id in of else 1
            places.append(_Place(entry, number, movable, alike))
            before[entry.id] = entry.split
        _fill_class(places, names, window, group)
        ledger.update(p.entry for p in places if p.entry.split != before[p.entry.id])


def _lacking(ledger: Ledger, names: Sequence[str]) -> Iterator[str]:
    """Yield the classes that, up to some span, lack a split that an image could move to."""
    for label, counts in itertools.groupby(ledger.by_class(), lambda row: row[0]):
        there: set[str] = set()
        images = movable = 0
        for _, of_span in itertools.groupby(counts, lambda row: row[1]):
            for _, _, split, count, drawn in of_span:
                there.add(split)
                images, movable = images + count, movable + drawn
            if there.issuperset(names):
                break
            if images > 1 and movable:
                yield label
                break


@dataclasses.dataclass(frozen=True)
class _Place:
    """An image, the number of its group, whether it may move, and the size of the group."""

    entry: Input
    group: int
    movable: bool
    alike: int


def _fill_class(
    places: list[_Place], names: Sequence[str], window: Collection[int] | None, group: bool
) -> None:
    places.sort(key=lambda place: (place.entry.span, place.entry.sha256))
    for span in sorted({place.entry.span for place in places}):
        there = [place for place in places if place.entry.span <= span]
        images = len({place.group for place in there}) if group else len(there)
        needed = names[:images] if images > 1 else []
        for name in needed:
            if all(place.entry.split != name for place in there):
                _give(there, name, span, window, group)
        if {place.entry.split for place in there}.issuperset(names):
            return  # later spans only add images


def _give(
    there: Sequence[_Place], name: str, span: int, window: Collection[int] | None, group: bool
) -> None:
    """Move an image, or its group, to the split `name` from one that can spare it."""
    candidates = []
    for members in _spare(there, name, group):
        if all(
            place.movable and (name != "train" or window is None or place.entry.span in window)
            for place in members
        ):
            known = any(place.entry.is_known for place in members)
            old = any(place.entry.span < span for place in members)
            order = (known, old, members[0].alike, members[0].entry.sha256)
            candidates.append((order, members))
    if candidates:
        for place in min(candidates, key=lambda each: each[0])[1]:
            place.entry.split = name


def _spare(there: Sequence[_Place], name: str, group: bool) -> Iterator[list[_Place]]:
    """Yield the groups that their split can spare."""
    splits: dict[str, dict[int, list[_Place]]] = {}
    for place in there:
        splits.setdefault(place.entry.split, {}).setdefault(place.group, []).append(place)
    for split, groups in splits.items():
        (first, *others) = groups.values()
        if others or (split == "test" and name != "test"):
            yield from groups.values()
        elif not group and len(first) > 1:
            yield from ([place] for place in first)
