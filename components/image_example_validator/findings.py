"""What validation finds, and whether it stops the run.

A finding has a type and, mostly, a feature. Types are TFDV's anomaly types (the names of
`tensorflow_metadata.AnomalyInfo.Type`) and those of `OWN_TYPES`.
"""

from __future__ import annotations

import dataclasses
import enum
import fnmatch
import functools
import json
from collections.abc import Collection, Iterable, Iterator
from typing import Annotated

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, TypeAdapter

from components import features, storage
from components.errors import read_back
from components.wording import counted, quoted

CLASS_IMBALANCE = "CLASS_IMBALANCE"  # the largest class is too many times the smallest
CLASS_MISSING = "CLASS_MISSING"  # the schema lists a class that a split has no image of
CLASS_VANISHED = "CLASS_VANISHED"  # the data before had images of a class, and this has none
IMAGES_REMOVED = "IMAGES_REMOVED"  # there are fewer images than in the data before
OWN_TYPES = (CLASS_IMBALANCE, CLASS_MISSING, CLASS_VANISHED, IMAGES_REMOVED)
FINDINGS_FILE = "findings.json"  # in an ExampleAnomalies artifact
ALL_SPLITS = "all"  # stands for the split where a finding is about all of them
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
class JudgedFinding(Finding):
    """A finding, and what it did to the run."""

    level: Level


def _known_patterns(patterns: tuple[str, ...]) -> tuple[str, ...]:
    """Refuse patterns that no finding can match, such as misspelt ones."""
    for pattern in patterns:
        if not fnmatch.filter(_all_names(), pattern):
            raise ValueError(
                f"{pattern!r} matches no finding: give an anomaly type of TFDV or one of "
                f"{', '.join(OWN_TYPES)}, a feature such as image/width, or 'FEATURE TYPE', with * "
                "for any text"
            )
    return patterns


# Not strict, where the configuration is: TOML and JSON have lists and no tuples.
_Patterns = Annotated[tuple[str, ...], Field(strict=False), AfterValidator(_known_patterns)]


class Policy(BaseModel):
    """Which findings warn, and where distributions begin to differ: `[validation]` of the settings.

    `block` wins over `warn`; what matches neither blocks.
    """

    model_config = ConfigDict(frozen=True)

    block: _Patterns = Field(
        default=(),
        description="Findings that stop the run although `warn` lists them: types, features or "
        "'FEATURE TYPE'. * stands for any text.",
    )
    warn: _Patterns = Field(
        default=(
            *("COMPARATOR_*", "CLASS_IMBALANCE", "SCHEMA_NEW_COLUMN"),
            *("CLASS_VANISHED", "IMAGES_REMOVED"),
        ),
        description="Findings that are only reported. All others stop the run.",
    )
    max_categorical_skew: float = Field(
        default=0.2,
        ge=0,
        le=1,
        description="Maximum L-infinity distance of labels and formats between train and another "
        "split.",
    )
    max_numeric_skew: float = Field(
        default=0.4,
        ge=0,
        le=1,
        description="Maximum Jensen-Shannon divergence of aspect, bytes and brightness between "
        "train and another split.",
    )
    max_categorical_drift: float = Field(
        default=0.15,
        ge=0,
        le=1,
        description="Like max_categorical_skew, between the data and that of the previous run.",
    )
    max_numeric_drift: float = Field(
        default=0.25,
        ge=0,
        le=1,
        description="Like max_numeric_skew, between the data and that of the previous run.",
    )
    max_imbalance: float = Field(
        default=10.0,
        ge=1,
        description="Maximum ratio of the images of the largest class to those of the smallest.",
    )

    max_removed: float = Field(
        default=0.1,
        ge=0,
        le=1,
        description="Maximum drop of the number of images, as a share of those of the previous "
        "run.",
    )

    def level(self, finding: Finding) -> Level:
        """Tell whether `finding` stops the run."""
        names = (finding.type, finding.feature, f"{finding.feature} {finding.type}")
        if _any_matches(self.warn, names) and not _any_matches(self.block, names):
            return Level.WARN
        return Level.BLOCK


@functools.cache
def _all_names() -> tuple[str, ...]:
    # Not at the top: the configuration imports this module.
    from tensorflow_metadata.proto.v0 import anomalies_pb2

    types = [*anomalies_pb2.AnomalyInfo.Type.keys(), *OWN_TYPES]
    names = [*features.STATISTICS, DATASET]
    return (*types, *names, *(f"{name} {kind}" for name in names for kind in types))


def _any_matches(patterns: Collection[str], names: Collection[str]) -> bool:
    return any(fnmatch.fnmatchcase(name, pattern) for pattern in patterns for name in names)


def write_findings(findings: Iterable[Finding], policy: Policy, anomalies_uri: str) -> None:
    """Write the findings, each with its level, into an ExampleAnomalies artifact."""
    rows = [{**dataclasses.asdict(each), "level": policy.level(each)} for each in findings]
    location = storage.join(anomalies_uri, FINDINGS_FILE)
    storage.write_text(location, json.dumps(rows, indent=2) + "\n", durable=False)


def read_findings(anomalies_uri: str) -> list[JudgedFinding]:
    """Read the findings of an ExampleAnomalies artifact.

    Raises FileNotFoundError where there are none, DamagedFileError where they cannot be read.
    """
    location = storage.join(anomalies_uri, FINDINGS_FILE)
    content = storage.read_bytes(location)
    with read_back(location):
        return TypeAdapter(list[JudgedFinding]).validate_json(content)


def class_findings(
    split: str, counts: dict[str, int], classes: list[str], max_imbalance: float
) -> Iterator[Finding]:
    """Report on the number of images of each class in a split."""
    if missing := [name for name in classes if not counts.get(name)]:
        text = f"no image of {quoted(missing)}, which the schema lists"
        yield Finding(split, features.LABEL_TEXT, CLASS_MISSING, text)
    if counts:
        most, least = max(counts, key=counts.__getitem__), min(counts, key=counts.__getitem__)
        if counts[most] > max_imbalance * counts[least]:
            text = f"{counted(counts[most], 'image')} of {most!r}, {counts[least]:,} of {least!r}"
            yield Finding(split, features.LABEL_TEXT, CLASS_IMBALANCE, text)


def removal_findings(
    before: dict[str, int], counts: dict[str, int], max_removed: float
) -> Iterator[Finding]:
    """Report on images that the same data had before, by class, over all splits."""
    if vanished := [name for name in before if before[name] and not counts.get(name)]:
        text = f"no image of {quoted(vanished)}, which the data before had"
        yield Finding(ALL_SPLITS, features.LABEL_TEXT, CLASS_VANISHED, text)
    now, then = sum(counts.values()), sum(before.values())
    if now < then * (1 - max_removed):
        text = f"{counted(now, 'image')}, where the data before had {then:,}"
        yield Finding(ALL_SPLITS, DATASET, IMAGES_REMOVED, text)
