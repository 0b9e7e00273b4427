"""The record of an ingest: written by ImageExampleGen, read by reports and other components."""

from __future__ import annotations

import dataclasses
import heapq
import json
import re
from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Any

from pydantic import TypeAdapter

from components import storage
from components.errors import BadDataError, DataLossError, read_back
from components.wording import counted, other_files, quoted

FILE_NAME = "accounting.json"
QUARANTINE = "quarantine.jsonl"
DUPLICATES = "duplicates.jsonl"
NEAR_DUPLICATES = "near_duplicates.jsonl"
MIN_IMAGES = 2  # of a class: one to train on and one to evaluate on

_PARTICULAR = re.compile(r"\d[\d,.]*|'[^']*'")  # differs between reasons of the same kind


@dataclasses.dataclass(frozen=True)
class Accounting:
    """The numbers of inputs by outcome.

    Attributes:
      classes: sorted class names; a label id is a position in it.
      splits: number of examples by split and class name.
      inputs: number of inputs: examples + duplicates + quarantined ones.
      duplicates: number of inputs with the same bytes as an example.
      quarantined: number of unusable inputs by kind of problem.
      ignored: number of files that are not inputs, by reason.
      normalized: number of converted examples by kind of conversion.
      spans: numbers of the spans that were read.
      span_names: their names, such as dates.
      held_out: digest of the images and labels of each split that is not trained on. The figures
        of two models are comparable if it is the same.
      near_duplicates: pairs of examples that look the same: "pairs", and of them "across_splits"
        and "across_classes", which suggests a wrong label.
      findings: warnings about the data, one line each.
      similar: groups of class names that look alike, and so may mean the same.
      reading: how the source was read: pairs of a topic, such as classes, and a description.
    """

    classes: list[str]
    splits: dict[str, dict[str, int]]
    inputs: int = 0
    duplicates: int = 0
    quarantined: dict[str, int] = dataclasses.field(default_factory=dict)
    ignored: dict[str, int] = dataclasses.field(default_factory=dict)
    normalized: dict[str, int] = dataclasses.field(default_factory=dict)
    spans: list[int] = dataclasses.field(default_factory=list)
    span_names: list[str] = dataclasses.field(default_factory=list)
    held_out: dict[str, str] = dataclasses.field(default_factory=dict)
    near_duplicates: dict[str, int] = dataclasses.field(default_factory=dict)
    findings: list[str] = dataclasses.field(default_factory=list)
    similar: list[list[str]] = dataclasses.field(default_factory=list)
    reading: list[list[str]] = dataclasses.field(default_factory=list)

    def examples(self, split: str) -> int:
        return sum(self.splits.get(split, {}).values())

    @property
    def all_examples(self) -> int:
        return sum(map(self.examples, self.splits))

    @property
    def all_quarantined(self) -> int:
        return sum(self.quarantined.values())

    @property
    def balance(self) -> str:
        """The equation of inputs and outcomes, as a sentence."""
        others = sum(self.ignored.values())
        ignored = f"; {other_files(others)} ignored" if others else ""
        return (
            f"{counted(self.inputs, 'input')} = {counted(self.all_examples, 'example')} + "
            f"{counted(self.duplicates, 'duplicate')} + {self.all_quarantined:,} "
            f"quarantined{ignored}"
        )

    def check_balance(self) -> None:
        """Raise RuntimeError if an input has no outcome."""
        if self.inputs != self.all_examples + self.duplicates + self.all_quarantined:
            raise RuntimeError(f"an input is not accounted for: {self.balance}")

    def check_splits(self, names: Iterable[str], root: str) -> None:
        """Raise BadDataError if a class is missing from a split.

        A class of two images, which train and eval take, may be missing from a test split.
        """
        sizes = {name: self.images(name) for name in self.classes}
        for split in names:
            there = self.splits.get(split, {})
            missing = [
                name
                for name in self.classes
                if name not in there and not (split == "test" and sizes[name] == MIN_IMAGES)
            ]
            if not missing:
                continue
            few = [name for name in missing if sizes[name] < MIN_IMAGES]
            advice = (
                f"a class needs at least {MIN_IMAGES} distinct images, one to train on and one to "
                f"evaluate on: add images of {quoted(few)}, or leave the class out (data.ignore)"
                if few
                else "add images of these classes that differ from those in other splits"
            )
            raise BadDataError(
                f"{root}: the {split} split has no image of {quoted(missing)}; {advice}"
            )

    def images(self, label: str) -> int:
        """Return the number of examples of a class in all splits."""
        return sum(counts.get(label, 0) for counts in self.splits.values())

    def check_eval(self, fewest: int, root: str) -> None:
        """Raise DataLossError if fewer than `fewest` eval images are outside the largest class.

        Only these images distinguish a model from always answering the largest class. A perfect
        model has a p-value of 1 / 2^N for N of them.
        """
        counts = self.splits.get("eval", {}).values()
        others = sum(counts) - max(counts, default=0)
        if others < fewest:
            raise DataLossError(
                f"{root}: the eval split is too small to evaluate a model: "
                f"{others} of its {sum(counts)} images are outside its largest class, fewer than "
                f"data.min_eval = {fewest}; add images, raise data.eval, or set data.min_eval"
            )


def write_accounting(accounting: Accounting, examples_uri: str) -> None:
    """Write the record beside the splits of an Examples artifact."""
    text = json.dumps(dataclasses.asdict(accounting), indent=2)
    storage.write_text(storage.join(examples_uri, FILE_NAME), text, durable=False)


def read_accounting(examples_uri: str) -> Accounting:
    """Read the record of an Examples artifact."""
    location = storage.join(examples_uri, FILE_NAME)
    content = storage.read_bytes(location)
    with read_back(location):
        return TypeAdapter(Accounting).validate_json(content)


def write_lines(rows: Iterable[object], path: str) -> None:
    """Write JSON lines."""
    with storage.writing(path, durable=False) as staging, staging.open("w") as file:
        for row in rows:
            file.write(f"{json.dumps(row)}\n")


def varied(quarantine: Iterable[Mapping[str, Any]], limit: int) -> list[Mapping[str, Any]]:
    """Choose lines of the quarantine so that no reason is repeated before all are listed.

    Reasons that differ only in numbers or names count as the same.
    """
    seen: Counter[str] = Counter()

    def rank(line: Mapping[str, Any]) -> int:
        reason = _PARTICULAR.sub("", line["reason"])
        seen[reason] += 1
        return seen[reason]

    return heapq.nsmallest(limit, quarantine, rank)
