"""The record of what became of the data: written by ImageExampleGen, read by whoever reports."""

from __future__ import annotations

import dataclasses
import json
import os

import tensorflow as tf

from components.errors import BadDataError

FILE_NAME = "accounting.json"


@dataclasses.dataclass(frozen=True)
class Accounting:
    """Sorted class names, and the number of examples by split and class name."""

    classes: list[str]
    splits: dict[str, dict[str, int]]

    def examples(self, split: str) -> int:
        return sum(self.splits.get(split, {}).values())

    def check_splits(self, names: list[str], root: str) -> None:
        """Raise BadDataError where a class is missing from one of the splits."""
        for split in names:
            missing = [name for name in self.classes if name not in self.splits.get(split, {})]
            if missing:
                shown = ", ".join(repr(name) for name in missing[:5])
                more = f" and {len(missing) - 5} more" if len(missing) > 5 else ""
                raise BadDataError(
                    f"{root}: the {split} split has no image of {shown}{more}; add images of "
                    f"these classes or raise data.{split}"
                )


def write_accounting(accounting: Accounting, examples_uri: str) -> None:
    """Write the record beside the splits of an Examples artifact."""
    with tf.io.gfile.GFile(os.path.join(examples_uri, FILE_NAME), "w") as file:
        file.write(json.dumps(dataclasses.asdict(accounting), indent=2))


def read_accounting(examples_uri: str) -> Accounting:
    """Read the record of an Examples artifact."""
    with tf.io.gfile.GFile(os.path.join(examples_uri, FILE_NAME)) as file:
        return Accounting(**json.loads(file.read()))
