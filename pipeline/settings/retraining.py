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
    """Limits beyond which new images have drifted from the baseline's training images.

    Distances of labels and statistics lie in 0..1; with a limit of 1 nothing is ever found.
    """

    min_examples: int = Field(
        default=100, ge=1, description="Smallest number of new images to measure."
    )
    max_label_distance: float = Field(
        default=0.2, ge=0, le=1, description="L-infinity distance of the shares of classes."
    )
    max_statistics_distance: float = Field(
        default=0.15,
        ge=0,
        le=1,
        description="Jensen-Shannon divergence of sizes, brightness and contrast.",
    )
    max_embedding_shift: float = Field(
        default=0.5,
        ge=0,
        description="Distance of the mean embeddings, in standard deviations of the reference.",
    )
    cooldown_days: float = Field(
        default=7.0, ge=0, description="Days after an alarm without another one."
    )
    retrains: bool = Field(
        default=False, description="Retrain on drift, instead of reporting it only."
    )


class MonitorConfig(Section):
    """Recorded traffic, and how `perennial monitor` compares it with the data of the baseline.

    A comparison is a finding only if it is statistically significant, at its share of false_alarms,
    and larger than its limit: in much traffic, tiny changes are significant.
    """

    logs: Annotated[Path, PATH] | None = Field(
        default=None, description="Folder of recorded traffic, of which gc removes old files."
    )
    retention_days: float = Field(
        default=30.0, gt=0, description="Age from which gc removes recorded traffic."
    )
    window_days: float = Field(
        default=1.0, gt=0, description="Traffic that is compared at a time, up to now."
    )
    min_images: int = Field(
        default=100, ge=20, description="Least number of different images to compare."
    )
    false_alarms: float = Field(
        default=0.01,
        gt=0,
        lt=1,
        description="Share of undisturbed windows with a finding, at most, over all comparisons.",
    )
    min_effect: float = Field(
        default=0.15,
        ge=0,
        le=1,
        description="Distance of two distributions that counts: Kolmogorov-Smirnov's of numbers, "
        "total variation of shares.",
    )
    max_unseen: float = Field(
        default=0.01,
        ge=0,
        lt=1,
        description="Share of images of a format or size unlike any of the baseline's data.",
    )
    max_disagreement: float = Field(
        default=0.2, ge=0, lt=1, description="Share of images in which two versions disagree."
    )
    max_accuracy_drop: float = Field(
        default=0.05, ge=0, le=1, description="Drop of the accuracy estimated from confidence."
    )


class ReasonConfig(Section):
    """A finding of `perennial monitor` as a reason to retrain on new images."""

    retrains: bool = Field(
        default=False, description="Retrain on it, instead of reporting it only."
    )
    cooldown_days: float = Field(
        default=7.0,
        ge=0,
        description="Days after a retraining or notification for this reason without another.",
    )


class RetrainConfig(Section):
    """Reasons for `perennial retrain` to retrain, and the promotion afterwards."""

    min_new_examples: int = Field(
        default=1,
        ge=1,
        description="Number of new, changed and removed images that is a reason to retrain.",
    )
    max_age_days: float | None = Field(
        default=None,
        gt=0,
        description="Age of the baseline in days from which on one changed image is a reason to "
        "retrain; unset: none.",
    )
    max_removed: float = Field(
        default=0.1,
        ge=0,
        le=1,
        description="Largest share of the last training's images, or of one class, that may be "
        "missing; beyond it the retraining stops. 1: no limit.",
    )
    max_relabelled: float = Field(
        default=0.1,
        ge=0,
        le=1,
        description="Largest share of the last training's images that may have changed to another "
        "class; beyond it, or half of a class, the retraining stops. 1: no limit.",
    )
    promote: Literal["none", "canary", "stable"] = Field(
        default="canary",
        description="Label of a pushed version. The first version becomes stable, unless this is "
        "none.",
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
        description="Environment variable with the URL of a webhook that takes Slack's JSON.",
    )
    on: Listed[Literal["blessed", "rejected", "failed", "drift"]] = Field(
        default=("blessed", "rejected", "failed", "drift"), description="Outcomes to report."
    )
