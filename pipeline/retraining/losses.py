"""Images of the last training that are missing or relabelled, by content."""

from __future__ import annotations

import dataclasses
import hashlib
from collections import Counter
from collections.abc import Collection, Sequence
from typing import Any

from components.image_example_gen.options import Options
from components.wording import counted, quoted
from pipeline.retraining.inventory import Inventory

_EMPTY = hashlib.sha256(b"").hexdigest()
# Of a class that has lost so much, what is left is chance: a disk that is half there.
_VANISHED = 0.9
# Of a class that has another label for so many of its images, the names were confused.
_CONFUSED, _FEWEST = 0.5, 5


@dataclasses.dataclass(frozen=True)
class Losses:
    """Images of the last training that are missing or relabelled.

    Attributes:
      images: number of missing images, equal ones counted once.
      of: number of images of the last training.
      vanished: classes that lost nine in ten images or more.
      renamed: classes that no longer exist, but whose images do under other labels.
      relabelled: number of images with another label, where both labels are classes then and now.
      confused: classes of which at least half, and at least five, images are relabelled.
      is_known: whether the inventory of the last training is available.
    """

    images: int = 0
    of: int = 0
    vanished: tuple[str, ...] = ()
    renamed: tuple[str, ...] = ()
    relabelled: int = 0
    confused: tuple[str, ...] = ()
    is_known: bool = True

    def exceed(self, max_removed: float) -> bool:
        """Return whether more than that share, or a whole class, is missing; never for 1."""
        if max_removed >= 1:
            return False
        return self.images > max_removed * self.of or bool(self.vanished) or not self.is_known

    def contradict(self, max_relabelled: float) -> bool:
        """Return whether more than that share, or most of a class, is relabelled."""
        return max_relabelled < 1 and (
            self.relabelled > max_relabelled * self.of or bool(self.confused)
        )

    def __str__(self) -> str:
        if not self.is_known:
            return (
                "the list of images of the last training is missing, so losses cannot be ruled out"
            )
        verb = "is" if self.images == 1 else "are"
        found = (
            f"{self.images:,} of {counted(self.of, 'image')} of the last training {verb} missing"
        )
        if self.vanished:
            found += f", and with them the {_classes(self.vanished)}"
        if self.relabelled:
            found += f"; {self.relabelled_text}"
        return found

    @property
    def relabelled_text(self) -> str:
        """Describe the number of relabelled images."""
        found = (
            f"{self.relabelled:,} of {counted(self.of, 'image')} of the last training "
            f"{'has' if self.relabelled == 1 else 'have'} the label of another class now"
        )
        return found + (f", such as most of the {_classes(self.confused)}" if self.confused else "")

    def as_json(self) -> dict[str, Any]:
        return dataclasses.asdict(self)


def find(before: Inventory, now: Inventory, spans: Collection[int], options: Options) -> Losses:
    """Compare the inventory of the last training with the current one.

    Images that were renamed, relabelled or edited, and images that a rolling window left behind,
    are not lost. Quarantined images do not count, and neither does the number of copies.

    Args:
      before: inventory of the last training.
      now: current inventory.
      spans: numbers of the spans that it covers.
      options: the selection of spans.
    """
    there = {entry.sha256 for entry in now.values() if _has_bytes(entry.sha256)}
    labels = {entry.label for entry in now.values() if _has_bytes(entry.sha256)}
    latest = _latest_labels(now)
    classes = set().union(*latest.values())
    known: dict[str, str] = {}
    gone: set[str] = set()
    for name, entry in before.items():
        if not entry.is_used or _is_left_behind(entry.span, spans, options):
            continue
        known[entry.sha256] = entry.label
        changed = name in now and _has_bytes(now[name].sha256)
        if entry.sha256 not in there and not changed:
            gone.add(entry.sha256)
    total = Counter(known.values())
    lost = Counter(known[sha256] for sha256 in gone)
    moved = Counter(
        label
        for sha256, label in known.items()
        if label in classes
        and (today := latest.get(sha256))
        and label not in today
        and not today.isdisjoint(total)
    )
    return Losses(
        images=len(gone),
        of=len(known),
        vanished=tuple(sorted(name for name in total if lost[name] >= _VANISHED * total[name])),
        renamed=tuple(sorted(name for name in total if name not in labels and not lost[name])),
        relabelled=moved.total(),
        confused=tuple(sorted(n for n in moved if moved[n] >= max(_FEWEST, _CONFUSED * total[n]))),
    )


def _classes(names: Sequence[str]) -> str:
    return f"{'class' if len(names) == 1 else 'classes'} {quoted(names)}"


def _latest_labels(inventory: Inventory) -> dict[str, set[str]]:
    """Return the labels by content, from the newest span that has it."""
    found: dict[str, tuple[int, set[str]]] = {}
    for entry in inventory.values():
        if _has_bytes(entry.sha256):
            span, labels = found.setdefault(entry.sha256, (entry.span, set()))
            if entry.span > span:
                found[entry.sha256] = (entry.span, {entry.label})
            elif entry.span == span:
                labels.add(entry.label)
    return {sha256: labels for sha256, (_, labels) in found.items()}


def _has_bytes(sha256: str) -> bool:
    return sha256 not in ("", _EMPTY)


def _is_left_behind(span: int, spans: Collection[int], options: Options) -> bool:
    """Return whether the options exclude a span that may still exist."""
    if options.held_out == "all" or span in spans:
        return False
    if options.first_span is not None or options.last_span is not None:
        first = options.first_span or 0
        last = span if options.last_span is None else options.last_span
        return not first <= span <= last
    return len(spans) >= options.spans and span < min(spans, default=0)
