"""The schema: a fixed class list, inferred or curated, and never a stale one."""

from __future__ import annotations

from pathlib import Path

import pytest
import tensorflow_data_validation as tfdv
from google.protobuf import text_format
from tensorflow_metadata.proto.v0 import schema_pb2
from tfx.types import standard_artifacts

from components import features
from components.errors import BadDataError
from components.image_schema_gen.executor import ImportExecutor
from components.image_schema_gen.inference import infer
from components.image_schema_gen.schema import class_names, counted, read_schema
from tests.kit.data_statistics import statistics


@pytest.fixture(scope="module")
def schema() -> schema_pb2.Schema:
    # "z" is the most frequent and TFDV would put it first.
    return infer([statistics(["z", "z", "a", "m"])], ["z", "a", "m"])


def test_inferred_classes_are_in_alphabetical_order(schema: schema_pb2.Schema) -> None:
    assert class_names(schema) == ["a", "m", "z"]


def test_every_feature_is_in_the_schema_and_only_the_counted_are_validated(
    schema: schema_pb2.Schema,
) -> None:
    every = {*features.STATISTICS, *features.IDENTIFYING}
    assert {feature.name for feature in schema.feature} == every
    assert all(feature.shape.dim[0].size == 1 for feature in schema.feature)
    assert {f.name for f in counted(schema).feature} == set(features.STATISTICS)


def test_a_schema_that_is_built_upon_keeps_its_class_ids_and_its_rules(
    schema: schema_pb2.Schema,
) -> None:
    base = schema_pb2.Schema()
    base.CopyFrom(schema)
    for domain in base.string_domain:
        if domain.name == features.LABEL_TEXT:
            domain.value[:] = ["z", "gone", "a"]
    (width,) = (feature for feature in base.feature if feature.name == features.WIDTH)
    width.int_domain.max = 100

    widened = infer([statistics(["b", "a", "m"])], ["b", "a", "m"], base)

    assert class_names(widened) == ["z", "gone", "a", "b", "m"]
    names = [feature.name for feature in widened.feature]
    assert len(names) == len(set(names))
    (width,) = (feature for feature in widened.feature if feature.name == features.WIDTH)
    assert width.int_domain.max == 100


def test_other_kinds_of_file_and_later_spans_are_no_anomaly(schema: schema_pb2.Schema) -> None:
    later = statistics(["a", "z"], image_format="jpeg", normalized="orientation", span=9)
    anomalies = tfdv.validate_statistics(later, counted(schema))
    assert dict(anomalies.anomaly_info) == {}


class TestCuratedFile:
    def write(self, tmp_path: Path, text: str) -> Path:
        path = tmp_path / "schema.pbtxt"
        path.write_text(text, encoding="utf-8")
        return path

    def test_not_text_format_is_named_with_its_line(self, tmp_path: Path) -> None:
        path = self.write(tmp_path, 'feature { name: "x" }\nfeature { nme: "y" }\n')
        with pytest.raises(BadDataError, match=rf"^{path}: .*: 2:11 : .*nme"):
            read_schema(path)

    def test_without_classes_is_refused(self, tmp_path: Path) -> None:
        with pytest.raises(
            BadDataError, match=r"schema\.pbtxt: .*string_domain .*'image/class/text'"
        ):
            read_schema(self.write(tmp_path, 'feature { name: "x" }'))

    def test_a_class_listed_twice_is_refused(self, tmp_path: Path) -> None:
        domain = 'string_domain { name: "image/class/text" value: "a" value: "b" value: "a" }'
        with pytest.raises(BadDataError, match=r"schema\.pbtxt: class 'a' .*twice"):
            read_schema(self.write(tmp_path, domain))

    def test_missing_file_is_named(self, tmp_path: Path) -> None:
        with pytest.raises(BadDataError, match=r"absent\.pbtxt"):
            read_schema(tmp_path / "absent.pbtxt")

    def test_is_imported_with_its_order_and_what_transform_needs(self, tmp_path: Path) -> None:
        source = 'string_domain { name: "image/class/text" value: "z" value: "ä" }'
        output = standard_artifacts.Schema()
        output.uri = str(tmp_path / "out")
        (tmp_path / "out").mkdir()
        properties = {"schema_file": str(self.write(tmp_path, source))}
        ImportExecutor().Do({}, {"schema": [output]}, properties)

        written = schema_pb2.Schema()
        text_format.Parse((tmp_path / "out" / "schema.pbtxt").read_text("utf-8"), written)
        assert class_names(written) == ["z", "ä"]
        assert {feature.name for feature in written.feature} == set(features.IDENTIFYING)
