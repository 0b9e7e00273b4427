"""The parts of ImageExampleGen's schema that statistics do not cover."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from google.protobuf import text_format
from tensorflow_metadata.proto.v0 import schema_pb2, statistics_pb2

from components import features, storage
from components.errors import BadDataError, read_back


def complete(schema: schema_pb2.Schema, classes: Sequence[str]) -> None:
    """Add the features that statistics leave out to an inferred `schema`, and the class list."""
    by_name = {feature.name: feature for feature in schema.feature}
    by_name[features.LABEL_TEXT].domain = features.LABEL_TEXT
    # Inference takes a number that is only ever 0 or 1 for a truth value.
    by_name[features.CHANNELS].int_domain.CopyFrom(schema_pb2.IntDomain(min=1, max=4))
    by_name[features.SPAN].int_domain.CopyFrom(schema_pb2.IntDomain(min=0))
    by_name[features.LABEL].int_domain.CopyFrom(schema_pb2.IntDomain(min=0))
    # A kind of file that has not come yet is not an anomaly: ingest made it fit.
    by_name[features.FORMAT].domain = features.FORMAT
    by_name[features.NORMALIZED].ClearField("domain")
    _remove_domains(schema, features.FORMAT, features.NORMALIZED)
    schema.string_domain.add(name=features.FORMAT, value=["jpeg", "png"])
    set_classes(schema, classes)
    add_identifying(schema)
    for feature in schema.feature:  # ImageExampleGen writes each of them once into every example
        feature.presence.CopyFrom(schema_pb2.FeaturePresence(min_fraction=1, min_count=1))
        feature.shape.CopyFrom(schema_pb2.FixedShape(dim=[schema_pb2.FixedShape.Dim(size=1)]))


def load(path: str) -> schema_pb2.Schema:
    """Read the schema that a node has written, by its path or URI."""
    with read_back(path):
        return text_format.Parse(storage.read_bytes(path), schema_pb2.Schema())


def set_classes(schema: schema_pb2.Schema, classes: Sequence[str]) -> None:
    """Make `classes` the label's domain."""
    # Inference orders label values by frequency and gives up beyond 100 of them.
    _remove_domains(schema, features.LABEL_TEXT)
    schema.string_domain.add(name=features.LABEL_TEXT, value=classes)


def _remove_domains(schema: schema_pb2.Schema, *names: str) -> None:
    others = [domain for domain in schema.string_domain if domain.name not in names]
    del schema.string_domain[:]
    schema.string_domain.extend(others)


def add_identifying(schema: schema_pb2.Schema) -> None:
    """Add what is in every example but in no statistics to `schema`, where it is missing."""
    present = {feature.name for feature in schema.feature}
    for name in features.IDENTIFYING:
        if name not in present:
            feature = schema.feature.add(name=name, type=schema_pb2.BYTES)
            feature.presence.CopyFrom(schema_pb2.FeaturePresence(min_fraction=1, min_count=1))
            feature.shape.CopyFrom(schema_pb2.FixedShape(dim=[schema_pb2.FixedShape.Dim(size=1)]))


def read_schema(path: Path) -> schema_pb2.Schema:
    """Read a schema file that a person may have edited.

    Raises BadDataError, naming file and line, where it is not a schema, lists a class twice or has
    no class list.
    """
    try:
        text = path.read_text(encoding="utf-8")
        schema = text_format.Parse(text, schema_pb2.Schema())
        names = class_names(schema)
    except text_format.ParseError as error:
        raise BadDataError(f"{path}: not a schema in text format: {error}") from error
    except OSError as error:
        raise BadDataError(f"{path}: cannot be read: {error.strerror}") from error
    except ValueError as error:
        raise BadDataError(f"{path}: {error}") from error
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise BadDataError(f"{path}: class {twice[0]!r} is listed twice; the position is its id")
    return schema


def class_names(schema: schema_pb2.Schema) -> list[str]:
    """Return the class list of `schema`, in label-id order.

    Raises ValueError where the label has no string domain.
    """
    for domain in schema.string_domain:
        if domain.name == features.LABEL_TEXT and domain.value:
            return list(domain.value)
    raise ValueError(
        f"the schema has no string_domain named {features.LABEL_TEXT!r}; it must list the class "
        "names in the order of their ids"
    )


def class_counts(statistics: statistics_pb2.DatasetFeatureStatisticsList) -> dict[str, int]:
    """Count the images of each class that has any, from the statistics of one split."""
    for feature in statistics.datasets[0].features:
        if list(feature.path.step) == [features.LABEL_TEXT]:
            buckets = feature.string_stats.rank_histogram.buckets
            return {bucket.label: int(bucket.sample_count) for bucket in buckets}
    return {}


def counted(schema: schema_pb2.Schema) -> schema_pb2.Schema:
    """Copy a schema without the features that statistics do not cover, to validate them."""
    copy = schema_pb2.Schema()
    copy.CopyFrom(schema)
    del copy.feature[:]
    copy.feature.extend(
        feature for feature in schema.feature if feature.name not in features.IDENTIFYING
    )
    return copy
