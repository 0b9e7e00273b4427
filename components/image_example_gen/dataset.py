"""A data set: the listings of a source's spans, and the digest of all that they hold."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections import Counter
from collections.abc import Iterator, Sequence

from components.image_example_gen import files, source_name, spans
from components.image_example_gen.options import Options
from components.image_example_gen.sources import list_source
from components.image_example_gen.sources.base import Content, Item, Listing, Unit
from components.parallel import in_order

MAX_READINGS = 6  # that are shown, of spans that are read differently


@dataclasses.dataclass(frozen=True)
class SpanUnit:
    """A unit of one span."""

    unit: Unit
    span: int
    prefix: str

    def items(self) -> Iterator[Item]:
        for item in self.unit.items():
            yield dataclasses.replace(item, name=self.prefix + item.name)


@dataclasses.dataclass(frozen=True)
class DataSet:
    """Everything that an ingest reads.

    `source` is for messages. `window` has the numbers of the spans to train on; of others only what
    is held out counts. `reading` tells how the source was read, and `declared` which classes it
    says it has; see `Listing`.
    """

    source: str
    spans: Sequence[spans.Span]
    units: list[SpanUnit]
    contents: list[Content]
    ignored: Counter[str]
    notes: list[str]
    hint: str
    window: frozenset[int]
    reading: Sequence[tuple[str, str]] = ()
    declared: frozenset[str] = frozenset()

    @property
    def read_as(self) -> list[str]:
        """`reading` as lines."""
        return [f"{what.lower()}: {how}" for what, how in self.reading]

    @property
    def inputs(self) -> int | None:
        """How many inputs there are, where all units know."""
        counts = [unit.unit.inputs for unit in self.units]
        return None if None in counts else sum(count or 0 for count in counts)


def list_data(
    source: str, options: Options, resolved: Sequence[spans.Span] | None = None
) -> DataSet:
    """List `source`, or of its spans those that were `resolved` before. Raises BadDataError."""
    kind, location = source_name.parse(source)
    chosen = spans.resolve(location, options) if resolved is None else resolved
    units: list[SpanUnit] = []
    contents: list[Content] = []
    ignored: Counter[str] = Counter()
    notes: list[str] = []
    reading: list[tuple[str, str]] = []
    declared: set[str] = set()
    listing = Listing([], [])
    for span in chosen:
        listing = list_source(source_name.SourceName(kind, span.location), options)
        prefix = spans.prefix(span, location)
        units += [SpanUnit(unit, span.number, prefix) for unit in listing.units]
        contents += [
            Content(json.dumps([span.number, prefix, identity]), path)
            for identity, path in listing.contents
        ]
        ignored.update(listing.ignored)
        notes += [prefix + note for note in listing.notes]
        reading += listing.reading
        declared.update(listing.declared)
    ignored = +ignored  # without what was counted as zero
    window = spans.window(chosen, options)
    told = spans.told(location, chosen, window)
    # Spans are mostly read alike.
    merged = list(dict.fromkeys(reading))[:MAX_READINGS]
    if ignored:
        merged.append(("Ignored", ", ".join(f"{n:,} {reason}" for reason, n in ignored.items())))
    return DataSet(
        source,
        chosen,
        units,
        contents,
        ignored,
        notes,
        listing.hint,
        window,
        reading=[("Spans", told), *merged] if told else merged,
        declared=frozenset(declared),
    )


def fingerprint(data: DataSet) -> str:
    """Digest of every input's name, class, split and bytes; of no time of modification."""

    def entry(content: Content) -> str:
        return json.dumps([content.identity, files.digest(content.path) if content.path else ""])

    total = hashlib.sha256()
    for line in in_order(entry, sorted(data.contents), lambda _: 0):
        total.update(f"{line}\n".encode())
    return total.hexdigest()
