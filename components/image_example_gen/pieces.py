"""The work that an ingest still has to do, made of its ledger as often as it is asked for."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from components import reuse
from components.image_example_gen.dataset import DataSet, SpanUnit
from components.image_example_gen.inputs import KEPT, Input
from components.image_example_gen.ledger import Ledger
from components.image_example_gen.writing import Target, Work

_LEFT = f"{KEPT} AND width IS NULL"


class Pieces:
    """The inputs that are still to be written, a `Work` for each unit that has any.

    Args:
      data: what is read.
      ledger: what its inputs are to become.
      classes: sorted names.
      made_by: digest of all that the outcome depends on beside the inputs.
    """

    def __init__(self, data: DataSet, ledger: Ledger, classes: Sequence[str], made_by: str) -> None:
        self._data, self._ledger, self._made_by = data, ledger, made_by
        self._ids = {name: index for index, name in enumerate(classes)}

    @property
    def images(self) -> int:
        """How many images are left."""
        return self._ledger.count(_LEFT)

    @property
    def splits(self) -> list[str]:
        """Those that images are in."""
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
