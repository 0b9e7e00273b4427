"""The ingest from end to end, whoever runs its heavy part: a Beam pipeline or this process."""

from __future__ import annotations

import dataclasses
import itertools
import os
import shlex
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
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
from components.image_example_gen.grouping import settle
from components.image_example_gen.inputs import (
    INPUTS_FILE,
    OUTSIDE,
    RELABELLED,
    Input,
    Problem,
    Reader,
    judge,
    read_here,
    scan,
)
from components.image_example_gen.options import Options
from components.image_example_gen.splitting import SPLITS
from components.image_example_gen.writing import Facts, Outcome, Target, Work
from components.wording import other_files, quoted, shortened

# Does the work, in any order and anywhere, and returns each one's outcomes by its index.
Worker = Callable[[Sequence[Work], int], Mapping[int, list[Outcome]]]

HELD_OUT = SPLITS[1:]
MAX_PAIRS_LISTED = 10_000
MAX_BAD_LISTED = 20  # where there are too many to go on


@dataclasses.dataclass(frozen=True)
class Ingest:
    """The outcome: the record, images by file, and the lines of its lists."""

    accounting: Accounting
    shards: Mapping[str, int]
    inputs: list[dict[str, Any]]
    quarantine: list[dict[str, Any]]
    duplicates: list[dict[str, Any]]
    near_duplicates: list[dict[str, Any]]
    assignments: Assignments

    def write(self, folder: str) -> None:
        """Write the record and the lists."""
        write_accounting(self.accounting, folder)
        reuse.write_shards(folder, self.shards)
        self.assignments.write(folder)
        write_lines(self.inputs, os.path.join(folder, INPUTS_FILE))
        write_lines(self.quarantine, os.path.join(folder, QUARANTINE))
        write_lines(self.duplicates, os.path.join(folder, DUPLICATES))
        write_lines(self.near_duplicates, os.path.join(folder, NEAR_DUPLICATES))

    def check(self, splits: Iterable[str], source: str, options: Options) -> None:
        """Raise BadDataError where the data is not fit to train on."""
        record = self.accounting
        if record.all_quarantined > options.max_bad_fraction * record.inputs:
            worst = Counter(record.quarantined).most_common()
            kinds = ", ".join(f"{count:,} {kind}" for kind, count in worst)
            first = {line["kind"]: line for line in reversed(self.quarantine)}
            named = shortened(
                [f"{first[kind]['path']} ({first[kind]['reason']})" for kind, _ in worst], "; "
            )
            rows = [f"{line['path']}: {line['reason']}" for line in varied(self.quarantine)]
            more = len(rows) - MAX_BAD_LISTED
            raise BadDataError(
                f"{source}: {record.all_quarantined:,} of {record.inputs:,} inputs cannot be used, "
                f"more than data.max_bad_fraction = {options.max_bad_fraction:g} allows ({kinds}): "
                f"{named}. `perennial data check {shlex.quote(source)} --quarantine FILE` "
                "lists them all",
                findings=[*rows[:MAX_BAD_LISTED], *([f"and {more:,} more"] if more > 0 else [])],
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

    def _check_lost(self, source: str) -> None:
        """Raise BadDataError where all that there is of a class is quarantined."""
        record = self.accounting
        labels = {row["path"]: row["label"] for row in self.inputs}
        rows: dict[str, list[str]] = {}
        for line in self.quarantine:
            label = labels[line["path"]]
            rows.setdefault(label, []).append(f"{line['path']}: {line['reason']}")
        lost = [name for name in record.classes if name in rows and not record.images(name)]
        if lost:
            every = [row for name in lost for row in rows[name]]
            raise BadDataError(
                f"{source}: all that there is of {quoted(lost)} is quarantined, such as "
                f"{every[0]}; put that right, or leave the class out (data.ignore, or without its "
                "rows)",
                findings=every[:MAX_BAD_LISTED],
            )


def ingest(
    data: DataSet,
    shares: Mapping[str, int],
    options: Options,
    work: Worker,
    output: str | None = None,
    code: str = "",
    earlier: Assignments | None = None,
    read: Reader = read_here,
) -> Ingest:
    """Read, judge and decode every input, and account for it.

    Args:
      data: what to read.
      shares: split name to its share of what the source itself does not put into a split.
      options: how it is read, and whether near duplicates are put into one split.
      work: runs `writing.write` on each piece of work.
      output: folder of the Examples artifact, None where nothing is written.
      code: fingerprint of the source code.
      earlier: the splits that earlier ingests of the workspace decided on.
      read: reads and hashes the inputs.

    Raises BadDataError where there is nothing to ingest.
    """
    units = scan(data, read)
    inputs = [entry for unit in units for entry in unit]
    if not inputs:
        among = ""
        if data.ignored:
            kinds = [f"{count:,} {reason}" for reason, count in data.ignored.most_common()]
            among = f" among {other_files(data.ignored.total())}: {shortened(kinds)}"
        raise BadDataError(f"{data.source}: no images found{among}; {data.hint}")
    window = data.window if options.held_out == "all" else None
    earlier = earlier or Assignments("")
    judge(inputs, shares, window, earlier.of)
    classes = sorted({entry.label for entry in inputs if _tells_class(entry, data.window)})
    pieces = _pieces(data, units, classes, reuse.key(code, options.max_pixels))
    outcomes = work(pieces, sum(entry.is_kept for entry in inputs))
    facts = _settle(units, outcomes)
    files: dict[str, int] = {}
    for piece in pieces:
        files |= writing.shards(piece, outcomes[piece.index])
    kept = [entry for entry in inputs if entry.is_kept]
    thumbs = [facts[entry.name].thumb for entry in kept]
    pairs = near_duplicates.find(thumbs)
    moves = _moves(kept, lambda: settle(kept, pairs, shares, options.group_near_duplicates, window))
    dropped = {entry.name: entry.problem for entry in kept if entry.problem}
    _with_duplicates(inputs, dropped)
    facts = {name: fact for name, fact in facts.items() if name not in dropped}
    if output is not None and moves:
        changed = files | writing.move(output, files, moves)
        files = {name: count for name, count in changed.items() if count is not None}
    alike = [
        (kept[pair.first], kept[pair.second])
        for pair in pairs
        if kept[pair.first].is_kept and kept[pair.second].is_kept
    ]
    by_name = sorted(inputs, key=lambda entry: entry.name)
    return Ingest(
        accounting=_account(data, inputs, classes, facts, alike),
        shards=files,
        assignments=earlier.updated(inputs),
        inputs=[_input_row(entry) for entry in inputs],
        quarantine=[_quarantine_row(entry, entry.problem) for entry in by_name if entry.problem],
        duplicates=[_duplicate_row(entry) for entry in by_name if entry.duplicate_of],
        near_duplicates=[
            _near_duplicate_row(pair) for pair in sorted(alike, key=_by_weight)[:MAX_PAIRS_LISTED]
        ],
    )


def _tells_class(entry: Input, window: Collection[int]) -> bool:
    """Whether there is a class by its label: also where there is no image of it that can be used.

    A class of which everything is quarantined is not to go without a word.
    """
    if entry.problem is None:
        return not entry.is_outside
    return bool(entry.label) and entry.problem.kind != RELABELLED and entry.span in window


def _pieces(
    data: DataSet, units: list[list[Input]], classes: list[str], made_by: str
) -> list[Work]:
    ids = {name: index for index, name in enumerate(classes)}
    pieces = []
    for index, unit in enumerate(units):
        targets = tuple(
            Target(ids[entry.label], entry.split, entry.sha256) if entry.is_kept else None
            for entry in unit
        )
        kept = [
            (position, unit[position].name, unit[position].label, target)
            for position, target in enumerate(targets)
            if target
        ]
        keys = {
            split: reuse.key(
                made_by, data.units[index].span, [each for each in kept if each[3].split == split]
            )
            for split in sorted({target.split for _, _, _, target in kept})
        }
        pieces.append(Work(index, keys, data.units[index], targets))
    return pieces


def _settle(units: list[list[Input]], outcomes: Mapping[int, list[Outcome]]) -> dict[str, Facts]:
    """Note what became of each input. Returns the facts of each example, by name."""
    facts: dict[str, Facts] = {}
    broken: dict[str, Problem] = {}
    for index, unit in enumerate(units):
        for position, fate in outcomes[index]:
            entry = unit[position]
            if isinstance(fate, Problem):
                entry.problem = broken[entry.name] = fate
            else:
                facts[entry.name] = fate
    _with_duplicates(itertools.chain(*units), broken)
    return facts


def _with_duplicates(inputs: Iterable[Input], broken: Mapping[str, Problem]) -> None:
    """Have the duplicates of inputs with a problem, by name, share it."""
    for entry in inputs:
        if entry.duplicate_of in broken:
            entry.problem, entry.duplicate_of = broken[entry.duplicate_of], ""


def _moves(kept: Sequence[Input], change: Callable[[], None]) -> dict[str, tuple[str, str]]:
    """What `change` does to splits, by SHA-256: the old one and the new one, "" for none."""
    before = [entry.split for entry in kept]
    change()
    return {
        entry.sha256: (split, "" if entry.problem else entry.split)
        for entry, split in zip(kept, before, strict=True)
        if entry.problem or entry.split != split
    }


def _account(
    data: DataSet,
    inputs: list[Input],
    classes: list[str],
    facts: Mapping[str, Facts],
    pairs: list[Pair],
) -> Accounting:
    counts = Counter((entry.split, entry.label) for entry in inputs if entry.is_kept)
    found = {split for split, _ in counts}
    across_splits = [pair for pair in pairs if pair[0].split != pair[1].split]
    across_classes = [pair for pair in pairs if pair[0].label != pair[1].label]
    outside = sum(entry.is_outside for entry in inputs)
    accounting = Accounting(
        classes=classes,
        splits={
            split: {label: counts[split, label] for label in classes if counts[split, label]}
            for split in SPLITS
            if split in found
        },
        inputs=len(inputs) - outside,
        duplicates=sum(bool(entry.duplicate_of) for entry in inputs),
        quarantined=_counted(entry.problem.kind for entry in inputs if entry.problem),
        ignored=dict(sorted((data.ignored + Counter({OUTSIDE: outside})).items())),
        normalized=_counted(
            fact.normalized for fact in facts.values() if fact.normalized != "none"
        ),
        spans=[span.number for span in data.spans],
        span_names=[spans.name(span.number, data.source) for span in data.spans],
        held_out={split: _digest(inputs, split) for split in HELD_OUT if split in found},
        near_duplicates={
            "pairs": len(pairs),
            "across_splits": len(across_splits),
            "across_classes": len(across_classes),
        },
        findings=[
            *data.notes,
            *findings.of_names(data.declared, classes),
            *findings.of_pairs(across_splits, across_classes),
            *findings.of_splits(inputs),
            *findings.of_classes(counts, classes),
            *findings.of_sizes(facts),
        ],
        similar=similar.groups(classes),
        reading=[list(line) for line in data.reading],
    )
    accounting.check_balance()
    return accounting


def _input_row(entry: Input) -> dict[str, Any]:
    return {
        "path": entry.name,
        "label": entry.label,
        "sha256": entry.sha256 or None,
        "span": entry.span,
        "fate": entry.fate,
    }


def _quarantine_row(entry: Input, problem: Problem) -> dict[str, Any]:
    return {
        "path": entry.name,
        "sha256": entry.sha256 or None,
        "kind": problem.kind,
        "reason": str(problem),
    }


def _duplicate_row(entry: Input) -> dict[str, Any]:
    return {"path": entry.name, "sha256": entry.sha256, "same_as": entry.duplicate_of}


def _near_duplicate_row(pair: Pair) -> dict[str, Any]:
    return {
        "paths": [entry.name for entry in pair],
        "classes": [entry.label for entry in pair],
        "splits": [entry.split for entry in pair],
    }


def _by_weight(pair: Pair) -> tuple[bool, bool]:
    """Sorts those that matter most first, in case that there are too many."""
    first, second = pair
    return first.label == second.label, first.split == second.split


def _digest(inputs: Sequence[Input], split: str) -> str:
    """Equal for splits of the same images with the same labels."""
    images = sorted(
        (entry.sha256, entry.label) for entry in inputs if entry.is_kept and entry.split == split
    )
    return reuse.key(images)


def _counted(values: Iterable[str]) -> dict[str, int]:
    return dict(Counter(values).most_common())


def work_here(options: Options) -> Worker:
    """A worker that decodes in this process and writes nothing."""

    def work(pieces: Sequence[Work], images: int) -> Mapping[int, list[Outcome]]:
        return {
            piece.index: writing.write(piece, options.max_pixels, images, None) for piece in pieces
        }

    return work


def split_names(shares: Mapping[str, int], accounting: Accounting) -> list[str]:
    """Splits that there have to be: those with a share, and those that the source names."""
    return [name for name in SPLITS if name in shares or name in accounting.splits]
