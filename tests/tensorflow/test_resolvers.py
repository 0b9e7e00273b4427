"""What resolvers find: the baseline, the model to begin from, and the statistics before."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from ml_metadata import MetadataStore
from ml_metadata.proto import metadata_store_pb2 as protos
from tfx.types import Artifact, standard_artifacts

from components.resolvers.baseline import BaselineStrategy
from components.resolvers.previous_statistics import STATISTICS_ID, PreviousStatisticsStrategy
from components.resolvers.warm_start import WarmStartStrategy
from components.reuse import INPUTS_FILE
from tests.kit.recorder import Recorder


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

    def examples(self, uri: str = "") -> standard_artifacts.Examples:
        """Return transformed examples of those that were ingested to `uri`."""
        artifact = standard_artifacts.Examples()
        artifact.id = self.put("Examples")
        if uri:
            self.execute([self.put("Examples", uri)], artifact.id)
        return artifact

    def put(self, name: str, uri: str = "") -> int:
        made = protos.Artifact(type_id=self.types[name], uri=uri)
        if uri:
            made.custom_properties["input_fingerprint"].string_value = "f"
        [number] = self.store.put_artifacts([made])
        return int(number)

    def train(self, examples: standard_artifacts.Examples, base: int | None = None) -> int:
        made = self.put("Model")
        self.execute([examples.id, *([base] if base else [])], made)
        return made

    def execute(self, inputs: list[int], output: int) -> None:
        [execution] = self.store.put_executions([protos.Execution(type_id=self.trainer)])
        self.store.put_events(
            [
                protos.Event(execution_id=execution, artifact_id=artifact, type=kind)
                for artifact, kind in (
                    *((each, protos.Event.INPUT) for each in inputs),
                    (output, protos.Event.OUTPUT),
                )
            ]
        )

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

    def test_not_from_one_that_has_seen_what_is_held_out_now(
        self, tmp_path: Path, recorder: Recorder
    ) -> None:
        """Nor from one that began with such a model."""

        def ingested(name: str, fates: dict[str, str]) -> str:
            (tmp_path / name).mkdir()
            rows = [json.dumps({"sha256": each, "fate": fate}) for each, fate in fates.items()]
            (tmp_path / name / INPUTS_FILE).write_text("\n".join(rows))
            return str(tmp_path / name)

        store = Store()
        old = store.examples(ingested("old", {"a": "train", "b": "eval", "x": "quarantined"}))
        grown = store.examples(
            ingested("grown", {"a": "train", "b": "eval", "c": "test", "x": "eval"})
        )
        other = store.examples(ingested("other", {"c": "train", "b": "eval"}))
        moved = store.examples(ingested("moved", {"a": "eval", "b": "train", "c": "train"}))
        first = store.train(old)
        assert store.resolve(grown, {first: True}) == [first]
        assert store.resolve(moved, {first: True}) == []
        second = store.train(other, base=first)
        assert store.resolve(moved, {second: True}) == []
        third = store.train(other)
        assert store.resolve(moved, {third: True}) == [third]
        (tmp_path / "other" / INPUTS_FILE).unlink()
        assert store.resolve(moved, {third: True}) == []
        told = recorder.of("note", "text")
        assert len(told) == 3
        assert re.search(r"^train\.warm_start: .* 1 .*held out", told[0])
        assert re.search(r"^train\.warm_start: .*list is gone", told[2])

    def test_says_why_a_training_starts_afresh(self, recorder: Recorder) -> None:
        store = Store()
        old, new = store.examples(), store.examples()
        first = store.train(old)
        assert store.resolve(new, {first: False}) == []
        assert store.resolve(old, {first: True}) == []
        assert store.resolve(new, {first: True}) == [first]
        none, same = recorder.of("note", "text")
        assert re.match(r"train\.warm_start: no .*\bblessed\b", none)
        assert re.match(r"train\.warm_start: every .*\bsame\b", same)


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
