"""The result of `drift.measure`, without TensorFlow."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any


@dataclasses.dataclass(frozen=True)
class Distance:
    """One distance of new images from the reference, with its limit."""

    what: str
    kind: str
    value: float
    limit: float

    def __str__(self) -> str:
        return f"{self.what}: {self.kind} {self.value:.2f}, above {self.limit:g}"


@dataclasses.dataclass(frozen=True)
class Drift:
    """Distances of `images` new images from `reference` images of the baseline."""

    images: int
    reference: int
    distances: tuple[Distance, ...]

    @property
    def findings(self) -> list[str]:
        """Describe each distance above its limit in a line."""
        return [str(each) for each in self.distances if each.value > each.limit]


def from_json(value: Mapping[str, Any]) -> Drift:
    """Invert `dataclasses.asdict`. Raises KeyError, TypeError or ValueError for other values."""
    distances = tuple(
        Distance(str(each["what"]), str(each["kind"]), float(each["value"]), float(each["limit"]))
        for each in value["distances"]
    )
    return Drift(int(value["images"]), int(value["reference"]), distances)
