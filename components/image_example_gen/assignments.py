"""The splits that earlier ingests decided on, kept beside the examples."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterable, Mapping

from components import reuse, storage
from components.image_example_gen.inputs import Input

FILE = "assignments.json"  # in an Examples artifact: the splits of all images that were ever in one

_DIGITS = 16  # of a SHA-256 that are kept: enough to tell images apart


@dataclasses.dataclass(frozen=True)
class Assignments:
    """The splits that were decided on: split by the beginning of an image's SHA-256.

    `rule` is a digest of the settings that they follow from; those of other settings do not count.
    """

    rule: str
    splits: Mapping[str, str] = dataclasses.field(default_factory=dict)

    def of(self, sha256: str) -> str:
        """The split of an image, "" where none was decided on."""
        return self.splits.get(sha256[:_DIGITS], "")

    def updated(self, inputs: Iterable[Input]) -> Assignments:
        """With the splits of those `inputs` that are in one."""
        new = {entry.sha256[:_DIGITS]: entry.split for entry in inputs if entry.is_kept}
        return dataclasses.replace(self, splits={**self.splits, **new})

    def write(self, folder: str) -> None:
        """Write the file to an Examples artifact."""
        by_split: dict[str, list[str]] = {}
        for image, split in sorted(self.splits.items()):
            by_split.setdefault(split, []).append(image)
        text = json.dumps({"rule": self.rule, "splits": by_split})
        storage.write_text(storage.join(folder, FILE), text, durable=False)


def read(uri: str, shares: Mapping[str, int], group: bool) -> Assignments:
    """What the latest ingest beside the artifact at `uri` decided, by the same settings."""
    rule = reuse.key(dict(shares), group)
    for path in reuse.siblings(uri, FILE):
        found = json.loads(storage.read_bytes(path))
        if found["rule"] == rule:
            splits = found["splits"].items()
            return Assignments(rule, {image: split for split, of in splits for image in of})
    return Assignments(rule)
