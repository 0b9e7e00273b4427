"""The bounds that a model must keep to be blessed; no heavy imports, for the configuration."""

from __future__ import annotations

from typing import Annotated, Self

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, model_validator

from components.image_evaluator.figures import SLICES

CLASS = "class"  # one of the names of slices
# The metric over all images that each field bounds.
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
CEILINGS = {"max_log_loss": "log_loss"}
CLASS_FLOORS = {"min_class_precision": "precision", "min_class_recall": "recall"}
LATENCIES = {"max_latency_p50_ms": "p50_ms", "max_latency_p95_ms": "p95_ms"}


def _known_slices(bounds: dict[str, float]) -> dict[str, float]:
    unknown = [name for name in bounds if name.partition("=")[0] not in (CLASS, *SLICES)]
    if unknown:
        raise ValueError(
            f"{unknown[0]!r} does not name a slice: give class, {', '.join(SLICES)}, or one value "
            "of these, such as 'class=cat'"
        )
    return bounds


_Share = Annotated[float, Field(ge=0, le=1)]
_Floor = Annotated[float | None, Field(ge=0, le=1)]


class Bounds(BaseModel):
    """The gate's bounds: `[evaluate]` of the configuration; None for no bound.

    In `max_drop` the more specific name wins. The first four are used by `learned`; with their
    defaults a trained model passes on any data set.
    """

    model_config = ConfigDict(frozen=True)

    majority_significance: float = Field(
        default=0.05,
        gt=0,
        le=1,
        description="Maximum p-value of the test whether the model is right more often than "
        "always answering the largest class of the train split. 1: no such check.",
    )
    # A class with a recall of 0.5 has none of ten images right with a probability of 0.001.
    zero_recall_images: int = Field(
        default=10,
        ge=0,
        description="Every class with at least this many eval images must have one that is "
        "classified correctly. 0: no such check.",
    )
    # Not 1: a model that has learned nothing may be below by a rounding error.
    max_log_loss_ratio: float = Field(
        default=0.99,
        ge=0,
        description="Maximum log loss, relative to that of always answering the class "
        "frequencies. 0: no such check.",
    )
    # Good models that are trained with mixup or for a few epochs only have 0.1 to 0.15.
    max_ece: float | None = Field(
        default=0.2,
        gt=0,
        le=1,
        description="Maximum expected calibration error, the mean distance between confidence and "
        "accuracy. A larger error fails only if it is statistically significant. 1: no such check.",
    )
    min_accuracy: _Floor = Field(default=0.5, description="Minimum accuracy on the eval split.")
    min_top_5_accuracy: _Floor = Field(
        default=None,
        description="Minimum share of images whose class is among the five most probable.",
    )
    min_balanced_accuracy: _Floor = Field(
        default=None,
        description="Minimum balanced accuracy: the mean over the classes of their accuracy.",
    )
    min_macro_precision: _Floor = Field(
        default=None, description="Minimum macro-averaged precision."
    )
    min_macro_recall: _Floor = Field(default=None, description="Minimum macro-averaged recall.")
    min_macro_f1: _Floor = Field(default=None, description="Minimum macro-averaged F1.")
    min_macro_auc: _Floor = Field(
        default=None, description="Minimum macro-averaged area under the ROC curve."
    )
    min_class_precision: _Floor = Field(
        default=None, description="Minimum precision of every class."
    )
    min_class_recall: _Floor = Field(default=None, description="Minimum recall of every class.")
    max_log_loss: float | None = Field(
        default=None, gt=0, description="Maximum mean log loss, in nats."
    )
    max_latency_p50_ms: float | None = Field(
        default=None, gt=0, description="Maximum median latency for one image, in milliseconds."
    )
    max_latency_p95_ms: float | None = Field(
        default=None,
        gt=0,
        description="Maximum 95th percentile of the latency for one image, in milliseconds.",
    )
    # 0 by default: with a tolerance, accuracy could drop by that much in every run.
    max_accuracy_drop: float = Field(
        default=0.0,
        ge=0,
        le=1,
        description="Maximum drop of accuracy below the baseline's.",
    )
    max_drop: Annotated[dict[str, _Share], AfterValidator(_known_slices)] = Field(
        default={},
        description="Maximum drop of accuracy on slices: on every class (class), on one class "
        "('class=cat'), or on images by size, aspect, brightness, source or span "
        "('brightness=dark').",
    )
    significance: float = Field(
        default=0.05,
        gt=0,
        lt=1,
        description="Level of the statistical tests: a drop or a calibration error beyond its "
        "limit fails only with a p-value below this.",
    )
    min_examples: int = Field(
        default=100,
        ge=0,
        description="Minimum number of images for a statistical test. With fewer, any drop beyond "
        "the limit fails.",
    )

    @model_validator(mode="after")
    def _has_a_bound(self) -> Self:
        floors = (self.of(field) for field in (*FLOORS, *CLASS_FLOORS))
        ceilings = (self.of(field) for field in (*CEILINGS, *LATENCIES))
        drops = (self.max_accuracy_drop, *self.max_drop.values())
        learned = (
            self.majority_significance < 1,
            self.zero_recall_images,
            self.max_log_loss_ratio,
            self.max_ece not in (None, 1),
        )
        if (
            not any((*learned, *floors))
            and all(bound is None for bound in ceilings)
            and all(bound >= 1 for bound in drops)
        ):
            raise ValueError(
                "no bound is left that a model could fail; set one, such as min_accuracy"
            )
        return self

    def of(self, field: str) -> float | None:
        """Return the bound in a field."""
        value: float | None = getattr(self, field)
        return value

    def applies(self, name: str, label: str) -> bool:
        """Return whether the bound `name` of `max_drop` applies to a slice (brightness=dark)."""
        return name == label or (name == label.partition("=")[0] and label not in self.max_drop)
