"""Settings of scheduled retraining, monitoring and notifications."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from pydantic import (
    Field,
)

from components.settings import Listed, Section
from pipeline.settings.paths import PATH


class DriftConfig(Section):
    """Drift of new images: limits of their distance from the baseline's training images.

    Distances of labels and statistics are between 0 and 1, so a limit of 1 turns their check off.
    """

    min_examples: int = Field(
        default=100, ge=1, description="Minimum number of new images to measure drift."
    )
    max_label_distance: float = Field(
        default=0.2, ge=0, le=1, description="Maximum L-infinity distance of the class frequencies."
    )
    max_statistics_distance: float = Field(
        default=0.15,
        ge=0,
        le=1,
        description="Maximum Jensen-Shannon divergence of sizes, brightness and contrast.",
    )
    max_embedding_shift: float = Field(
        default=0.5,
        ge=0,
        description="Maximum distance of the mean embeddings, in standard deviations of the "
        "baseline's.",
    )
    cooldown_days: float = Field(
        default=7.0, ge=0, description="Days after an alarm in which there is no other alarm."
    )
    retrains: bool = Field(
        default=False, description="Retrain on drift, instead of only reporting it."
    )


class MonitorConfig(Section):
    """Recorded traffic, and its comparison with the baseline's data by `perennial monitor`.

    A difference is a finding only if it is statistically significant and larger than its limit,
    because in much traffic even tiny differences are significant. The comparisons of a window share
    the rate of `false_alarms`.
    """

    logs: Annotated[Path, PATH] | None = Field(
        default=None,
        description="Folder of recorded traffic, from which `perennial gc` removes old files.",
    )
    retention_days: float = Field(
        default=30.0,
        gt=0,
        description="Age in days from which `perennial gc` removes recorded traffic.",
    )
    window_days: float = Field(
        default=1.0, gt=0, description="Length of the window that is compared, in days."
    )
    min_images: int = Field(
        default=100, ge=20, description="Minimum number of different images in a window."
    )
    false_alarms: float = Field(
        default=0.01,
        gt=0,
        lt=1,
        description="Maximum share of undisturbed windows with a finding, over all comparisons.",
    )
    min_effect: float = Field(
        default=0.15,
        ge=0,
        le=1,
        description="Minimum distance between two distributions for a finding: the "
        "Kolmogorov-Smirnov distance for numbers, the total variation distance for categories.",
    )
    max_unseen: float = Field(
        default=0.01,
        ge=0,
        lt=1,
        description="Maximum share of images with a format or size that no image of the "
        "baseline's data has.",
    )
    max_disagreement: float = Field(
        default=0.2,
        ge=0,
        lt=1,
        description="Maximum share of images on which two versions disagree.",
    )
    max_accuracy_drop: float = Field(
        default=0.05,
        ge=0,
        le=1,
        description="Maximum drop of the accuracy that is estimated from the confidence.",
    )


class ReasonConfig(Section):
    """A finding of `perennial monitor` as a reason to retrain on new images.

    `retrain.traffic` is for drift, `retrain.accuracy` for a drop of the estimated accuracy.
    """

    retrains: bool = Field(
        default=False, description="Retrain on the finding, instead of only reporting it."
    )
    cooldown_days: float = Field(
        default=7.0,
        ge=0,
        description="Days after a retraining or message for this reason in which there is no "
        "other.",
    )


class RetrainConfig(Section):
    """Reasons to retrain, for `perennial retrain`, and the promotion afterwards."""

    min_new_examples: int = Field(
        default=1,
        ge=1,
        description="Minimum number of new, changed and removed images that is a reason to "
        "retrain.",
    )
    max_age_days: float | None = Field(
        default=None,
        gt=0,
        description="Age of the baseline in days from which a single changed image is a reason to "
        "retrain. Unset: age is not a reason.",
    )
    max_removed: float = Field(
        default=0.1,
        ge=0,
        le=1,
        description="Maximum share of the last training's images that may be missing. With more, "
        "or without nine in ten images of a class, the retraining stops. 1: no limit.",
    )
    max_relabelled: float = Field(
        default=0.1,
        ge=0,
        le=1,
        description="Maximum share of the last training's images that may have moved to another "
        "class. With more, or with half of a class, the retraining stops. 1: no limit.",
    )
    promote: Literal["none", "canary", "stable"] = Field(
        default="canary",
        description="Label of a pushed version. Unless this is none, the first version becomes "
        "stable.",
    )
    servers: Listed[str] = Field(
        default=(),
        description="gRPC addresses, HOST:PORT, of servers that must follow a promotion.",
    )
    drift: DriftConfig = Field(default=DriftConfig(), description="Drift of new images.")
    traffic: ReasonConfig = Field(default=ReasonConfig(), description="Drift of the traffic.")
    accuracy: ReasonConfig = Field(
        default=ReasonConfig(), description="A drop of the accuracy estimated from the traffic."
    )


class NotifyConfig(Section):
    """Messages about scheduled retrainings."""

    webhook_env: str = Field(
        default="PERENNIAL_WEBHOOK",
        min_length=1,
        description="Environment variable with the URL of a webhook that accepts Slack's JSON.",
    )
    on: Listed[Literal["blessed", "rejected", "failed", "drift"]] = Field(
        default=("blessed", "rejected", "failed", "drift"), description="Outcomes to report."
    )
