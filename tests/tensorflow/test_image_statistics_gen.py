"""Statistics of the derived features: the same as TFX's own, without the image bytes."""

from __future__ import annotations

from pathlib import Path

import pytest
import tensorflow as tf
from tensorflow_metadata.proto.v0 import statistics_pb2
from tfx.components.statistics_gen import executor as stock
from tfx.components.statistics_gen import stats_artifact_utils
from tfx.types import artifact_utils, standard_artifacts

from components import features
from components.image_statistics_gen import executor
from tests.kit.ingested import BEAM_ARGS

COUNTS = {"train": 1500, "eval": 7}


def example(index: int) -> bytes:
    made = tf.train.Example()
    for name in features.STATISTICS:
        made.features.feature[name].int64_list.value.append(index % 11)
    for name, value in (
        (features.LABEL_TEXT, b"cat" if index % 3 else "größer".encode()),
        (features.FORMAT, b"jpeg"),
        (features.IMAGE, bytes(100)),
    ):
        made.features.feature[name].bytes_list.value[:] = [value]
    made.features.feature[features.BYTES].float_list.value[:] = [index / 7]
    return made.SerializeToString()


@pytest.fixture(scope="module")
def examples(tmp_path_factory: pytest.TempPathFactory) -> standard_artifacts.Examples:
    made = standard_artifacts.Examples()
    made.uri, made.span = str(tmp_path_factory.mktemp("examples")), 5
    made.split_names = artifact_utils.encode_split_names(list(COUNTS))
    for split, count in COUNTS.items():
        folder = Path(made.uri, f"Split-{split}")
        folder.mkdir()
        for shard in range(2):
            with tf.io.TFRecordWriter(str(folder / f"data_tfrecord-{shard}")) as writer:
                for index in range(shard, count, 2):
                    writer.write(example(index))
    return made


def features_of(
    statistics: standard_artifacts.ExampleStatistics, split: str
) -> dict[str, statistics_pb2.FeatureNameStatistics]:
    loaded = stats_artifact_utils.load_statistics(statistics, split).proto().datasets[0]
    assert loaded.num_examples == COUNTS[split]
    numbers = [f for f in loaded.features if f.HasField("num_stats")]
    for feature in numbers:  # the last digits depend on how the rows were batched
        feature.num_stats.mean = round(feature.num_stats.mean, 9)
        feature.num_stats.std_dev = round(feature.num_stats.std_dev, 9)
    return {feature.path.step[0]: feature for feature in loaded.features}


def test_are_those_of_stock_statistics_gen(
    examples: standard_artifacts.Examples, tmp_path: Path
) -> None:
    own, theirs = (standard_artifacts.ExampleStatistics() for _ in range(2))
    own.uri, theirs.uri = str(tmp_path / "own"), str(tmp_path / "theirs")
    context = executor.Executor.Context(beam_pipeline_args=BEAM_ARGS, tmp_dir=str(tmp_path))
    executor.Executor(context).Do({"examples": [examples]}, {"statistics": [own]}, {})
    options = executor.options()
    options.feature_allowlist = list(features.STATISTICS)
    stock.Executor(stock.Executor.Context(beam_pipeline_args=BEAM_ARGS, tmp_dir=str(tmp_path))).Do(
        {"examples": [examples]},
        {"statistics": [theirs]},
        {"stats_options_json": options.to_json(), "exclude_splits": "[]"},
    )
    assert own.span == 5
    for split in COUNTS:
        assert features_of(own, split) == features_of(theirs, split)
        assert set(features_of(own, split)) == set(features.STATISTICS)


def test_are_the_same_to_the_last_digit_on_every_runner(
    examples: standard_artifacts.Examples, tmp_path: Path
) -> None:
    """As what follows has them in its cache key. tests/e2e/test_prism.py has workers elsewhere."""
    found = []
    for mode in ("in_memory", "multi_threading"):
        made = standard_artifacts.ExampleStatistics()
        made.uri = str(tmp_path / mode / "1")
        args = [*BEAM_ARGS, f"--direct_running_mode={mode}", "--direct_num_workers=3"]
        context = executor.Executor.Context(beam_pipeline_args=args, tmp_dir=str(tmp_path))
        executor.Executor(context).Do({"examples": [examples]}, {"statistics": [made]}, {})
        found.append(
            [Path(made.uri, f"Split-{each}", "FeatureStats.pb").read_bytes() for each in COUNTS]
        )
    assert found[0] == found[1]
    for content in found[0]:
        (dataset,) = statistics_pb2.DatasetFeatureStatisticsList.FromString(content).datasets
        names = [feature.path.step[0] for feature in dataset.features]
        assert names == sorted(features.STATISTICS)


def test_columns_hold_every_row_in_order_in_batches_of_a_bound(
    examples: standard_artifacts.Examples,
) -> None:
    shard = str(Path(examples.uri, "Split-train", "data_tfrecord-0"))
    batches = list(executor.read_columns(shard, [features.BYTES, features.LABEL_TEXT]))
    assert all(batch.num_rows <= executor.ROWS for batch in batches)
    values = [value for batch in batches for value in batch.column(0).to_pylist()]
    assert values == [[pytest.approx(index / 7)] for index in range(0, 1500, 2)]


def test_an_empty_shard_has_no_columns(tmp_path: Path) -> None:
    with tf.io.TFRecordWriter(str(tmp_path / "shard")):
        pass
    assert list(executor.read_columns(str(tmp_path / "shard"), features.STATISTICS)) == []
