"""Transform's output for a few images, made without TFX, and the arguments of a run_fn on it."""

from __future__ import annotations

import dataclasses
import functools
import hashlib
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import tensorflow as tf
import tensorflow_transform as tft
from google.protobuf import text_format
from tensorflow_metadata.proto.v0 import schema_pb2
from tensorflow_transform.tf_metadata import schema_utils
from tfx.components.trainer.fn_args_utils import FnArgs

from components import features
from components.image_transform import executor
from trainer_module import transform

# An encoded image and the name of its class.
Image = tuple[bytes, str]


@dataclasses.dataclass(frozen=True)
class Transformed:
    """Files of one Transform run; its examples are in `root`, named after their split."""

    root: Path
    graph: Path
    schema: Path
    image_size: int
    train_size: int | None

    @property
    def output(self) -> tft.TFTransformOutput:
        return tft.TFTransformOutput(str(self.graph))

    def files(self, split: str) -> list[str]:
        """Return the transformed examples of `split`."""
        return sorted(map(str, self.root.glob(f"{split}-*")))

    def fn_args(self, output: Path, **custom_config: Any) -> FnArgs:
        """Arguments for a `run_fn` that writes below `output`."""
        return FnArgs(
            train_files=[str(self.root / "train-*")],
            eval_files=[str(self.root / "eval-*")],
            schema_path=str(self.schema),
            transform_graph_path=str(self.graph),
            serving_model_dir=str(output / "serving"),
            model_run_dir=str(output / "run"),
            custom_config={
                "recipe": "vit",
                "hyperparameters": {},
                "batch_size": 16,
                "epochs": 1,
                "keep": "best",
                "balance": "none",
                "recent_weight": 1,
                "recent_spans": 1,
                "gradient_accumulation": 1,
                "precision": "auto",
                "jit_compile": False,
                "seed": 0,
                "deterministic": True,
                "image_size": self.image_size,
                "train_size": self.train_size,
                **custom_config,
            },
        )


def run_transform(
    root: Path,
    splits: Mapping[str, Sequence[Image]],
    classes: Sequence[str],
    *,
    image_size: int = 8,
    train_size: int | None = None,
    interpolation: str = "bilinear",
) -> Transformed:
    """Do what ImageTransform does for `splits`, with its code, but without TFX and Beam."""
    graph = root / "graph"
    function = functools.partial(
        transform.preprocessing_fn,
        custom_config={
            "image_size": image_size,
            "train_size": train_size,
            "interpolation": interpolation,
            "antialias": True,
            "resize_mode": "stretch",
            "crop_fraction": 1.0,
            "classes": list(classes),
        },
    )
    executor.write_graph(function, str(graph))
    loaded = executor.load_graph(str(graph))
    for split, images in splits.items():
        source = write_records(root / f"raw-{split}", [serialized(raw(*each)) for each in images])
        groups = executor.transform_records(loaded, [source])
        write_records(root / f"{split}-0", (each for _, group in groups for each in group))
    schema = root / "schema.pbtxt"
    schema.write_text(text_format.MessageToString(schema_of(classes)))
    return Transformed(root, graph, schema, image_size, train_size)


def write_records(path: Path, records: Iterable[bytes]) -> str:
    """Write an uncompressed TFRecord file and return its path."""
    with tf.io.TFRecordWriter(str(path)) as writer:
        for record in records:
            writer.write(record)
    return str(path)


def schema_of(classes: Sequence[str]) -> schema_pb2.Schema:
    """Return the schema of `raw` examples."""
    schema = schema_utils.schema_from_feature_spec(executor.INPUTS)
    schema.string_domain.add(name=features.LABEL_TEXT, value=classes)
    return schema


def raw(encoded: bytes, label: str) -> dict[str, bytes]:
    """Return the features of an image that training and evaluation use."""
    return {
        features.IMAGE: encoded,
        features.LABEL_TEXT: label.encode(),
        features.SHA256: content_hash(encoded),
    }


def content_hash(encoded: bytes) -> bytes:
    """Return the value of `features.SHA256` for an image."""
    return hashlib.sha256(encoded).hexdigest().encode()


def serialized(row: Mapping[str, Any]) -> bytes:
    """Make a tf.Example of bytes and integers."""
    example = tf.train.Example()
    for name, value in row.items():
        feature = example.features.feature[name]
        if isinstance(value, bytes):
            feature.bytes_list.value.append(value)
        else:
            feature.int64_list.value.append(int(value))
    return example.SerializeToString()
