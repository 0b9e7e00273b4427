"""A data set: the listings of a source's spans."""

from __future__ import annotations

import dataclasses
import json
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from components.image_example_gen import source_name, spans
from components.image_example_gen.options import Options
from components.image_example_gen.sources import list_source
from components.image_example_gen.sources.base import Content, Item, Listing, Unit

MAX_READINGS = 6  # most that are shown, if spans are read differently


@dataclasses.dataclass(frozen=True)
class SpanUnit:
    """A unit of one span."""

    unit: Unit
    span: int
    prefix: str

    def items(self) -> Iterator[Item]:
        for item in self.unit.items():
            yield item._replace(name=self.prefix + item.name)


class Part(NamedTuple):
    """A span, the prefix of its inputs' names, and its listing."""

    span: int
    prefix: str
    listing: Listing


@dataclasses.dataclass(frozen=True)
class DataSet:
    """Everything that an ingest reads.

    `source` is for messages. `window` has the numbers of the spans to train on; from other spans
    only held-out images are used. For `reading` and `declared` see `Listing`.
    """

    source: str
    spans: Sequence[spans.Span]
    parts: Sequence[Part]
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
        """The number of inputs, None if a listing does not know it."""
        counts = [part.listing.inputs for part in self.parts]
        return None if None in counts else sum(count or 0 for count in counts)

    @property
    def units(self) -> Iterator[SpanUnit]:
        """All units, created one at a time, as together they name every input."""
        for part in self.parts:
            for index in range(len(part.listing.units)):
                yield SpanUnit(part.listing.units[index], part.span, part.prefix)

    @property
    def is_remote(self) -> bool:
        """Whether any file is in an object store."""
        return any(part.listing.is_remote for part in self.parts)

    def contents(self) -> Iterator[Content]:
        """Yield everything that the outcome of an ingest depends on, in any order."""
        for part in self.parts:
            for identity, path in part.listing.contents():
                yield Content(json.dumps([part.span, part.prefix, identity]), path)


def list_data(
    source: str, options: Options, resolved: Sequence[spans.Span] | None = None
) -> DataSet:
    """List the spans of `source`, or those in `resolved`. Raises BadDataError."""
    kind, location = source_name.parse(source)
    chosen = spans.resolve(location, options) if resolved is None else resolved
    parts = [
        Part(
            span.number,
            spans.prefix(span, location),
            list_source(source_name.SourceName(kind, span.location), options),
        )
        for span in chosen
    ]
    listings = [part.listing for part in parts]
    ignored = +sum((each.ignored for each in listings), Counter[str]())  # without zeros
    window = spans.window(chosen, options)
    told = spans.told(location, chosen, window)
    # Most spans are read in the same way.
    lines = [line for each in listings for line in each.reading]
    merged = list(dict.fromkeys(lines))[:MAX_READINGS]
    if ignored:
        merged.append(("Ignored", ", ".join(f"{n:,} {reason}" for reason, n in ignored.items())))
    return DataSet(
        source,
        chosen,
        parts,
        ignored,
        [part.prefix + note for part in parts for note in part.listing.notes],
        listings[-1].hint if listings else "",
        window,
        reading=[("Spans", told), *merged] if told else merged,
        declared=frozenset(name for each in listings for name in each.declared),
    )
