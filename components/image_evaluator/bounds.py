"""What a model must keep to be blessed. Nothing heavy is imported: the configuration needs it."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

from components.image_evaluator.figures import SLICES

CLASS = "class"  # among the names of slices
# Every bound on a metric over all images: the field, and the metric that it is about.
FLOORS = {
    f"min_{name}": name
    for name in (
        "accuracy",
        "top_5_accuracy",
        "balanced_accuracy",
        "macro_precision",
        "macro_recall",
        "macro_f1",
        "macro_auc",
    )
}
CEILINGS = {f"max_{name}": name for name in ("log_loss", "ece")}
CLASS_FLOORS = {"min_class_precision": "precision", "min_class_recall": "recall"}
LATENCIES = {"max_latency_p50_ms": "p50_ms", "max_latency_p95_ms": "p95_ms"}


@dataclasses.dataclass(frozen=True)
class Bounds:
    """The gate's bounds, as `[evaluate]` of the configuration describes them; None for no bound.

    max_drop: by the name of a slice, "class", "class=cat", "brightness" or "brightness=dark", how
    far accuracy may fall on it; the more specific name wins.
    """

    min_accuracy: float | None = None
    min_top_5_accuracy: float | None = None
    min_balanced_accuracy: float | None = None
    min_macro_precision: float | None = None
    min_macro_recall: float | None = None
    min_macro_f1: float | None = None
    min_macro_auc: float | None = None
    min_class_precision: float | None = None
    min_class_recall: float | None = None
    max_log_loss: float | None = None
    max_ece: float | None = None
    max_latency_p50_ms: float | None = None
    max_latency_p95_ms: float | None = None
    max_accuracy_drop: float = 0.0
    max_drop: Mapping[str, float] = dataclasses.field(default_factory=dict)
    significance: float = 0.05
    min_examples: int = 100

    def of(self, field: str) -> float | None:
        """The bound in the field of that name."""
        value: float | None = getattr(self, field)
        return value

    def applies(self, name: str, label: str) -> bool:
        """Whether a bound in `max_drop` is the one for a slice such as "brightness=dark"."""
        return name == label or (name == label.partition("=")[0] and label not in self.max_drop)

    @property
    def pass_everything(self) -> bool:
        """Whether no model whatever could fail."""
        floors = (self.of(field) for field in (*FLOORS, *CLASS_FLOORS))
        ceilings = (self.of(field) for field in (*CEILINGS, *LATENCIES))
        drops = (self.max_accuracy_drop, *self.max_drop.values())
        return (
            not any(floors)
            and all(bound is None for bound in ceilings)
            and all(bound >= 1 for bound in drops)
        )


def unknown_slices(names: Mapping[str, float]) -> list[str]:
    """Those of the names in `max_drop` that name no feature."""
    return [name for name in names if name.partition("=")[0] not in (CLASS, *SLICES)]
