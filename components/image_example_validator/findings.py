"""What validation finds, and whether it stops the run.

A finding has a type and, mostly, a feature. Types are TFDV's anomaly types (the names of
`tensorflow_metadata.AnomalyInfo.Type`) and those of `OWN_TYPES`.
"""

from __future__ import annotations

import dataclasses
import enum
import fnmatch
import functools
from collections.abc import Collection, Iterable, Iterator

from components import features
from components.wording import quoted

CLASS_IMBALANCE = "CLASS_IMBALANCE"  # the largest class is too many times the smallest
CLASS_MISSING = "CLASS_MISSING"  # the schema lists a class that a split has no image of
OWN_TYPES = (CLASS_IMBALANCE, CLASS_MISSING)
FINDINGS_FILE = "findings.json"  # in an ExampleAnomalies artifact
DATASET = "dataset"  # stands for the feature where a finding is about all of the data


class Level(enum.StrEnum):
    """What a finding does to the run."""

    BLOCK = "block"
    WARN = "warn"


@dataclasses.dataclass(frozen=True)
class Finding:
    """One thing wrong with one split."""

    split: str
    feature: str
    type: str
    text: str

    def __str__(self) -> str:
        return f"{self.split}: {self.feature}: {self.text} [{self.type}]"


@dataclasses.dataclass(frozen=True)
class Policy:
    """Which findings warn, and where distributions begin to differ.

    block, warn: glob patterns for a type, a feature, or "FEATURE TYPE". `block` wins; what matches
    neither blocks. Distances lie in 0..1 (L-infinity for labels and other text, Jensen-Shannon
    divergence for numbers): skew is that between train and another split, drift that to the
    statistics before. max_imbalance: images of the largest class for one of the smallest.
    """

    block: tuple[str, ...]
    warn: tuple[str, ...]
    max_text_skew: float
    max_number_skew: float
    max_text_drift: float
    max_number_drift: float
    max_imbalance: float

    def level(self, finding: Finding) -> Level:
        """Whether `finding` stops the run."""
        names = (finding.type, finding.feature, f"{finding.feature} {finding.type}")
        if _any_matches(self.warn, names) and not _any_matches(self.block, names):
            return Level.WARN
        return Level.BLOCK


def unmatched(patterns: Iterable[str]) -> list[str]:
    """Those of `patterns` that no finding can match, such as misspelt ones."""
    return [pattern for pattern in patterns if not fnmatch.filter(_all_names(), pattern)]


@functools.cache
def _all_names() -> tuple[str, ...]:
    # Not at the top: the configuration imports this module.
    from tensorflow_metadata.proto.v0 import anomalies_pb2

    types = [*anomalies_pb2.AnomalyInfo.Type.keys(), *OWN_TYPES]
    names = [*features.STATISTICS, DATASET]
    return (*types, *names, *(f"{name} {kind}" for name in names for kind in types))


def _any_matches(patterns: Collection[str], names: Collection[str]) -> bool:
    return any(fnmatch.fnmatchcase(name, pattern) for pattern in patterns for name in names)


def class_findings(
    split: str, counts: dict[str, int], classes: list[str], max_imbalance: float
) -> Iterator[Finding]:
    """Findings about the number of images of each class in a split."""
    if missing := [name for name in classes if not counts.get(name)]:
        text = f"no image of {quoted(missing)}, which the schema lists"
        yield Finding(split, features.LABEL_TEXT, CLASS_MISSING, text)
    if counts:
        most, least = max(counts, key=counts.__getitem__), min(counts, key=counts.__getitem__)
        if counts[most] > max_imbalance * counts[least]:
            text = f"{counts[most]:,} images of {most!r}, {counts[least]:,} of {least!r}"
            yield Finding(split, features.LABEL_TEXT, CLASS_IMBALANCE, text)
