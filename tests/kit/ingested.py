"""Runs of ImageExampleGen's executor, and the examples that they wrote."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import tensorflow as tf
from tfx.types import artifact_utils, standard_artifacts

from components import features
from components.image_example_gen.dataset import list_data
from components.image_example_gen.executor import Executor
from components.image_example_gen.ingest import Ingest, ingest, work_here
from components.image_example_gen.options import Options

# Without an image TFX packs itself up for workers, in seconds and 50 MB for each executor.
BEAM_ARGS = ["--runner=FnApiRunner", "--sdk_container_image=none"]
SHARES = {"train": 4, "eval": 1}


def check(source: Path | str, shares: Mapping[str, int] = SHARES, **options: Any) -> Ingest:
    """Ingest without Beam and without writing."""
    chosen = Options(**options)
    return ingest(list_data(str(source), chosen), shares, chosen, work_here(chosen))


def execute(source: Path | str, output: Path, **options: Any) -> standard_artifacts.Examples:
    examples = standard_artifacts.Examples()
    examples.uri = str(output)
    context = Executor.Context(beam_pipeline_args=BEAM_ARGS, tmp_dir=str(output / ".tmp"))
    properties = {
        "input_base": str(source),
        "splits": json.dumps(SHARES),
        "options": Options(**options).to_json(),
    }
    Executor(context).Do({}, {"examples": [examples]}, properties)
    return examples


def records(examples: standard_artifacts.Examples, split: str) -> list[tf.train.Example]:
    files = sorted(Path(examples.uri, f"Split-{split}").iterdir())
    return [
        tf.train.Example.FromString(record.numpy())
        for record in tf.data.TFRecordDataset([str(file) for file in files])
    ]


def by_split(examples: standard_artifacts.Examples) -> dict[str, list[tf.train.Example]]:
    names = artifact_utils.decode_split_names(examples.split_names)
    return {split: records(examples, split) for split in names}


def value(example: tf.train.Example, name: str) -> Any:
    feature = example.features.feature[name]
    (found,) = getattr(feature, feature.WhichOneof("kind")).value
    return found.decode() if isinstance(found, bytes) and name != features.IMAGE else found


def lines(examples: standard_artifacts.Examples, name: str) -> list[dict[str, Any]]:
    text = Path(examples.uri, name).read_text(encoding="utf-8")
    return [json.loads(line) for line in text.splitlines()]
