"""The distance of new images from those that the baseline was trained on.

Three measures: the shares of the classes and the derived statistics, both with TFDV's comparators,
and the mean embedding by the baseline itself.
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
    """Compare the inputs called `names` with a sample of the images that the baseline learned from.

    Args:
      data: where the inputs are.
      names: of those that are new.
      examples_uri: the Examples artifact that the baseline was made of.
      model_uri: the baseline's Model artifact.
      limits: from which distances on images count as drifted.

    None where there is nothing to compare: fewer than `limits.min_examples` of the new images can
    be read, or the old ones are gone.
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
    """Distances of the features in `TEXTS` and `NUMBERS`, which both have a list column for each.

    L-infinity distance for texts, Jensen-Shannon divergence for numbers. The latter is far from 0
    by chance where many images have the very same size: a limit is never below MARGIN times what
    samples of the reference, as many as there are new images, reach themselves.
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
    """Measure TFDV's distance of each feature: L-infinity of texts, Jensen-Shannon of numbers."""
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

    The root of the mean, over the dimensions, of the squared difference of the means divided by the
    reference's variance. What chance alone gives, 1/N + 1/M, is taken off: two samples of the same
    images are 0 apart, but for what is left of chance.
    """
    variance = reference.var(axis=0)
    variance = variance + 1e-3 * max(float(variance.mean()), 1e-12)
    squared = ((new.mean(axis=0) - reference.mean(axis=0)) ** 2 / variance).mean()
    return math.sqrt(max(0.0, float(squared) - 1 / len(new) - 1 / len(reference)))


def _new(data: DataConfig, names: Collection[str]) -> Iterator[bytes]:
    """Yield serialized tf.Examples of the inputs that can be read."""
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
    """Yield at most `most` of the serialized examples, evenly spread over all of the splits."""
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
