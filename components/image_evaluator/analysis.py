"""One pass of TFMA over a split, which calls the models' signatures and keeps every prediction.

Each image is read once, and each model is called once for it. Batches are small, and the bytes of
images are dropped right after the prediction: they pass no Beam stage, and memory does not grow
with the number of images.
"""

from __future__ import annotations

import io
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import apache_beam as beam
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import tensorflow as tf
import tensorflow_model_analysis as tfma
from tensorflow_model_analysis.evaluators import evaluator
from tensorflow_model_analysis.extractors import extractor, predictions_extractor
from tensorflow_model_analysis.proto import config_pb2
from tensorflow_model_analysis.writers import writer

from components import features, storage
from components.image_evaluator import slices
from components.image_evaluator.figures import SLICES
from components.jobs import Meter
from components.progress import report
from components.servable import EXAMPLES, LABELS

CANDIDATE, BASELINE = "candidate", "baseline"
PROBABILITIES = "probabilities"
BATCH = 64  # images
BATCH_BYTES = (
    2**24
)  # of encoded images: a batch is decoded at once, so it must have few photographs

SCHEMA = pa.schema(
    [
        ("sha256", pa.string()),
        ("filename", pa.string()),
        ("split", pa.string()),
        ("label", pa.int64()),
        (CANDIDATE, pa.list_(pa.float32())),
        (BASELINE, pa.list_(pa.float32())),
        *((name, pa.string()) for name in SLICES),
    ]
)


def eval_config(models: Iterable[str], classes: int) -> config_pb2.EvalConfig:
    """Configure TFMA to compute counts and top-k accuracies by slice, which it does correctly.

    Args:
        models: `CANDIDATE`, and perhaps `BASELINE`.
        classes: number of the candidate's classes.
    """
    metrics = [
        config_pb2.MetricConfig(class_name="ExampleCount"),
        config_pb2.MetricConfig(class_name="SparseCategoricalAccuracy"),
    ]
    if classes > 5:
        metrics.append(
            config_pb2.MetricConfig(
                class_name="SparseTopKCategoricalAccuracy",
                config='"k": 5, "name": "top_5_accuracy"',
            )
        )
    return config_pb2.EvalConfig(
        model_specs=[
            config_pb2.ModelSpec(
                name=name,
                is_baseline=name == BASELINE,
                signature_name=EXAMPLES,
                prediction_key=PROBABILITIES,
                preprocessing_function_names=[LABELS],
                label_key="label",
            )
            for name in models
        ],
        slicing_specs=[
            config_pb2.SlicingSpec(),
            *(config_pb2.SlicingSpec(feature_keys=[key]) for key in (features.LABEL_TEXT, *SLICES)),
        ],
        metrics_specs=[config_pb2.MetricsSpec(metrics=metrics)],
    )


def analyse(
    pipeline: beam.Pipeline,
    split: str,
    shards: Sequence[str],
    images: int,
    models: Mapping[str, str],
    classes: int,
    spans: Mapping[int, str],
    output: str,
    predictions: str,
) -> None:
    """Add the pass to a Beam pipeline.

    Args:
        pipeline: to add it to.
        split: name.
        shards: TFRecord files of the split.
        images: number of images in them, for the progress shown.
        models: folders of SavedModels by `CANDIDATE` and perhaps `BASELINE`.
        classes: number of the candidate's classes.
        spans: names of spans by number; other spans are called by their number.
        output: folder for TFMA's result.
        predictions: Parquet file to write, of `SCHEMA`, ordered by content.
    """
    config = eval_config(models, classes)
    shared = [
        tfma.default_eval_shared_model(path, model_name=name, eval_config=config)
        for name, path in models.items()
    ]
    # TFMA names a model only where there are two.
    eval_models = shared if len(shared) > 1 else shared[0]._replace(model_name="")
    names = list(models) if len(models) > 1 else [""]
    _ = (
        pipeline
        | f"Shards[{split}]" >> beam.Create(list(shards), reshuffle=True)
        | f"Read[{split}]" >> beam.FlatMap(read_batches, spans)
        | f"Evaluate[{split}]"
        >> tfma.ExtractEvaluateAndWriteResults(
            eval_config=config,
            eval_shared_model=eval_models,
            output_path=output,
            extractors=_extractors(config, eval_models),
            evaluators=[
                *tfma.default_evaluators(eval_config=config, eval_shared_model=eval_models),
                evaluator.Evaluator(
                    stage_name="KeepPredictions",
                    run_after="DropImages",
                    ptransform=_KeepPredictions(split, names, images),
                ),
            ],
            writers=[
                *tfma.default_writers(output, eval_models, config),
                writer.Writer("WritePredictions", _WritePredictions(predictions)),
            ],
        )
    )


def read_batches(shard: str, spans: Mapping[int, str]) -> Iterator[dict[str, Any]]:
    """Yield TFMA's extracts of the images of a TFRecord file, at most `BATCH` at a time."""
    batch: list[bytes] = []
    size = 0
    for record in tf.data.TFRecordDataset(shard, buffer_size=2**20).as_numpy_iterator():
        if batch and (len(batch) == BATCH or size + len(record) > BATCH_BYTES):
            yield _extracts(batch, spans)
            batch, size = [], 0
        batch.append(record)
        size += len(record)
    if batch:
        yield _extracts(batch, spans)


def _extracts(records: list[bytes], spans: Mapping[int, str]) -> dict[str, Any]:
    rows = [_properties(tf.train.Example.FromString(record), spans) for record in records]
    return {
        tfma.INPUT_KEY: np.array(records, dtype=object),
        tfma.FEATURES_KEY: {name: np.array([row[name] for row in rows]) for name in rows[0]},
    }


def _properties(example: tf.train.Example, spans: Mapping[int, str]) -> dict[str, str]:
    """Return the identity, label and slices of an image."""
    values = example.features.feature

    def text(name: str) -> str:
        return b"".join(values[name].bytes_list.value).decode()

    height, width, span = (
        values[name].int64_list.value[0]
        for name in (features.HEIGHT, features.WIDTH, features.SPAN)
    )
    label, filename = text(features.LABEL_TEXT), text(features.FILENAME)
    return {
        features.SHA256: text(features.SHA256),
        features.FILENAME: filename,
        features.LABEL_TEXT: label,
        "size": slices.size(height, width),
        "aspect": slices.aspect(values[features.ASPECT].float_list.value[0]),
        "brightness": slices.brightness(values[features.MEAN].float_list.value[0]),
        "source": slices.source(filename, label),
        "span": spans.get(span, str(span)),
    }


def _extractors(config: config_pb2.EvalConfig, models: Any) -> list[extractor.Extractor]:
    """Return TFMA's extractors, and one that drops the images after the predictions."""
    found = []
    for each in tfma.default_extractors(eval_config=config, eval_shared_model=models):
        found.append(each)
        if each.stage_name == predictions_extractor.PREDICTIONS_EXTRACTOR_STAGE_NAME:
            found.append(extractor.Extractor("DropImages", beam.Map(_without_images)))
    return found


def _without_images(extracts: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in extracts.items() if key != tfma.INPUT_KEY}


class _KeepPredictions(beam.PTransform):
    """Converts extracts to tables of `SCHEMA`."""

    def __init__(self, split: str, models: Sequence[str], images: int) -> None:
        super().__init__()
        self._split, self._models, self._images = split, models, images

    def expand(self, extracts: beam.PCollection) -> dict[str, beam.PCollection]:
        tables = extracts | "ToTable" >> beam.Map(
            _to_table, self._split, self._models, self._images, Meter()
        )
        return {"predictions": tables}


def _to_table(
    extracts: dict[str, Any], split: str, models: Sequence[str], images: int, meter: Meter
) -> pa.Table:
    known, answers = extracts[tfma.FEATURES_KEY], extracts[tfma.PREDICTIONS_KEY]
    labels = extracts[tfma.LABELS_KEY]
    if len(models) == 1:
        answers, labels = {models[0]: answers}, {models[0]: labels}
    probabilities: list[list[np.ndarray] | list[None]] = [
        list(answers[model][PROBABILITIES]) for model in models
    ]
    rows = len(probabilities[0])
    if len(models) == 1:
        probabilities.append([None] * rows)
    report("step", what=f"evaluate {split}", advance=rows, total=images, unit="images")
    if meter.advance:
        meter.advance(rows)
    meter.pay()
    columns = [
        known[features.SHA256],
        known[features.FILENAME],
        [split] * rows,
        np.reshape(labels[models[0]], -1),
        *probabilities,
        *(known[name] for name in SLICES),
    ]
    return pa.table(
        [pa.array(column, field.type) for column, field in zip(columns, SCHEMA, strict=True)],
        schema=SCHEMA,
    )


class _WritePredictions(beam.PTransform):
    """Writes all tables, of at most some kB per image, to one file."""

    def __init__(self, path: str) -> None:
        super().__init__()
        self._path = path

    def expand(self, evaluation: dict[str, beam.PCollection]) -> beam.PCollection:
        return (
            evaluation["predictions"]
            | "Gather" >> beam.combiners.ToList()
            | "Write" >> beam.Map(_write, self._path)
        )


def _write(tables: list[pa.Table], path: str) -> None:
    # Workers finish in any order, and the same models must result in the same file.
    table = pa.concat_tables([SCHEMA.empty_table(), *tables])
    write_table(table.take(pc.sort_indices(table, sort_keys=[("sha256", "ascending")])), path)


def write_table(table: pa.Table, path: str) -> None:
    """Write Parquet to a path or URI; several attempts may write at the same time."""
    buffer = io.BytesIO()
    pq.write_table(table, buffer)
    storage.write_bytes(path, buffer.getvalue(), durable=False)
