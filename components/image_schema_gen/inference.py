"""The schema that data has, from its statistics."""

from __future__ import annotations

from collections.abc import Iterable

import tensorflow_data_validation as tfdv
from tensorflow_metadata.proto.v0 import schema_pb2, statistics_pb2

from components.image_schema_gen.schema import (
    add_identifying,
    class_names,
    complete,
    counted,
    set_classes,
)


def infer(
    statistics: Iterable[statistics_pb2.DatasetFeatureStatisticsList],
    classes: Iterable[str],
    base: schema_pb2.Schema | None = None,
) -> schema_pb2.Schema:
    """Infer the schema of data with `statistics`, one per split, and `classes`.

    The order of the label's domain is the order of the model's outputs everywhere downstream: it
    is that of `base`, whose other content is kept as well, and then alphabetical.
    """
    schema = counted(base) if base else schema_pb2.Schema()
    for split in statistics:
        schema = tfdv.update_schema(schema, split)
    if base is None:
        complete(schema, sorted(classes))
    else:
        known = class_names(base)
        set_classes(schema, [*known, *sorted(set(classes) - set(known))])
        add_identifying(schema)
    return schema
