"""The facts about a run; all but the pictures are written as JSON."""

from __future__ import annotations

import dataclasses
import datetime
import enum
from collections.abc import Mapping
from typing import Annotated, Any

import pydantic.dataclasses
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, field_validator

from components.image_evaluator.figures import Estimate, Figures, Verdict
from components.image_example_gen.accounting import Accounting
from components.image_example_validator.findings import JudgedFinding
from pipeline.config import renamed
from trainer_module.history import History

RECORD = "run.json"


def _moment(text: str) -> str:
    if datetime.datetime.fromisoformat(text).tzinfo is None:
        raise ValueError("has no time zone")
    return text


# ISO 8601 with a time zone.
Moment = Annotated[str, AfterValidator(_moment)]


class State(enum.StrEnum):
    """The state of a run. RUNNING in the record of a killed run is read as CUT_OFF."""

    RUNNING = "running"
    PUSHED = "pushed"
    REJECTED = "rejected"
    FAILED = "failed"
    INTERRUPTED = "interrupted"
    CUT_OFF = "cut off"


class _Fact(BaseModel):
    model_config = ConfigDict(frozen=True)


class Setting(_Fact):
    """A value of the configuration, and the layer that set it, as `config.Loaded` names it."""

    value: Any
    origin: str


class Node(_Fact):
    """Outcome of a node of the DAG: state as in `local_runner.NodeResult`, or "failed"."""

    node: str
    state: str
    wall_s: float
    cpu_s: float = 0.0
    peak_mb: float = 0.0


class Code(_Fact):
    """Version of the code. commit: "" outside of a checkout; modified: with changes to it."""

    versions: dict[str, str]
    commit: str = ""
    modified: bool = False


class RunData(_Fact):
    """data.source of a run."""

    source: str


class Accuracies(_Fact):
    """Accuracies in the record of a run: with a 95% interval, and the baseline's."""

    accuracy: float
    interval: tuple[float, float]
    baseline_accuracy: float | None


class Run(_Fact):
    """The record of a run: part of the file RECORD in its folder.

    started: UTC, ISO 8601. error: why it failed or was rejected. findings: a line for each fault of
    the data that made it fail. pushed: the version's folder.
    """

    run_id: str
    started: Moment
    state: State
    wall_s: float | None = None
    error: str | None = None
    findings: list[str] = Field(default_factory=list)
    name: str
    recipe: str
    data: RunData
    settings: dict[str, Setting]
    code: Code
    nodes: list[Node] = Field(default_factory=list)
    pushed: str | None = None
    verdict: Accuracies | None = None

    @field_validator("settings", mode="before")
    @classmethod
    def _by_present_names(cls, settings: Any) -> Any:
        return renamed.recorded(settings) if isinstance(settings, Mapping) else settings

    @property
    def accuracy(self) -> Estimate | None:
        """The accuracy of the candidate."""
        if self.verdict is None:
            return None
        low, high = self.verdict.interval
        return Estimate(value=self.verdict.accuracy, low=low, high=high)

    @property
    def baseline_accuracy(self) -> float | None:
        """The accuracy of the baseline on the same images."""
        return self.verdict.baseline_accuracy if self.verdict else None

    @property
    def version(self) -> str | None:
        """Number of the pushed version."""
        return self.pushed.rstrip("/").rpartition("/")[2] if self.pushed else None

    def value(self, key: str, default: Any = None) -> Any:
        """Return the value of a setting."""
        return self.settings[key].value if key in self.settings else default


class Promotion(_Fact):
    """A change of what is served.

    at: UTC, ISO 8601. action: promote or rollback. labels: the versions by label after it.
    """

    at: Moment
    action: str
    labels: dict[str, int]
    result: str


class Distance(_Fact):
    """Distance of a feature's distribution from that of the training split or of earlier data.

    compared: "skew" or "drift"; measure: L-infinity distance or Jensen-Shannon divergence, 0 to 1.
    """

    split: str
    feature: str
    compared: str
    measure: str
    value: float
    bound: float

    @property
    def exceeds(self) -> bool:
        return self.value > self.bound


class Spread(_Fact):
    """A numeric property of the training images."""

    feature: str
    low: float
    median: float
    high: float


class Unusable(_Fact):
    """A quarantined input."""

    input: str
    reason: str


@pydantic.dataclasses.dataclass(frozen=True, kw_only=True)
class Data(Accounting):
    """The accounting of the images, with what the report shows beside it.

    unusable: the first of the quarantined inputs. anomalies: None where nothing was validated.
    distances, spreads: of the features that TFDV measured.
    """

    unusable: list[Unusable] = dataclasses.field(default_factory=list)
    anomalies: list[JudgedFinding] | None = None
    distances: list[Distance] = dataclasses.field(default_factory=list)
    spreads: list[Spread] = dataclasses.field(default_factory=list)


class Sample(_Fact):
    """A training image as PNG or JPEG: as prepared, cut into its patches, and as augmented."""

    label: str
    before: bytes
    patches: bytes | None
    after: list[bytes]


class Prediction(_Fact):
    """The candidate's prediction for an image.

    probability: of its label. top: the likeliest classes. baseline: the baseline's class.
    looked: the image lit by the attention map; for mistakes only, if the network has one.
    """

    filename: str
    label: str
    top: list[tuple[str, float]]
    probability: float
    baseline: str | None = None
    image: bytes = Field(default=b"", exclude=True, repr=False)
    looked: bytes = Field(default=b"", exclude=True, repr=False)

    @property
    def is_right(self) -> bool:
        return self.top[0][0] == self.label


class PairedOutcomes(_Fact):
    """Candidate and baseline on the same images: number of images by which of them was correct."""

    both: int
    only_candidate: int
    only_baseline: int
    neither: int


class Suspect(_Fact):
    """An image that is probably mislabelled.

    image: its path, or its name in the data. label: its probable class. given: its label.
    probability: of both, by a model that did not train on it.
    """

    image: str
    label: str
    given: str
    probability: tuple[float, float]


class Predictions(_Fact):
    """Predictions on a split.

    grid: a random sample. mistakes: the most confident ones first; wrong: their number in all.
    paired: comparison with a baseline on the same images. suspects: images that are probably
    mislabelled, the clearest first.
    """

    grid: list[Prediction]
    mistakes: list[Prediction]
    wrong: int
    paired: PairedOutcomes | None = None
    suspects: list[Suspect] = Field(default_factory=list)


class Artifact(_Fact):
    """An output of a node, by the name that the node gives it.

    execution: the node's, in ML Metadata. fingerprint: of what ImageExampleGen read.
    """

    name: str
    uri: str
    execution: int | None = None
    fingerprint: str = ""


class Facts(_Fact):
    """All facts about a run; parts that it did not reach are None or empty.

    samples: training images; not in the JSON. suspects: training images that are probably
    mislabelled, the clearest first. predictions: on the evaluation split.
    """

    format: int = 1
    run: Run
    data: Data | None = None
    samples: list[Sample] = Field(default_factory=list, exclude=True, repr=False)
    training: History | None = None
    suspects: list[Suspect] = Field(default_factory=list)
    evaluation: Figures | None = None
    verdict: Verdict | None = None
    predictions: Predictions | None = None
    test_predictions: Predictions | None = None
    artifacts: list[Artifact] = Field(default_factory=list)

    def artifact(self, name: str) -> Artifact | None:
        """Return the output of that name."""
        return next((each for each in self.artifacts if each.name == name), None)
