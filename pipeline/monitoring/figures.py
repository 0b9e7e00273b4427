"""The monitoring report, as JSON for pages, gauges, the journal and other programs."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict

from components.image_evaluator.figures import Estimate

STEADY, DRIFTED, LITTLE = "steady", "drifted", "little"


class _Frozen(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Check(_Frozen):
    """One statistical check of the traffic against the baseline.

    Attributes:
      name: such as "brightness".
      about: "images", or "VERSION/LABEL" of the model whose answers are compared.
      images: number of traffic images.
      effect: distance from the baseline, 0 to 1.
      limit: smaller effects are not findings.
      p: p-value.
      level: significance level; larger p-values are not findings.
      found: whether it is a finding.
      text: for people.
      divergence: TFDV's distance, for derived features of images; else None.
    """

    name: str
    about: str
    images: int
    effect: float
    limit: float
    p: float
    level: float
    found: bool
    text: str
    divergence: float | None = None


class Group(_Frozen):
    """Predictions of one version under one label.

    Attributes:
      label: "" for requests without one.
      images: number of different images.
      refused: number of images that were refused.
      shares: of each predicted class, in the traffic and in the baseline.
      confidence, entropy: means, with 95 % intervals.
      accuracy: estimated from the confidence; None if the version cannot be loaded.
      expected: accuracy on the baseline's held-out images.
      note: why the predictions could not be compared; else "".
    """

    model: str
    version: int
    label: str
    images: int
    refused: int
    shares: dict[str, tuple[Estimate, Estimate]] = {}
    confidence: Estimate | None = None
    entropy: Estimate | None = None
    accuracy: Estimate | None = None
    expected: Estimate | None = None
    note: str = ""

    @property
    def name(self) -> str:
        return f"{self.version}/{self.label}" if self.label else str(self.version)


class Pair(_Frozen):
    """Disagreement of two groups on the images that both predicted."""

    first: str
    second: str
    images: int
    disagree: Estimate


class Report(_Frozen):
    """The comparison of a window of traffic with the baseline's data.

    Attributes:
      since, until: of the requests, UTC.
      verdict: STEADY, DRIFTED, or LITTLE with too few images.
      images: number of different images.
      repeats: number of further requests with one of these images.
      compared: number of images drawn for the checks.
      needed: smallest number of different images for a verdict.
      false_alarms: largest probability that an undisturbed window is DRIFTED.
      detectable: Kolmogorov-Smirnov distance that is found in half of all cases.
      reference: number of the baseline's images.
    """

    since: str
    until: str
    verdict: Literal["steady", "drifted", "little"]
    images: int
    repeats: int
    compared: int
    needed: int
    false_alarms: float
    detectable: float | None
    reference: int
    checks: list[Check] = []
    groups: list[Group] = []
    pairs: list[Pair] = []
    notes: list[str] = []

    @property
    def findings(self) -> list[Check]:
        """The findings, the smallest p-value first."""
        return sorted((each for each in self.checks if each.found), key=lambda each: each.p)
