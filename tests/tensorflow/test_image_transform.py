"""ImageTransform: what it writes, and that training, evaluation and serving see the same pixels."""

from __future__ import annotations

import re
from collections import Counter
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf
import tensorflow_transform as tft
from PIL import Image

from components import features
from components.errors import BadDataError
from components.image_example_gen.images import read_image
from components.image_schema_gen.schema import class_names, read_schema
from components.image_transform import executor
from pipeline import local_runner
from pipeline.config import load
from pipeline.execution import build_pipeline
from pipeline.workspace import Workspace
from tests.kit import image_corpus
from tests.kit.runs import DATA_NODES
from tests.kit.transformed import run_transform, serialized, write_records
from trainer_module import export, input_pipeline, recipes, transform

# Kinds that are converted to PNG before they are sent to a server, as no graph decodes them.
CONVERTED = re.compile(r"\.(tiff?|gif|bmp|webp)$", re.IGNORECASE)
KINDS = [
    name
    for name in image_corpus.VALID
    if "/" not in name and not name.startswith(("one pixel", "panorama"))
]


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four of each kind of the corpus in each of two classes."""
    root = tmp_path_factory.mktemp("images")
    for label, start in (("cat", 0), ("dog", 1000)):
        (root / label).mkdir()
        for number, name in enumerate(KINDS):
            for copy in range(4):
                # What tells the copies apart must not lengthen the longest name.
                path = root / label / str(copy) / name
                path.parent.mkdir(exist_ok=True)
                path.write_bytes(image_corpus.VALID[name][0](start + 4 * number + copy))
    return root


@pytest.fixture(scope="module")
def workspace(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("workspace")


def records(uri: str, split: str) -> tf.data.Dataset:
    return tf.data.TFRecordDataset(sorted(map(str, Path(uri, f"Split-{split}").iterdir())))


class _IntegerSums(keras.layers.Layer):
    """Sums of pixels that float32 holds exactly, so that their order makes no difference."""

    def call(self, pixels: Any) -> Any:
        flat = tf.cast(tf.reshape(pixels, [-1, int(np.prod(pixels.shape[1:]))]), tf.int32)
        signs = np.random.default_rng(0).integers(-1, 2, (flat.shape[1], 8))
        return tf.cast(flat @ tf.constant(signs, tf.int32), tf.float32) / 4096


@pytest.mark.parametrize("recipe", recipes.names())
def test_training_evaluation_and_serving_see_bit_equal_pixels_of_every_kind_of_file(
    recipe: str, images: Path, workspace: Path, tmp_path: Path
) -> None:
    overrides = {
        "data.source": str(images),
        "data.train": 1,
        "data.eval": 1,
        "train.recipe": recipe,
        "workspace": str(workspace),
    }
    config = load(None, overrides).config
    space = Workspace(config.workspace)
    with space.lock():
        result = local_runner.run(build_pipeline(config, space, DATA_NODES), space, recipe)
    outputs = {node.node: node.outputs for node in result.nodes}
    (graph,) = outputs["Transform"]["transform_graph"]
    (transformed,) = outputs["Transform"]["transformed_examples"]
    (examples,) = outputs["ImageExampleGen"]["examples"]
    classes = class_names(read_schema(Path(outputs["SchemaGen"]["schema"][0].uri, "schema.pbtxt")))
    size = config.transform.image_size

    raw = [record for split in ("train", "eval") for record in records(examples.uri, split)]
    parsed = [tf.train.Example.FromString(record.numpy()).features.feature for record in raw]
    names = [each[features.FILENAME].bytes_list.value[0].decode() for each in parsed]
    files = image_corpus.files(images)
    assert {files[name].name for name in names} == set(KINDS)
    # What a server is sent: the file itself, or what a client has to make of it.
    originals = [files[name].read_bytes() for name in names]
    sent = [read_image(data, config.data.max_pixels).encoded for data in originals]
    converted = {files[n].name for n, a, b in zip(names, originals, sent, strict=True) if a != b}
    assert converted == {name for name in KINDS if CONVERTED.search(name)}

    stored = np.stack(
        [
            pixels
            for split in ("train", "eval")
            for pixels, _ in input_pipeline.read(
                [f"{transformed.uri}/Split-{split}/*"], size, classes, split
            ).images.as_numpy_iterator()
        ]
    )
    output = tft.TFTransformOutput(graph.uri)
    served = transform.prepare(output, size, sent).numpy()
    wrong = [name for name, a, b in zip(names, stored, served, strict=True) if (a != b).any()]
    assert wrong == []
    assert len(np.unique(stored.reshape(len(stored), -1), axis=0)) > len(KINDS)

    # The same through the model's own signatures, in a session as in TensorFlow Serving.
    pixels = keras.Input((size, size, 3), dtype="uint8")
    model = keras.Model(pixels, _IntegerSums()(pixels))
    export.export(model, output, size, [str(index) for index in range(8)], str(tmp_path))
    expected = tf.nn.softmax(model(stored)).numpy()
    for signature, inputs in (
        (export.IMAGES, sent),
        (export.EXAMPLES, [record.numpy() for record in raw]),
    ):
        outputs_ = export.run_in_session(str(tmp_path), signature, inputs)
        np.testing.assert_array_equal(outputs_["probabilities"], expected)


def picture(seed: int) -> Image.Image:
    noise = np.random.default_rng(seed).integers(0, 256, (7, 9, 3), dtype=np.uint8)
    return Image.fromarray(noise).resize((97 + seed, 61), Image.Resampling.BICUBIC)


class TestRecords:
    @pytest.fixture(scope="class")
    def encoded(self) -> list[bytes]:
        return [image_corpus.encoded(picture(seed), "JPEG") for seed in range(9)]

    def test_keep_their_order_and_every_run_gives_the_same_bytes(
        self, encoded: list[bytes], tmp_path: Path
    ) -> None:
        made = run_transform(tmp_path, {"train": [(each, "a") for each in encoded]}, ["a"])
        graph = executor.load_graph(str(made.graph))
        groups = executor.transform_records(graph, [str(tmp_path / "raw-train")])
        again = [record for _, group in groups for record in group]
        (file,) = made.files("train")
        written = [record.numpy() for record in tf.data.TFRecordDataset(file)]
        assert written == again
        expected = transform.prepare(made.output, made.image_size, encoded).numpy()
        for record, pixels in zip(written, expected, strict=True):
            example = tf.train.Example.FromString(record)
            assert example.features.feature[transform.IMAGE_KEY].bytes_list.value == [
                pixels.tobytes()
            ]

    def test_an_image_that_cannot_be_decoded_is_named(
        self, encoded: list[bytes], tmp_path: Path
    ) -> None:
        made = run_transform(tmp_path, {"train": [(encoded[0], "a")]}, ["a"])
        rows = [
            {
                features.IMAGE: data,
                features.LABEL_TEXT: b"a",
                features.SHA256: b"0",
                features.FILENAME: f"ä/{index}.jpg".encode(),
            }
            for index, data in enumerate([*encoded[:5], b"no image", *encoded[5:]])
        ]
        source = write_records(tmp_path / "bad", map(serialized, rows))
        with pytest.raises(BadDataError, match=r"ä/5\.jpg: "):
            list(executor.transform_records(executor.load_graph(str(made.graph)), [source]))

    def test_every_file_is_there_with_its_records_also_an_empty_one(
        self, encoded: list[bytes], tmp_path: Path
    ) -> None:
        made = run_transform(tmp_path, {"train": [(encoded[0], "a")]}, ["a"])
        counts = {"0": 0, "1": executor.GROUP + 1, "2": 0, "3": 2, "4": 0}
        row = {features.IMAGE: encoded[0], features.LABEL_TEXT: b"a", features.SHA256: b"0"}
        sources = {
            write_records(tmp_path / name, [serialized(row)] * count): count
            for name, count in counts.items()
        }
        graph = executor.load_graph(str(made.graph))
        found = list(executor.transform_records(graph, sources))
        assert list(dict.fromkeys(source for source, _ in found)) == list(sources)
        totals = Counter[str]()
        for source, records in found:
            totals[source] += len(records)
        assert totals == sources
