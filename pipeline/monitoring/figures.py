"""The report of a monitoring, as JSON for pages, gauges, the journal and other programs."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict

from components.image_evaluator.figures import Estimate

STEADY, DRIFTED, LITTLE = "steady", "drifted", "little"


class _Frozen(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Check(_Frozen):
    """A comparison of the traffic with the baseline in one respect.

    Attributes:
      name: such as "brightness".
      about: "images", or "VERSION/LABEL" of the model whose answers are compared.
      images: of the traffic.
      effect: how far the two are apart, 0 to 1.
      limit: from which an effect counts.
      p: the chance of one as large where nothing has changed.
      level: a finding needs a p below it.
      found: whether it is a finding.
      text: for people.
      divergence: TFDV's own measure of an image's statistic; None of others.
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
    """The answers of a version, asked for by a label.

    Attributes:
      label: "" for requests without one.
      images: different ones that it has answered for.
      refused: images that it has refused.
      shares: of each predicted class, and of the baseline's images.
      confidence, entropy: means, with 95 % intervals.
      accuracy: estimated from the confidence; None where the version cannot be loaded.
      expected: accuracy on the baseline's held-out images.
      note: why the answers could not be compared; "" where they were.
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
    """Two groups that were asked about the same images: in how many they disagree."""

    first: str
    second: str
    images: int
    disagree: Estimate


class Report(_Frozen):
    """A window of traffic, compared with the data of the baseline.

    Attributes:
      since, until: of the requests, UTC.
      verdict: STEADY, DRIFTED, or LITTLE where there are too few images.
      images: different ones; `repeats` of them came again and are not counted twice.
      compared: of these that are compared, at most so many.
      needed: fewer different images are little.
      false_alarms: the chance that an undisturbed window is DRIFTED, at most.
      detectable: the smallest Kolmogorov-Smirnov distance that is found in a half of all cases.
      reference: images of the baseline.
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
        """Most telling first."""
        return sorted((each for each in self.checks if each.found), key=lambda each: each.p)
