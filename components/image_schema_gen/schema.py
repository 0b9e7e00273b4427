"""What the schema of ImageExampleGen's output says beyond what statistics can tell."""

from __future__ import annotations

from tensorflow_metadata.proto.v0 import schema_pb2

from components import features


def complete(schema: schema_pb2.Schema, classes: list[str]) -> None:
    """Add the features that statistics leave out to an inferred `schema`, and the class list.

    The order of the label's domain is the order of the model's outputs everywhere downstream.
    """
    by_name = {feature.name: feature for feature in schema.feature}
    by_name[features.LABEL_TEXT].domain = features.LABEL_TEXT
    # Inference takes a number that is only ever 0 or 1 for a truth value.
    by_name[features.CHANNELS].int_domain.CopyFrom(schema_pb2.IntDomain(min=1, max=4))
    by_name[features.SPAN].int_domain.CopyFrom(schema_pb2.IntDomain(min=0))
    # A kind of file that has not come yet is no anomaly: ingest made it fit.
    by_name[features.FORMAT].domain = features.FORMAT
    by_name[features.NORMALIZED].ClearField("domain")
    # Inference orders label values by frequency and gives up beyond 100 of them.
    set_here = (features.LABEL_TEXT, features.FORMAT, features.NORMALIZED)
    others = [domain for domain in schema.string_domain if domain.name not in set_here]
    del schema.string_domain[:]
    schema.string_domain.extend(others)
    schema.string_domain.add(name=features.LABEL_TEXT, value=classes)
    schema.string_domain.add(name=features.FORMAT, value=["bmp", "gif", "jpeg", "png"])
    schema.feature.extend(
        schema_pb2.Feature(name=name, type=schema_pb2.BYTES) for name in features.IDENTIFYING
    )
    for feature in schema.feature:  # ImageExampleGen writes each of them once into every example
        feature.presence.CopyFrom(schema_pb2.FeaturePresence(min_fraction=1, min_count=1))
        feature.shape.CopyFrom(schema_pb2.FixedShape(dim=[schema_pb2.FixedShape.Dim(size=1)]))


def class_names(schema: schema_pb2.Schema) -> list[str]:
    """The class list of `schema`, in label-id order.

    Raises ValueError where the label has no string domain.
    """
    for domain in schema.string_domain:
        if domain.name == features.LABEL_TEXT and domain.value:
            return list(domain.value)
    raise ValueError(
        f"the schema has no string_domain named {features.LABEL_TEXT!r}; it must list the class "
        "names in the order of their ids"
    )


def counted(schema: schema_pb2.Schema) -> schema_pb2.Schema:
    """A copy with the features that statistics cover: what statistics can be validated against."""
    copy = schema_pb2.Schema()
    copy.CopyFrom(schema)
    del copy.feature[:]
    copy.feature.extend(
        feature for feature in schema.feature if feature.name not in features.IDENTIFYING
    )
    return copy
