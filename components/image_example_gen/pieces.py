"""The remaining work of an ingest, derived from its ledger."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from components import reuse
from components.image_example_gen.dataset import DataSet, SpanUnit
from components.image_example_gen.inputs import KEPT, Input
from components.image_example_gen.ledger import Ledger
from components.image_example_gen.writing import Target, Work

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
