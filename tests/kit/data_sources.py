"""Inputs of a data source, and TFRecord files to read."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import tensorflow as tf

from components.image_example_gen.dataset import list_data
from components.image_example_gen.fingerprint import fingerprint, read_all
from components.image_example_gen.options import Options
from components.image_example_gen.sources.base import Item


def items(source: str | Path, **options: Any) -> dict[str, Item]:
    data = list_data(str(source), Options(**options))
    return {item.name: item for unit in data.units for item in unit.items()}


def digest(source: str | Path, **options: Any) -> str:
    """Read a source as the driver does, and return the fingerprint."""
    data = list_data(str(source), Options(**options))
    return fingerprint(data, None if data.is_remote else read_all(data))


def labels(source: str | Path, **options: Any) -> dict[str, str]:
    return {name: item.label for name, item in items(source, **options).items()}


def problems(source: str | Path, **options: Any) -> dict[str, str]:
    return {
        name: ": ".join(item.problem)
        for name, item in items(source, **options).items()
        if item.problem
    }


def example(**values: bytes | int | list[bytes]) -> bytes:
    """Serialize a tf.Example; `__` in a name stands for a slash."""
    features = {}
    for name, value in values.items():
        if isinstance(value, int):
            feature = tf.train.Feature(int64_list=tf.train.Int64List(value=[value]))
        else:
            many = value if isinstance(value, list) else [value]
            feature = tf.train.Feature(bytes_list=tf.train.BytesList(value=many))
        features[name.replace("__", "/")] = feature
    message = tf.train.Example(features=tf.train.Features(feature=features))
    return bytes(message.SerializeToString())


def write_records(path: Path, *records: bytes, compression: str = "") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tf.io.TFRecordWriter(str(path), compression) as writer:
        for record in records:
            writer.write(record)
    return path
