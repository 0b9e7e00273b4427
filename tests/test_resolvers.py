"""What resolvers find: the baseline, the model to begin from, and the statistics before."""

from __future__ import annotations

import pytest
from ml_metadata import MetadataStore
from ml_metadata.proto import metadata_store_pb2 as protos
from tfx.types import Artifact, standard_artifacts

from components.resolvers.baseline import BaselineStrategy
from components.resolvers.previous_statistics import STATISTICS_ID, PreviousStatisticsStrategy
from components.resolvers.warm_start import WarmStartStrategy
from tests.recorder import Recorder


def model(number: int) -> standard_artifacts.Model:
    artifact = standard_artifacts.Model()
    artifact.id = number
    return artifact


def blessing(model_id: int, blessed: bool) -> standard_artifacts.ModelBlessing:
    artifact = standard_artifacts.ModelBlessing()
    artifact.set_int_custom_property("current_model_id", model_id)
    artifact.set_int_custom_property("blessed", int(blessed))
    return artifact


@pytest.mark.parametrize(
    ("verdicts", "candidate", "expected"),
    [
        pytest.param({}, 1, None, id="first run"),
        pytest.param({1: True}, 2, 1, id="one blessed before"),
        pytest.param({1: True}, 1, None, id="a rerun is not measured against itself"),
        pytest.param({1: True, 2: True}, 2, 1, id="a rerun keeps its baseline"),
        pytest.param({1: True, 2: True}, 1, 2, id="going back to an older model"),
        pytest.param({1: True, 2: False}, 3, 1, id="rejected models do not count"),
        pytest.param({1: False}, 2, None, id="nothing blessed yet"),
    ],
)
def test_the_baseline_is_the_latest_blessed_model_that_is_not_the_candidate(
    verdicts: dict[int, bool], candidate: int, expected: int | None
) -> None:
    numbers = {*verdicts, candidate}
    resolved = BaselineStrategy().resolve_artifacts(
        None,
        {
            "candidate": [model(candidate)],
            "model": [model(number) for number in sorted(numbers)],
            "model_blessing": [blessing(number, ok) for number, ok in verdicts.items()],
        },
    )
    assert [artifact.id for artifact in resolved["model"]] == ([expected] if expected else [])
    assert [
        artifact.get_int_custom_property("current_model_id")
        for artifact in resolved["model_blessing"]
    ] == ([expected] if expected else [])


class Store:
    """Metadata in memory: models made from examples."""

    def __init__(self) -> None:
        self.store = MetadataStore(protos.ConnectionConfig(fake_database={}))
        self.types = {
            name: self.store.put_artifact_type(protos.ArtifactType(name=name))
            for name in ("Examples", "Model")
        }
        self.trainer = self.store.put_execution_type(protos.ExecutionType(name="Trainer"))

    def examples(self) -> standard_artifacts.Examples:
        artifact = standard_artifacts.Examples()
        artifact.id = self.put("Examples")
        return artifact

    def put(self, name: str) -> int:
        [number] = self.store.put_artifacts([protos.Artifact(type_id=self.types[name])])
        return int(number)

    def train(self, examples: standard_artifacts.Examples) -> int:
        made = self.put("Model")
        [execution] = self.store.put_executions([protos.Execution(type_id=self.trainer)])
        self.store.put_events(
            [
                protos.Event(execution_id=execution, artifact_id=artifact, type=kind)
                for artifact, kind in (
                    (examples.id, protos.Event.INPUT),
                    (made, protos.Event.OUTPUT),
                )
            ]
        )
        return made

    def resolve(
        self, examples: standard_artifacts.Examples, verdicts: dict[int, bool]
    ) -> list[int]:
        resolved = WarmStartStrategy().resolve_artifacts(
            self.store,
            {
                "examples": [examples],
                "model": [model(number) for number in verdicts],
                "model_blessing": [blessing(number, ok) for number, ok in verdicts.items()],
            },
        )
        return [artifact.id for artifact in resolved["model"]]


class TestWarmStart:
    def test_begins_from_the_latest_blessed_model_of_other_data(self) -> None:
        store = Store()
        old, older, new = store.examples(), store.examples(), store.examples()
        first, second, rejected = store.train(older), store.train(old), store.train(old)
        assert store.resolve(new, {}) == []
        verdicts = {first: True, second: True, rejected: False}
        assert store.resolve(new, verdicts) == [second]

    def test_a_rerun_on_the_same_data_finds_what_the_first_run_found(self) -> None:
        store = Store()
        old, new = store.examples(), store.examples()
        first = store.train(old)
        before = store.resolve(new, {first: True})
        second = store.train(new)
        assert store.resolve(new, {first: True, second: True}) == before == [first]

    def test_says_why_a_training_starts_afresh(self, recorder: Recorder) -> None:
        store = Store()
        old, new = store.examples(), store.examples()
        first = store.train(old)
        assert store.resolve(new, {first: False}) == []
        assert store.resolve(old, {first: True}) == []
        assert store.resolve(new, {first: True}) == [first]
        assert recorder.of("note", "text") == [
            "train.warm_start: no model is blessed yet, so training starts afresh",
            "train.warm_start: every blessed model was trained on these same images, so training "
            "starts afresh",
        ]


def artifact(kind: type[Artifact], number: int, span: int, **properties: int) -> Artifact:
    made = kind()
    made.id, made.span = number, span
    for key, value in properties.items():
        made.set_int_custom_property(key, value)
    return made


def previous(
    current: tuple[int, int], earlier: list[tuple[int, int]], passed: list[int]
) -> list[int]:
    """Ids that are resolved; artifacts are (id, span)."""
    statistic = standard_artifacts.ExampleStatistics
    resolved = PreviousStatisticsStrategy().resolve_artifacts(
        None,
        {
            "current": [artifact(statistic, *current)],
            "previous": [artifact(statistic, *each) for each in [*earlier, current]],
            "anomalies": [
                artifact(standard_artifacts.ExampleAnomalies, 100 + n, 0, **{STATISTICS_ID: n})
                for n in passed
            ],
        },
    )
    return [each.id for each in resolved["previous"]]


class TestPreviousStatistics:
    def test_nothing_before(self) -> None:
        assert previous((5, 0), [], [5]) == []

    def test_the_latest_that_passed(self) -> None:
        assert previous((5, 0), [(1, 0), (2, 0), (3, 0)], [1, 2]) == [2]

    def test_an_earlier_span_comes_before_an_earlier_state_of_the_same(self) -> None:
        assert previous((9, 4), [(1, 2), (2, 3), (3, 4)], [1, 2, 3]) == [2]

    def test_later_spans_and_later_statistics_change_nothing(self) -> None:
        assert previous((5, 1), [(1, 0), (3, 2), (7, 0)], [1, 3, 7]) == [1]
