"""The distance of new images from those that the baseline was trained on.

Three measures: class shares and derived features, both by TFDV's comparators, and the shift of the
mean embedding of the baseline model.
"""

from __future__ import annotations

import math
import tempfile
from collections.abc import Collection, Iterator, Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import tensorflow as tf
import tensorflow_data_validation as tfdv
from tensorflow_data_validation.statistics import stats_impl
from tensorflow_metadata.proto.v0 import schema_pb2, statistics_pb2

from components import features, reuse
from components.image_example_gen.dataset import list_data
from components.image_example_gen.files import Unusable
from components.image_example_gen.images import read_image
from components.image_example_gen.writing import Target, to_example
from components.image_statistics_gen.executor import options as statistics_options
from components.image_statistics_gen.executor import read_columns
from components.storage import staging
from pipeline.retraining.drift_report import Distance, Drift
from pipeline.settings.data import DataConfig
from pipeline.settings.retraining import DriftConfig

TEXTS = (features.LABEL_TEXT, features.FORMAT)
NUMBERS = (
    features.HEIGHT,
    features.WIDTH,
    features.ASPECT,
    features.CHANNELS,
    features.MEAN,
    features.CONTRAST,
    features.BYTES,
)
MAX_REFERENCE = 2000  # images
DRAWS = 10
MARGIN = 1.5
BATCH = 32
SIGNATURE = "embeddings"


def measure(
    data: DataConfig, names: Collection[str], examples_uri: str, model_uri: str, limits: DriftConfig
) -> Drift | None:
    """Compare the inputs called `names` with a sample of the baseline's training images.

    Args:
      data: location of the inputs.
      names: the new inputs.
      examples_uri: the Examples artifact of the baseline.
      model_uri: the baseline's Model artifact.
      limits: distances above which images count as drifted.

    Returns None if fewer than `limits.min_examples` new images can be read, or the Examples
    artifact is missing.
    """
    new = list(_new(data, names))
    reference = list(sample(examples_uri, ["train"], MAX_REFERENCE))
    if len(new) < limits.min_examples or not reference:
        return None
    distances = [
        *statistics_distances(_columns(new), _columns(reference), limits),
        *_embedding_distance(new, reference, model_uri, limits),
    ]
    return Drift(len(new), len(reference), tuple(distances))


def statistics_distances(
    new: pa.RecordBatch, reference: pa.RecordBatch, limits: DriftConfig
) -> list[Distance]:
    """Measure the distances of the features in `TEXTS` and `NUMBERS`, list columns of both.

    L-infinity distance for texts, Jensen-Shannon divergence for numbers. If many images have
    exactly the same size, chance alone makes the divergence large. So a limit is at least MARGIN
    times the divergence of samples of the reference, each with as many images as there are new.
    """
    before = statistics(reference)
    random = np.random.default_rng(0)
    chance: dict[str, float] = {}
    for _ in range(DRAWS):
        drawn = random.choice(reference.num_rows, min(new.num_rows, reference.num_rows))
        for name, value in measured(statistics(reference.take(pa.array(drawn))), before):
            chance[name] = max(chance.get(name, 0.0), value)
    distances = []
    for name, value in measured(statistics(new), before):
        limit = limits.max_statistics_distance
        if name == features.LABEL_TEXT:
            limit = limits.max_label_distance
        kind = "L-infinity distance" if name in TEXTS else "Jensen-Shannon divergence"
        limit = max(limit, round(MARGIN * chance.get(name, 0.0), 4))
        distances.append(Distance(name, kind, round(value, 4), limit))
    return distances


def measured(
    now: statistics_pb2.DatasetFeatureStatisticsList,
    before: statistics_pb2.DatasetFeatureStatisticsList,
    texts: Sequence[str] = TEXTS,
    numbers: Sequence[str] = NUMBERS,
) -> Iterator[tuple[str, float]]:
    """Measure TFDV's distance of each feature: L-infinity for texts, Jensen-Shannon for numbers."""
    schema = schema_pb2.Schema()
    kinds = {".".join(each.path.step): each.type for each in now.datasets[0].features}
    for name in texts:
        feature = schema.feature.add(name=name, type=schema_pb2.BYTES)
        feature.drift_comparator.infinity_norm.threshold = 0
    for name in numbers:
        is_float = kinds[name] == statistics_pb2.FeatureNameStatistics.FLOAT
        kind = schema_pb2.FLOAT if is_float else schema_pb2.INT
        feature = schema.feature.add(name=name, type=kind)
        feature.drift_comparator.jensen_shannon_divergence.threshold = 0
    found = tfdv.validate_statistics(now, schema, previous_statistics=before)
    for info in found.drift_skew_info:
        for measurement in info.drift_measurements:
            yield ".".join(info.path.step), measurement.value


def embedding_shift(new: np.ndarray, reference: np.ndarray) -> float:
    """Measure the distance between mean embeddings [N, D] and [M, D], in standard deviations.

    The root mean square, over the dimensions, of the difference of means divided by the reference's
    standard deviation. Its expectation for two samples of the same images, 1/N + 1/M, is subtracted
    before the root, so that these are about 0 apart.
    """
    variance = reference.var(axis=0)
    variance = variance + 1e-3 * max(float(variance.mean()), 1e-12)
    squared = ((new.mean(axis=0) - reference.mean(axis=0)) ** 2 / variance).mean()
    return math.sqrt(max(0.0, float(squared) - 1 / len(new) - 1 / len(reference)))


def _new(data: DataConfig, names: Collection[str]) -> Iterator[bytes]:
    """Yield serialized tf.Examples of the readable inputs."""
    for unit in list_data(data.source, data.options).units:
        for item in unit.items():
            if item.name not in names or item.problem:
                continue
            try:
                picture = read_image(item.load(), data.max_pixels)
            except Unusable:
                continue  # the ingest accounts for it
            yield to_example(picture, item, Target(0, "", ""), unit.span).SerializeToString()


def sample(examples_uri: str, splits: Sequence[str], most: int) -> Iterator[bytes]:
    """Yield at most `most` serialized examples, evenly spread over the splits."""
    files = [name for names in reuse.files_of(examples_uri, splits).values() for name in names]
    shards = reuse.read_shards(examples_uri)
    count = sum(shards.get(name, 0) for name in files)
    if files:
        paths = [staging.here(f"{examples_uri}/{name}") for name in files]
        records = tf.data.TFRecordDataset(paths).shard(max(1, -(-count // most)), 0)
        yield from records.as_numpy_iterator()


def _columns(records: Sequence[bytes]) -> pa.RecordBatch:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "records")
        with tf.io.TFRecordWriter(str(path)) as writer:
            for record in records:
                writer.write(record)
        batches = list(read_columns(str(path), (*TEXTS, *NUMBERS)))
    return pa.Table.from_batches(batches).combine_chunks().to_batches()[0]


def statistics(columns: pa.RecordBatch) -> statistics_pb2.DatasetFeatureStatisticsList:
    """Compute TFDV's statistics of list columns."""
    return stats_impl.generate_statistics_in_memory(columns, statistics_options())


def _embedding_distance(
    new: Sequence[bytes], reference: Sequence[bytes], model_uri: str, limits: DriftConfig
) -> Iterator[Distance]:
    model = tf.saved_model.load(f"{model_uri}/Format-Serving")
    if SIGNATURE not in model.signatures:
        return  # exported before there was one

    def embed(records: Sequence[bytes]) -> np.ndarray:
        images = [
            tf.train.Example.FromString(record).features.feature[features.IMAGE].bytes_list.value[0]
            for record in records
        ]
        batches = (images[start : start + BATCH] for start in range(0, len(images), BATCH))
        outputs = [
            model.signatures[SIGNATURE](tf.constant(batch))["embedding"].numpy()
            for batch in batches
        ]
        return np.concatenate(outputs).reshape(len(images), -1).astype(np.float64)

    shift = embedding_shift(embed(new), embed(reference))
    yield Distance(
        "mean embedding",
        "shift in standard deviations",
        round(shift, 4),
        limits.max_embedding_shift,
    )
