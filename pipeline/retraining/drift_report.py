"""The result of measuring drift; `drift` measures it, which needs TensorFlow."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any


@dataclasses.dataclass(frozen=True)
class Distance:
    """The distance of new images from the reference in one respect, and its limit."""

    what: str
    kind: str
    value: float
    limit: float

    def __str__(self) -> str:
        return f"{self.what}: {self.kind} {self.value:.2f}, above {self.limit:g}"


@dataclasses.dataclass(frozen=True)
class Drift:
    """Distances of `images` new images from `reference` others that the baseline was made of."""

    images: int
    reference: int
    distances: tuple[Distance, ...]

    @property
    def findings(self) -> list[str]:
        """Describe the distances above their limits, a line each."""
        return [str(each) for each in self.distances if each.value > each.limit]


def from_json(value: Mapping[str, Any]) -> Drift:
    """Undo `dataclasses.asdict`. Raises KeyError, TypeError or ValueError for anything else."""
    distances = tuple(
        Distance(str(each["what"]), str(each["kind"]), float(each["value"]), float(each["limit"]))
        for each in value["distances"]
    )
    return Drift(int(value["images"]), int(value["reference"]), distances)
