"""A data set: the listings of a source's spans, and a digest of their content."""

from __future__ import annotations

import dataclasses
import hashlib
import itertools
import json
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

from components import storage
from components.image_example_gen import files, scratch, source_name, spans
from components.image_example_gen.options import Options
from components.image_example_gen.sources import list_source
from components.image_example_gen.sources.base import Item, Listing, Unit
from components.parallel import quick_in_order

MAX_READINGS = 6  # most that are shown, if spans are read differently


@dataclasses.dataclass(frozen=True)
class SpanUnit:
    """A unit of one span."""

    unit: Unit
    span: int
    prefix: str

    def items(self) -> Iterator[Item]:
        for item in self.unit.items():
            yield dataclasses.replace(item, name=self.prefix + item.name)


class Hashed(NamedTuple):
    """A `Content`, and the digest of its bytes if known."""

    identity: str
    path: str
    digest: str = ""


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

    def contents(self, hashes: Iterator[str] | None = None) -> Iterator[Hashed]:
        """Yield everything that the outcome of an ingest depends on, in any order.

        hashes: SHA-256 of each input in order, "" if unknown; None if all are unknown.
        """
        for part in self.parts:
            listing = part.listing
            known: Iterator[str] = iter(())
            if hashes is not None and listing.are_files:
                known = itertools.islice(hashes, listing.inputs)
            for identity, path in listing.contents():
                told = json.dumps([part.span, part.prefix, identity])
                sha256 = next(known, "")
                # An object store has its own digests, for which no file is read.
                yield Hashed(told, path, "" if storage.is_uri(path) else sha256)


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


def fingerprint(data: DataSet, hashes: Iterator[str] | None = None) -> str:
    """Compute a digest of the name, class, split and bytes of every input.

    Times of modification do not count.

    Args:
      data: the data set.
      hashes: SHA-256 of each input in order, "" for inputs that could not be read; None: every file
        is read.
    """

    def entry(content: Hashed) -> str:
        digest = content.digest
        if content.path and not digest:
            digest = files.digest(content.path)
        return json.dumps([content.identity, digest if content.path else ""])

    total = hashlib.sha256()
    if not all(part.listing.are_files for part in data.parts):
        hashes = None
    for line in quick_in_order(entry, _sorted(data.contents(hashes)), lambda _: 0):
        total.update(f"{line}\n".encode())
    return total.hexdigest()


def _sorted(contents: Iterable[Hashed]) -> Iterator[Hashed]:
    base = scratch.database("CREATE TABLE contents (identity TEXT, path BLOB, digest TEXT)")
    rows = ((each.identity, scratch.to_blob(each.path), each.digest) for each in contents)
    base.executemany("INSERT INTO contents VALUES (?, ?, ?)", rows)
    for identity, path, digest in base.execute("SELECT * FROM contents ORDER BY 1, 2"):
        yield Hashed(identity, scratch.to_text(path), digest)
