"""The inputs and their outcomes before decoding: duplicates, conflicts and splits."""

from __future__ import annotations

import dataclasses
import hashlib
import sys
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, NamedTuple

from components.image_example_gen import spans, splitting
from components.image_example_gen.dataset import DataSet, SpanUnit
from components.image_example_gen.files import Unusable
from components.image_example_gen.sources.base import Item
from components.parallel import quick_in_order
from components.progress import Counter

if TYPE_CHECKING:
    from components.image_example_gen.ledger import Ledger

# SQL conditions on a ledger: inputs that can be used, and those that become examples.
USABLE = "kind IS NULL"
KEPT = f"{USABLE} AND same_as IS NULL AND NOT is_outside"

# Kinds of problems that may appear or disappear while the content stays the same.
PASSING = ("changed", "unreadable")

QUARANTINED = "quarantined"
RELABELLED = "relabelled"
OUTSIDE = "of spans before the window"

# Of copies in several splits the held-out one is kept, so that evaluations stay comparable.
_HELD_OUT_FIRST = {"test": 0, "eval": 1}


class Problem(NamedTuple):
    """Why an input is quarantined: the kind that is counted, and the detail of this input."""

    kind: str
    detail: str

    def __str__(self) -> str:
        return f"{self.kind}: {self.detail}" if self.detail else self.kind


@dataclasses.dataclass(slots=True)
class Input:
    """One input and its outcome: an example of `split`, a duplicate, or quarantined.

    Attributes:
      name: unique path within the data set.
      label: class name.
      split: name of the split; "" if it is not decided yet.
      sha256: hex digest of the bytes; "" if they cannot be read.
      span: number of its span.
      problem: why it is quarantined, if it is.
      duplicate_of: name of the kept input with the same bytes.
      span_name: such as a date.
      is_given: the source names the split; otherwise it is drawn.
      is_known: an earlier ingest assigned the split.
      is_outside: a train image of a span outside of the window, which is not used.
      drawn: the split before `splitting.fill`.
      id: number in a ledger.
      same_as: id of the kept input with the same bytes.
      is_done: the example is written.
    """

    name: str
    label: str
    split: str
    sha256: str
    span: int
    problem: Problem | None
    duplicate_of: str = ""
    span_name: str = ""
    is_given: bool = False
    is_known: bool = False
    is_outside: bool = False
    drawn: str = ""
    id: int = dataclasses.field(default=-1, compare=False)
    same_as: int | None = dataclasses.field(default=None, compare=False)
    is_done: bool = dataclasses.field(default=False, compare=False)

    @property
    def is_kept(self) -> bool:
        return self.problem is None and not self.duplicate_of and not self.is_outside

    @property
    def fate(self) -> str:
        """The name of its split, or why it is in none."""
        if self.problem:
            return QUARANTINED
        if self.is_outside:
            return OUTSIDE
        return "duplicate" if self.duplicate_of else self.split


# JSON-able: name, class, split, SHA-256 of the bytes, and kind and detail of a problem.
Row = tuple[str, str, str, str, tuple[str, str] | None]
# Reads units in any order and process, and yields the rows of each unit, in the units' order.
Reader = Callable[[Iterable[SpanUnit], int | None], Iterable[Iterable[Row]]]


def read_here(units: Iterable[SpanUnit], inputs: int | None) -> Iterator[list[Row]]:
    """Read units one after the other in this process."""
    with Counter("read", inputs, "inputs") as counter:
        for unit in units:
            yield read_unit(unit, counter)


def read_unit(unit: SpanUnit, counter: Counter) -> list[Row]:
    """Read and hash every input of a unit."""
    rows: list[Row] = []
    for item, sha256, problem in quick_in_order(_hashed, unit.items(), lambda item: item.size):
        rows.append((item.name, item.label, item.split, sha256, problem))
        counter.add()
    return rows


def scan(data: DataSet, read: Reader = read_here) -> Iterator[list[Input]]:
    """Read and hash every input, unit by unit."""
    for unit, rows in zip(data.units, read(data.units, data.inputs), strict=True):
        span_name = spans.name(unit.span, data.source)
        yield [
            Input(
                name,
                sys.intern(label),
                sys.intern(split),
                sha256,
                unit.span,
                Problem(*problem) if problem else None,
                span_name=span_name,
            )
            for name, label, split, sha256, problem in rows
        ]


def _hashed(item: Item) -> tuple[Item, str, Problem | None]:
    problem = Problem(*item.problem) if item.problem else None
    try:
        data = item.load()
    except Unusable as error:
        return item, "", problem or Problem(error.kind, error.detail)
    if not data and problem is None:
        problem = Problem("empty", "zero bytes")
    # Frees the memory of what was read.
    item = item._replace(load=bytes)
    return item, hashlib.sha256(data).hexdigest(), problem


def judge(
    ledger: Ledger,
    shares: Mapping[str, int],
    window: Collection[int] | None = None,
    earlier: Callable[[str], str] | None = None,
) -> None:
    """Find duplicates and conflicts, and assign the kept inputs to splits, as in `splitting`.

    The outcome depends on the set of inputs and on `earlier`, not on the order of inputs. Held-out
    images of spans outside of `window` are kept if their class has train images in the window.

    Args:
      ledger: all inputs.
      shares: split name to its share.
      window: numbers of the spans to train on, None for all.
      earlier: returns the split that an earlier ingest assigned to a SHA-256, "" for none.
    """
    given = set(ledger.values("split", f"{USABLE} AND split != ''"))
    for batch in ledger.batches(USABLE):
        for entry in batch:
            _split(entry, shares, given, earlier(entry.sha256) if earlier else "")
            _choose([entry], window)
        ledger.update(batch)
    for copies in ledger.copies():
        _choose(_agreed(copies), window)
        ledger.update(copies)
    # Before decoding, so that few images have to move afterwards, when near duplicates are known.
    splitting.fill(ledger, shares, window)
    if window is not None:
        ledger.leave_out(window)


def _agreed(copies: list[Input]) -> list[Input]:
    """Return the inputs, all of the same bytes, without those of wrong or conflicting labels.

    A later span corrects the labels of earlier ones.
    """
    newest = max(entry.span for entry in copies)
    latest = [entry for entry in copies if entry.span == newest]
    labels = sorted({entry.label for entry in latest})
    name = latest[0].span_name or newest
    shown = ", ".join(map(repr, labels))
    for entry in copies:
        entry.is_outside = False
        if len(labels) > 1:
            entry.problem = Problem("conflict", f"the same bytes are labelled {shown}")
        elif entry.label != labels[0]:
            entry.problem = Problem(RELABELLED, f"span {name} labels the same bytes {shown}")
    return [entry for entry in copies if entry.problem is None]


def _choose(copies: list[Input], window: Collection[int] | None) -> None:
    """Keep one of the inputs, which all have the same bytes and label."""

    def is_old(entry: Input) -> bool:
        return window is not None and entry.span not in window

    copies.sort(
        key=lambda entry: (
            _HELD_OUT_FIRST.get(entry.split, 2),
            is_old(entry),
            entry.span,
            entry.name,
        )
    )
    for place, entry in enumerate(copies):
        entry.is_outside = is_old(copies[0]) and copies[0].split == "train"
        if place and not entry.is_outside:
            entry.duplicate_of, entry.same_as = copies[0].name, copies[0].id


def _split(entry: Input, shares: Mapping[str, int], given: set[str], known: str) -> None:
    entry.is_given = bool(entry.split) and (entry.split != "train" or "eval" in given)
    if entry.split == "train" and not entry.is_given:
        # Without an eval split in the source, a part of its train split becomes one.
        shares = {name: share for name, share in shares.items() if name not in given - {"train"}}
    if not entry.is_given:
        entry.is_known = bool(known)
        entry.split = known or split_of(entry.sha256, shares)
    entry.drawn = entry.split


def split_of(sha256: str, shares: Mapping[str, int]) -> str:
    """Draw the split of an image from its content, independent of its name and of other images.

    Args:
      sha256: hex digest of the input's bytes.
      shares: split name to its share, a positive number of hash buckets.
    """
    position = int(sha256, 16) % sum(shares.values())
    for name, share in shares.items():
        if position < share:
            return name
        position -= share
    raise ValueError(f"no shares: {dict(shares)}")
