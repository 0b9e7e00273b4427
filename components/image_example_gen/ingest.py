"""The ingest from end to end; reading and decoding run in a Beam pipeline or in this process."""

from __future__ import annotations

import dataclasses
import os
import shlex
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

from components import reuse
from components.errors import BadDataError
from components.image_example_gen import findings, near_duplicates, similar, spans, writing
from components.image_example_gen.accounting import (
    DUPLICATES,
    NEAR_DUPLICATES,
    QUARANTINE,
    Accounting,
    varied,
    write_accounting,
    write_lines,
)
from components.image_example_gen.assignments import Assignments
from components.image_example_gen.dataset import DataSet
from components.image_example_gen.findings import Pair
from components.image_example_gen.fingerprint import read_all
from components.image_example_gen.grouping import settle
from components.image_example_gen.inputs import KEPT, OUTSIDE, USABLE, judge
from components.image_example_gen.ledger import Ledger
from components.image_example_gen.options import Options
from components.image_example_gen.pieces import Pieces
from components.image_example_gen.splitting import SPLITS
from components.image_example_gen.writing import Outcome, Work
from components.wording import other_files, quoted, shortened

# Does the work in any order and process, and yields the outcomes of each unit. They are stored in
# the ledger before the next unit is requested.
Worker = Callable[[Pieces], Iterator[tuple[Work, list[Outcome]]]]

HELD_OUT = SPLITS[1:]
MAX_PAIRS_LISTED = 10_000
MAX_BAD_LISTED = 20  # in an error


@dataclasses.dataclass(frozen=True)
class Ingest:
    """The outcome: record, number of images by file, all inputs, and pairs that look the same."""

    accounting: Accounting
    shards: Mapping[str, int]
    ledger: Ledger
    near_duplicates: list[dict[str, Any]]
    assignments: Assignments

    @property
    def quarantine(self) -> Iterator[dict[str, Any]]:
        """The unusable inputs, by name."""
        for entry in self.ledger.entries(f"NOT ({USABLE})", "name, +id"):
            yield {
                "path": entry.name,
                "sha256": entry.sha256 or None,
                "kind": entry.problem and entry.problem.kind,
                "reason": str(entry.problem),
            }

    @property
    def duplicates(self) -> Iterator[dict[str, Any]]:
        """The duplicates, by name."""
        for entry in self.ledger.entries("same_as IS NOT NULL", "name, +id"):
            yield {"path": entry.name, "sha256": entry.sha256, "same_as": entry.duplicate_of}

    @property
    def inputs(self) -> Iterator[dict[str, Any]]:
        """All inputs, by unit."""
        for entry in self.ledger.entries():
            yield {
                "path": entry.name,
                "label": entry.label,
                "sha256": entry.sha256 or None,
                "span": entry.span,
                "fate": entry.fate,
            }

    def write(self, folder: str) -> None:
        """Write the record and the lists."""
        write_accounting(self.accounting, folder)
        reuse.write_shards(folder, self.shards)
        self.assignments.write(folder)
        write_lines(self.inputs, os.path.join(folder, reuse.INPUTS_FILE))
        write_lines(self.quarantine, os.path.join(folder, QUARANTINE))
        write_lines(self.duplicates, os.path.join(folder, DUPLICATES))
        write_lines(self.near_duplicates, os.path.join(folder, NEAR_DUPLICATES))

    def check(self, splits: Iterable[str], source: str, options: Options) -> None:
        """Raise BadDataError if the data cannot be trained on."""
        record = self.accounting
        if record.all_quarantined > options.max_bad_fraction * record.inputs:
            worst = Counter(record.quarantined).most_common()
            kinds = ", ".join(f"{count:,} {kind}" for kind, count in worst)
            named = shortened([self._first(kind) for kind, _ in worst], "; ")
            lines = varied(self.quarantine, MAX_BAD_LISTED)
            listed = [f"{line['path']}: {line['reason']}" for line in lines]
            more = record.all_quarantined - MAX_BAD_LISTED
            raise BadDataError(
                f"{source}: {record.all_quarantined:,} of {record.inputs:,} inputs cannot be used, "
                f"more than data.max_bad_fraction = {options.max_bad_fraction:g} allows ({kinds}): "
                f"{named}. `perennial data check {shlex.quote(source)} --quarantine FILE` "
                "lists them all",
                findings=[*listed, *([f"and {more:,} more"] if more > 0 else [])],
            )
        self._check_lost(source)
        if len(record.classes) < 2:
            found = f"only one class, {record.classes[0]!r}" if record.classes else "no class"
            raise BadDataError(f"{source}: {found}; a classifier needs two with images at least")
        if record.similar and options.similar_classes == "stop":
            shown = shortened([quoted(names) for names in record.similar], "; ")
            raise BadDataError(
                f"{source}: names of classes look alike, and so may mean the same: {shown}; give "
                "them one name, or take them for different classes with "
                "--set data.similar_classes=keep",
                findings=[quoted(names) for names in record.similar],
            )
        record.check_splits(splits, source)
        record.check_eval(options.min_eval, source)

    def _first(self, kind: str) -> str:
        (first,) = self.ledger.entries("kind = ?", "name, +id LIMIT 1", kind)
        return f"{first.name} ({first.problem})"

    def _check_lost(self, source: str) -> None:
        """Raise BadDataError if all images of a class are quarantined."""
        record = self.accounting
        bad = set(self.ledger.values("label", f"NOT ({USABLE})"))
        lost = [name for name in record.classes if name in bad and not record.images(name)]
        if lost:
            found = [
                f"{entry.name}: {entry.problem}"
                for name in lost
                for entry in self.ledger.bad_of_class(name, MAX_BAD_LISTED)
            ]
            raise BadDataError(
                f"{source}: all images of {quoted(lost)} are quarantined, such as {found[0]}; "
                "correct them, or leave the class out (by data.ignore, or by removing its rows)",
                findings=found[:MAX_BAD_LISTED],
            )


def ingest(
    data: DataSet,
    shares: Mapping[str, int],
    options: Options,
    work: Worker,
    output: str | None = None,
    code: str = "",
    earlier: Assignments | None = None,
    ledger: Ledger | None = None,
) -> Ingest:
    """Read every input, assign it to a split, decode it, and record the outcome.

    Args:
      data: the data set.
      shares: split name to its share of the images that the source puts into no split.
      options: how it is read, and whether near duplicates are put into one split.
      work: runs `writing.write` on each piece of work.
      output: folder of the Examples artifact; None to write nothing.
      code: fingerprint of the source code.
      earlier: the splits that earlier ingests of the workspace assigned.
      ledger: the inputs as they were read; None: they are read here.

    Raises BadDataError if there are no inputs.
    """
    ledger = read_all(data) if ledger is None else ledger
    if not len(ledger):
        raise BadDataError(f"{data.source}: no images found{_among(data)}; {data.hint}")
    window = data.window if options.held_out == "all" else None
    earlier = earlier or Assignments("")
    judge(ledger, shares, window, earlier.of)
    classes = ledger.classes(data.window)
    pieces = Pieces(data, ledger, classes, reuse.key(code, options.max_pixels))
    files: dict[str, int] = {}
    for piece, outcomes in work(pieces):
        ledger.settle(piece.index, outcomes)
        files |= writing.shards(piece, outcomes)
    ledger.share_problems()
    pairs = near_duplicates.find(*ledger.thumbs())
    settle(ledger, pairs, shares, options.group_near_duplicates, window)
    moves = ledger.moves()
    ledger.share_problems()
    if output is not None and moves:
        changed = files | writing.move(output, files, moves)
        files = {name: count for name, count in changed.items() if count is not None}
    earlier.update(ledger.splits())
    paired = ledger.of({at for pair in pairs for at in pair})
    alike = [(paired[pair.first], paired[pair.second]) for pair in pairs]
    alike = [pair for pair in alike if pair[0].is_kept and pair[1].is_kept]
    return Ingest(
        accounting=_account(data, ledger, classes, alike),
        shards=files,
        ledger=ledger,
        near_duplicates=[
            _near_duplicate_row(pair) for pair in sorted(alike, key=_by_weight)[:MAX_PAIRS_LISTED]
        ],
        assignments=earlier,
    )


def _among(data: DataSet) -> str:
    if not data.ignored:
        return ""
    kinds = [f"{count:,} {reason}" for reason, count in data.ignored.most_common()]
    return f" among {other_files(data.ignored.total())}: {shortened(kinds)}"


def _account(data: DataSet, ledger: Ledger, classes: list[str], pairs: list[Pair]) -> Accounting:
    counts = ledger.table()
    found = {split for split, _ in counts}
    across_splits = [pair for pair in pairs if pair[0].split != pair[1].split]
    across_classes = [pair for pair in pairs if pair[0].label != pair[1].label]
    outside = ledger.count("is_outside")
    accounting = Accounting(
        classes=classes,
        splits={
            split: {label: counts[split, label] for label in classes if counts[split, label]}
            for split in SPLITS
            if split in found
        },
        inputs=len(ledger) - outside,
        duplicates=ledger.count("same_as IS NOT NULL"),
        quarantined=ledger.counts("kind", f"NOT ({USABLE})"),
        ignored=dict(sorted((data.ignored + Counter({OUTSIDE: outside})).items())),
        normalized=ledger.counts("normalized", f"{KEPT} AND normalized != 'none'"),
        spans=[span.number for span in data.spans],
        span_names=[spans.name(span.number, data.source) for span in data.spans],
        held_out={split: ledger.digest(split) for split in HELD_OUT if split in found},
        near_duplicates={
            "pairs": len(pairs),
            "across_splits": len(across_splits),
            "across_classes": len(across_classes),
        },
        findings=[
            *data.notes,
            *findings.of_names(data.declared, classes),
            *findings.of_pairs(across_splits, across_classes),
            *findings.of_splits(ledger),
            *findings.of_classes(counts, classes),
            *findings.of_sizes(ledger),
        ],
        similar=similar.groups(classes),
        reading=[list(line) for line in data.reading],
    )
    accounting.check_balance()
    return accounting


def _near_duplicate_row(pair: Pair) -> dict[str, Any]:
    return {
        "paths": [entry.name for entry in pair],
        "classes": [entry.label for entry in pair],
        "splits": [entry.split for entry in pair],
    }


def _by_weight(pair: Pair) -> tuple[bool, bool]:
    """Sort pairs of different classes or splits first, as only MAX_PAIRS_LISTED are kept."""
    first, second = pair
    return first.label == second.label, first.split == second.split


def work_here(options: Options) -> Worker:
    """Return a worker that decodes in this process and writes nothing."""

    def work(pieces: Pieces) -> Iterator[tuple[Work, list[Outcome]]]:
        images = pieces.images
        for piece in pieces:
            yield piece, writing.write(piece, options.max_pixels, images, None)

    return work


def split_names(shares: Mapping[str, int], accounting: Accounting) -> list[str]:
    """List the splits of the output: those with a share, and those that the source names."""
    return [name for name in SPLITS if name in shares or name in accounting.splits]
