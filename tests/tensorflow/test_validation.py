"""The gate before training: what blocks, and what warns."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from google.protobuf import text_format
from tensorflow_metadata.proto.v0 import schema_pb2, statistics_pb2
from tfx.types import Artifact, artifact_utils, standard_artifacts

from components import features
from components.errors import BadDataError
from components.image_example_validator.executor import Executor, validate
from components.image_example_validator.findings import (
    Finding,
    Level,
    Policy,
    class_findings,
    read_findings,
    removal_findings,
)
from components.image_schema_gen.inference import infer
from components.resolvers.previous_statistics import STATISTICS_ID
from pipeline.config import load
from pipeline.errors import ConfigError
from tests.kit.data_statistics import statistics
from tests.kit.recorder import Recorder

EVEN = ["a", "b"] * 50
SKEWED = ["a", "a", "a", "b"] * 25
UNKNOWN = "ENUM_TYPE_UNEXPECTED_STRING_VALUES"


def policy(**changes: Any) -> Policy:
    return Policy(**{**load().config.validation.model_dump(), **changes})


def schema(*labels: str) -> schema_pb2.Schema:
    names = list(labels or "ab")
    return infer([statistics(names)], names)


def found(
    splits: dict[str, list[str]],
    previous: dict[str, list[str]] | None = None,
    curated: schema_pb2.Schema | None = None,
    **changes: Any,
) -> list[tuple[str, str, str]]:
    """Split, feature and type of all findings."""
    results = validate(
        {split: statistics(labels) for split, labels in splits.items()},
        curated or schema(),
        {split: statistics(labels) for split, labels in (previous or {}).items()},
        policy(**changes),
    )
    return [(each.split, each.feature, each.type) for _, _, own in results for each in own]


class TestFindings:
    def test_data_like_the_schema_has_none(self) -> None:
        assert found({"train": EVEN, "eval": EVEN}, {"train": EVEN}) == []

    def test_a_class_that_the_schema_lacks(self) -> None:
        assert found({"train": ["a", "b", "q"]}) == [("train", features.LABEL_TEXT, UNKNOWN)]

    def test_a_class_that_the_data_lacks(self) -> None:
        findings = found({"train": EVEN}, curated=schema("a", "b", "q"))
        assert findings == [("train", features.LABEL_TEXT, "CLASS_MISSING")]

    def test_the_rarest_of_very_many_classes_is_not_taken_for_missing(self) -> None:
        from components.image_statistics_gen.executor import options

        names = [f"class {number:04d}" for number in range(1500)]
        import pandas as pd
        import tensorflow_data_validation as tfdv

        frame = pd.DataFrame({features.LABEL_TEXT: [*names[:1200] * 2, *names[1200:]]})
        counted = tfdv.generate_statistics_from_dataframe(frame, options())
        from components.image_schema_gen.schema import class_counts

        counts = class_counts(counted)
        assert list(class_findings("train", counts, names, 10)) == []
        assert list(class_findings("train", {**counts, "class 1499": 0}, names, 10)) != []

    @pytest.mark.parametrize(("small", "expected"), [(10, []), (9, ["CLASS_IMBALANCE"])])
    def test_imbalance_begins_beyond_its_bound(self, small: int, expected: list[str]) -> None:
        findings = class_findings("train", {"a": 100, "b": small}, ["a", "b"], 10.0)
        assert [each.type for each in findings] == expected

    def test_labels_distributed_otherwise_than_in_train_are_skew(self) -> None:
        skew = [("eval", features.LABEL_TEXT, "COMPARATOR_L_INFTY_HIGH")]
        assert found({"train": EVEN, "eval": SKEWED}) == skew
        assert found({"train": EVEN, "eval": SKEWED}, max_categorical_skew=0.26) == []

    def test_labels_distributed_otherwise_than_before_are_drift(self) -> None:
        drift = [("train", features.LABEL_TEXT, "COMPARATOR_L_INFTY_HIGH")]
        assert found({"train": SKEWED}, {"train": EVEN}) == drift
        assert found({"train": SKEWED}, {"train": EVEN}, max_categorical_drift=0.26) == []

    def test_numbers_are_compared_by_jensen_shannon_divergence(self) -> None:
        results = validate(
            {"train": statistics(EVEN, width=8)},
            schema(),
            {"train": statistics(EVEN, width=800)},
            policy(),
        )
        ((_, _, findings),) = results
        assert {each.feature for each in findings} == {features.ASPECT}
        for finding in findings:
            assert finding.type == "COMPARATOR_JENSEN_SHANNON_DIVERGENCE_HIGH"
            assert "previous" in finding.text

    def test_a_comparator_of_the_schema_wins(self) -> None:
        curated = schema()
        for feature in curated.feature:
            if feature.name == features.LABEL_TEXT:
                feature.skew_comparator.infinity_norm.threshold = 0.5
        assert found({"train": EVEN, "eval": SKEWED}, curated=curated) == []

    def test_what_the_statistics_before_lack_is_not_compared(self) -> None:
        before = statistics(EVEN, width=800)
        lacking = (features.WIDTH, features.ASPECT)
        kept = [f for f in before.datasets[0].features if f.path.step[0] not in lacking]
        del before.datasets[0].features[:]
        before.datasets[0].features.extend(kept)
        ((_, _, findings),) = validate(
            {"train": statistics(EVEN)}, schema(), {"train": before}, policy()
        )
        assert findings == []


class TestPolicy:
    finding = Finding("train", features.WIDTH, "COMPARATOR_L_INFTY_HIGH", "")

    @pytest.mark.parametrize(
        ("block", "warn", "level"),
        [
            ([], [], Level.BLOCK),
            ([], ["COMPARATOR_*"], Level.WARN),
            ([], ["image/width"], Level.WARN),
            ([], ["image/width COMPARATOR_L_INFTY_HIGH"], Level.WARN),
            ([], ["image/height COMPARATOR_*", "CLASS_*"], Level.BLOCK),
            (["image/width"], ["COMPARATOR_*"], Level.BLOCK),
            (["image/height"], ["COMPARATOR_*"], Level.WARN),
        ],
    )
    def test_what_is_not_listed_blocks_and_block_wins(
        self, block: list[str], warn: list[str], level: Level
    ) -> None:
        rules = policy(block=tuple(block), warn=tuple(warn))
        assert rules.level(self.finding) == level

    def test_a_pattern_that_matches_nothing_is_a_configuration_error(self) -> None:
        with pytest.raises(ConfigError, match=r"validation\.warn.*'COMPARATORS_\*'.*TFDV"):
            load(None, {"validation.warn": ["CLASS_*", "COMPARATORS_*"]})


class TestExecutor:
    def run(
        self,
        tmp_path: Path,
        stats: statistics_pb2.DatasetFeatureStatisticsList,
        before: list[str] | None = None,
        before_span: int = 3,
        **changes: Any,
    ) -> Artifact:
        artifacts: dict[str, Artifact] = {}
        for key, kind in (
            ("statistics", standard_artifacts.ExampleStatistics),
            ("schema", standard_artifacts.Schema),
            ("anomalies", standard_artifacts.ExampleAnomalies),
        ):
            artifacts[key] = kind()
            artifacts[key].uri = str(tmp_path / key)
        artifacts["statistics"].id = 7
        artifacts["statistics"].split_names = artifact_utils.encode_split_names(["train"])
        artifacts["statistics"].span = 3
        split = tmp_path / "statistics" / "Split-train"
        split.mkdir(parents=True)
        (split / "FeatureStats.pb").write_bytes(stats.SerializeToString())
        inputs = {"statistics": [artifacts["statistics"]], "schema": [artifacts["schema"]]}
        if before is not None:
            previous = standard_artifacts.ExampleStatistics()
            previous.uri, previous.span = str(tmp_path / "previous"), before_span
            previous.split_names = artifacts["statistics"].split_names
            (tmp_path / "previous" / "Split-train").mkdir(parents=True)
            path = tmp_path / "previous" / "Split-train" / "FeatureStats.pb"
            path.write_bytes(statistics(before).SerializeToString())
            inputs["previous"] = [previous]
        (tmp_path / "schema").mkdir()
        text = text_format.MessageToString(schema())
        (tmp_path / "schema" / "schema.pbtxt").write_text(text)
        rules = {**load().config.validation.model_dump(), **changes}
        Executor().Do(
            inputs,
            {"anomalies": [artifacts["anomalies"]]},
            {"policy": json.dumps(rules), "code": ""},
        )
        return artifacts["anomalies"]

    def test_a_blocking_finding_stops_the_run_in_one_line(self, tmp_path: Path) -> None:
        with pytest.raises(BadDataError) as caught:
            self.run(tmp_path, statistics(["a", "b", "q"]))
        message = str(caught.value)
        assert "\n" not in message
        assert "train: image/class/text: " in message
        assert ": q" in message
        assert "validation.warn" in message
        assert [line.partition(": ")[0] for line in caught.value.findings] == ["train"]
        assert ": q" in caught.value.findings[0]

    def test_a_warning_is_reported_kept_and_lets_the_run_go_on(
        self, tmp_path: Path, recorder: Recorder
    ) -> None:
        anomalies = self.run(tmp_path, statistics(["a", "b", "q"]), warn=["ENUM_TYPE_*"])
        notes = recorder.of("note", "text")
        assert [note.startswith("warning: train: image/class/text") for note in notes] == [True]
        assert [f"warning: {line}" for line in read_findings(anomalies.uri)] == notes

    def test_what_passed_can_be_found_by_the_next_run(self, tmp_path: Path) -> None:
        anomalies = self.run(tmp_path, statistics(["a", "b"]))
        assert read_findings(anomalies.uri) == []
        assert anomalies.get_int_custom_property(STATISTICS_ID) == 7
        assert anomalies.span == 3
        assert (Path(anomalies.uri) / "Split-train" / "SchemaDiff.pb").exists()


class TestRemovals:
    BEFORE = {"cat": 60, "dog": 60}

    @pytest.mark.parametrize(
        ("now", "expected"),
        [
            ({"cat": 60, "dog": 60}, []),
            ({"cat": 54, "dog": 54}, []),
            ({"cat": 53, "dog": 54}, ["IMAGES_REMOVED"]),
            ({"cat": 120}, ["CLASS_VANISHED"]),
            ({"cat": 5}, ["CLASS_VANISHED", "IMAGES_REMOVED"]),
            ({"cat": 60, "dog": 60, "owl": 9}, []),
        ],
    )
    def test_are_told_and_do_not_block(self, now: dict[str, int], expected: list[str]) -> None:
        found = list(removal_findings(self.BEFORE, now, 0.1))
        assert [finding.type for finding in found] == expected
        assert set(map(Policy().level, found)) <= {Level.WARN}
        assert all("dog" in finding.text for finding in found if finding.type == "CLASS_VANISHED")

    @pytest.mark.parametrize(("span", "expected"), [(3, 2), (2, 0)])
    def test_are_of_the_same_span(self, tmp_path: Path, span: int, expected: int) -> None:
        """Another span may hold other classes, and less."""
        stats = statistics(["a"] * 40)
        anomalies = TestExecutor().run(tmp_path, stats, EVEN, span, warn=["*"])
        kinds = ("CLASS_VANISHED", "IMAGES_REMOVED")
        lines = list(map(str, read_findings(anomalies.uri)))
        assert sum(any(kind in line for kind in kinds) for line in lines) == expected
