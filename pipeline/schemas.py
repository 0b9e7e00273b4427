"""The schema that data is validated against: read, written, and compared line by line."""

from __future__ import annotations

import difflib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from google.protobuf import text_format
from tensorflow_metadata.proto.v0 import schema_pb2

from components.errors import BadDataError
from components.image_schema_gen.schema import class_names, read_schema
from pipeline.errors import DataError


def read(path: Path) -> schema_pb2.Schema:
    """Read a schema. Raises DataError."""
    try:
        return read_schema(path)
    except BadDataError as error:
        raise DataError(str(error)) from error


def text(schema: schema_pb2.Schema) -> str:
    """Write a schema as a text proto."""
    return text_format.MessageToString(schema, as_utf8=True)


def changes(old: schema_pb2.Schema | None, new: schema_pb2.Schema) -> Iterator[str]:
    """Yield the lines that go, with -, and those that come, with +."""
    for line in difflib.ndiff([] if old is None else _lines(old), _lines(new)):
        if line[0] in "+-":
            yield line


def _lines(schema: schema_pb2.Schema) -> list[str]:
    """List each class and each feature on a line, the classes in the order of their ids."""

    def one_line(message: Any) -> str:
        return text_format.MessageToString(message, as_utf8=True, as_one_line=True)

    classes = class_names(schema)
    rest = schema_pb2.Schema()
    rest.CopyFrom(schema)
    domains = [domain for domain in rest.string_domain if list(domain.value) != classes]
    del rest.feature[:], rest.string_domain[:]
    return [
        *(f"class {name}" for name in classes),
        *sorted(f"feature {one_line(feature)}" for feature in schema.feature),
        *sorted(f"domain {one_line(domain)}" for domain in domains),
        *([f"other {one_line(rest)}"] if rest.ByteSize() else []),
    ]
