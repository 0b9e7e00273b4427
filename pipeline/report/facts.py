"""What is known of one run: JSON, but for the pictures."""

from __future__ import annotations

import datetime
import enum
from collections.abc import Mapping
from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, field_validator

from components.image_evaluator.figures import Estimate, Figures, Verdict
from pipeline.config import renamed

RECORD = "run.json"


def _moment(text: str) -> str:
    if datetime.datetime.fromisoformat(text).tzinfo is None:
        raise ValueError("has no time zone")
    return text


# ISO 8601 with a time zone.
Moment = Annotated[str, AfterValidator(_moment)]


class State(enum.StrEnum):
    """How far a run came. The record of a killed one says RUNNING, and it is read as CUT_OFF."""

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
    """What became of a node of the DAG: state as in `local_runner.NodeResult`, or "failed"."""

    node: str
    state: str
    wall_s: float
    cpu_s: float = 0.0
    peak_mb: float = 0.0


class Code(_Fact):
    """What the run ran on. commit: of the checkout, "" outside of one; modified: not as there."""

    versions: dict[str, str]
    commit: str = ""
    modified: bool = False


class RunData(_Fact):
    """data.source of a run."""

    source: str


class Accuracies(_Fact):
    """What a record keeps of a verdict: accuracy with its 95% interval, and the baseline's."""

    accuracy: float
    interval: tuple[float, float]
    baseline_accuracy: float | None


class Run(_Fact):
    """The record of a run, RECORD in its folder. It has more there, such as all of the verdict.

    started: UTC, ISO 8601. error: why it failed or was rejected. findings: a line for each thing
    wrong with the data that it failed for. pushed: the version's folder.
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
        """The candidate's."""
        if self.verdict is None:
            return None
        low, high = self.verdict.interval
        return Estimate(value=self.verdict.accuracy, low=low, high=high)

    @property
    def baseline_accuracy(self) -> float | None:
        """The latest blessed model's, on the same images."""
        return self.verdict.baseline_accuracy if self.verdict else None

    @property
    def version(self) -> str | None:
        """Number of the pushed version."""
        return self.pushed.rstrip("/").rpartition("/")[2] if self.pushed else None

    def value(self, key: str, default: Any = None) -> Any:
        """The value of a setting."""
        return self.settings[key].value if key in self.settings else default


class Promotion(_Fact):
    """A change of what is served.

    at: UTC, ISO 8601. action: promote or rollback. labels: the versions by label after it.
    """

    at: Moment
    action: str
    labels: dict[str, int]
    result: str


class Finding(_Fact):
    """An anomaly, as in components/image_example_validator/findings.py."""

    split: str
    feature: str
    type: str
    text: str
    level: str


class Distance(_Fact):
    """How far a feature's distribution is from the training split's, or from that of data before.

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


class Data(_Fact):
    """What became of the images; counts as in components/image_example_gen/accounting.py.

    unusable: the first of the quarantined inputs.
    """

    classes: list[str]
    splits: dict[str, dict[str, int]]
    inputs: int
    duplicates: int
    quarantined: dict[str, int]
    ignored: dict[str, int]
    normalized: dict[str, int]
    spans: list[int]
    span_names: list[str] = Field(default_factory=list)
    near_duplicates: dict[str, int]
    findings: list[str]
    unusable: list[Unusable] = Field(default_factory=list)
    anomalies: list[Finding] | None = None
    distances: list[Distance] = Field(default_factory=list)
    spreads: list[Spread] = Field(default_factory=list)

    def images(self, split: str) -> int:
        """Number of images of a split."""
        return sum(self.splits[split].values())

    @property
    def all_images(self) -> int:
        """Number of images of all splits."""
        return sum(map(self.images, self.splits))


class Sample(_Fact):
    """A training image as PNG or JPEG: as prepared, cut into its patches, and as augmented."""

    label: str
    before: bytes
    patches: bytes | None
    after: list[bytes]


class Training(_Fact):
    """history.json of the Trainer's model_run; epochs and phase_starts count from 1.

    base_model: what was begun with, the serving path of an earlier model; "" for none.
    """

    images: dict[str, int]
    base_model: str = ""
    seconds: float
    steps: int
    best_epoch: int
    phase_starts: list[int]
    epochs: list[dict[str, float]]


class Prediction(_Fact):
    """What the candidate said of an image.

    probability: of its label. top: the likeliest classes. baseline: the class that it chose.
    looked: the image, brighter where the network looked; of mistakes only, and not of each network.
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
    """Candidate and baseline on the same images: number of images by who was right."""

    both: int
    only_candidate: int
    only_baseline: int
    neither: int


class Suspect(_Fact):
    """An image whose label is probably wrong.

    image: its path, or its name in the data. label: the class that it probably is of. given: the
    one that it has. probability: of each of the two, by a model that did not train on it.
    """

    image: str
    label: str
    given: str
    probability: tuple[float, float]


class Predictions(_Fact):
    """Predictions on a split.

    grid: a draw from all of them. mistakes: the wrong ones, the most confident first; wrong: how
    many of those there are in all. paired: where a baseline was asked about the same images.
    suspects: what is probably mislabelled, the clearest first.
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
    """All that is known of a run; parts that it did not get to are None or empty.

    samples: of the training images; not in the JSON. suspects: of these what is probably
    mislabelled, the clearest first. predictions: on the evaluation split.
    """

    format: int = 1
    run: Run
    data: Data | None = None
    samples: list[Sample] = Field(default_factory=list, exclude=True, repr=False)
    training: Training | None = None
    suspects: list[Suspect] = Field(default_factory=list)
    evaluation: Figures | None = None
    verdict: Verdict | None = None
    predictions: Predictions | None = None
    test_predictions: Predictions | None = None
    artifacts: list[Artifact] = Field(default_factory=list)

    def artifact(self, name: str) -> Artifact | None:
        """The output of that name."""
        return next((each for each in self.artifacts if each.name == name), None)
