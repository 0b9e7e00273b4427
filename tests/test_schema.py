"""Schema and validation: a fixed class list, and anomalies that stop the run."""

from __future__ import annotations

from pathlib import Path

import pytest
import tensorflow_data_validation as tfdv
from google.protobuf import text_format
from tensorflow_metadata.proto.v0 import schema_pb2, statistics_pb2
from tfx.types import artifact_utils, standard_artifacts

from components import features
from components.errors import BadDataError
from components.image_example_validator.executor import Executor
from components.image_schema_gen.schema import class_names, complete, counted


def statistics(labels: list[str], width: int = 8) -> statistics_pb2.DatasetFeatureStatisticsList:
    import pandas as pd

    frame = pd.DataFrame(
        {
            features.LABEL_TEXT: labels,
            features.LABEL: range(len(labels)),
            features.HEIGHT: 8,
            features.WIDTH: width,
            features.CHANNELS: 1,
            features.FORMAT: "png",
            features.BYTES: 100,
        }
    )
    return tfdv.generate_statistics_from_dataframe(frame)


@pytest.fixture(scope="module")
def schema() -> schema_pb2.Schema:
    # "z" is the most frequent and inference would put it first.
    inferred = tfdv.infer_schema(statistics(["z", "z", "a", "m"]))
    complete(inferred, ["a", "m", "z"])
    return inferred


def test_the_class_list_keeps_its_order(schema: schema_pb2.Schema) -> None:
    assert class_names(schema) == ["a", "m", "z"]


def test_more_classes_than_inference_keeps() -> None:
    names = [f"class {number:04d}" for number in range(500)]
    inferred = tfdv.infer_schema(statistics(names))
    complete(inferred, names)
    assert class_names(inferred) == names


def test_a_schema_without_classes_is_refused() -> None:
    with pytest.raises(ValueError, match="string_domain"):
        class_names(schema_pb2.Schema())


def test_every_feature_is_in_the_schema_and_only_the_counted_are_validated(
    schema: schema_pb2.Schema,
) -> None:
    every = {*features.STATISTICS, *features.IDENTIFYING}
    assert {feature.name for feature in schema.feature} == every
    assert all(feature.shape.dim[0].size == 1 for feature in schema.feature)
    assert {f.name for f in counted(schema).feature} == set(features.STATISTICS)


class TestValidator:
    def validate(
        self,
        schema: schema_pb2.Schema,
        stats: statistics_pb2.DatasetFeatureStatisticsList,
        tmp_path: Path,
    ) -> None:
        artifacts = {}
        for key, kind in (
            ("statistics", standard_artifacts.ExampleStatistics),
            ("schema", standard_artifacts.Schema),
            ("anomalies", standard_artifacts.ExampleAnomalies),
        ):
            artifacts[key] = kind()
            artifacts[key].uri = str(tmp_path / key)
        artifacts["statistics"].split_names = artifact_utils.encode_split_names(["train"])
        artifacts["statistics"].span = 0
        split = tmp_path / "statistics" / "Split-train"
        split.mkdir(parents=True)
        (split / "FeatureStats.pb").write_bytes(stats.SerializeToString())
        (tmp_path / "schema").mkdir()
        (tmp_path / "schema" / "schema.pbtxt").write_text(text_format.MessageToString(schema))
        Executor().Do(
            {key: [artifacts[key]] for key in ("statistics", "schema")},
            {"anomalies": [artifacts["anomalies"]]},
            {"exclude_splits": "[]"},
        )

    def test_data_like_the_schema_passes(self, schema: schema_pb2.Schema, tmp_path: Path) -> None:
        self.validate(schema, statistics(["a", "z"]), tmp_path)

    def test_an_unknown_class_stops_the_run(
        self, schema: schema_pb2.Schema, tmp_path: Path
    ) -> None:
        with pytest.raises(
            BadDataError, match=r"train: image/class/text: .*missing from the schema: q"
        ):
            self.validate(schema, statistics(["a", "q"]), tmp_path)
