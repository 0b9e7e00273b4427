"""The recorder's own reading of images, tensors and records, which needs no TensorFlow."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import subprocess
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf
from tensorflow.core.framework.tensor_pb2 import TensorProto

from components import framing
from components.image_example_gen import conversion
from components.image_example_gen.files import Unusable
from components.image_example_gen.images import read_image
from pipeline.monitoring import messages
from tests.kit import image_corpus


def test_the_recorder_does_not_load_it() -> None:
    code = (
        "import sys; from pipeline.monitoring import messages, recorder;"
        "assert not {'tensorflow', 'keras', 'scipy'} & sys.modules.keys();"
        "from tensorflow_serving.apis import model_service_pb2_grpc; import tensorflow as tf;"
        "assert tf.train.Example is messages.Example; assert int(tf.constant(1)) == 1"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_image_figures_are_those_of_the_ingest() -> None:
    compared = 0
    for seed, (name, (make, _)) in enumerate(image_corpus.VALID.items()):
        large = partial(image_corpus.pixels, width=391, height=263)
        for size in (None, large) if name.endswith(".jpg") else (None,):
            with pytest.MonkeyPatch.context() as patch:
                if size:
                    patch.setattr(image_corpus, "pixels", size)
                data = make(seed)
            found = conversion.summary(data, 10**8)
            if found is None:
                continue
            compared += 1
            expected = dataclasses.asdict(read_image(data, 10**8))
            colour = 1.5 if "cmyk" in name.lower() else 1e-9
            for field, value in found._asdict().items():
                close = pytest.approx(expected[field], abs=colour)
                assert value == (close if isinstance(value, float) else expected[field]), name
    assert compared > 30


@pytest.mark.parametrize("make", image_corpus.BROKEN.values(), ids=list(image_corpus.BROKEN))
def test_an_image_that_the_model_refuses_has_no_figures(
    make: tuple[Callable[[int], bytes], str],
) -> None:
    data = make[0](0)
    with contextlib.suppress(Unusable):
        assert conversion.summary(data, 10**8) is None


def test_records_are_tensorflows_to_the_byte(tmp_path: Path) -> None:
    contents = [b"", b"a", os.urandom(100_000)]
    with tf.io.TFRecordWriter(str(tmp_path / "a")) as writer:
        for content in contents:
            writer.write(content)
    assert b"".join(map(framing.framed, contents)) == (tmp_path / "a").read_bytes()
    with (tmp_path / "a").open("rb") as file:
        assert list(framing.records(file, 10**6)) == contents


@pytest.mark.parametrize("place", [0, 9, 14, 60])
def test_a_changed_byte_is_found(tmp_path: Path, place: int) -> None:
    whole = bytearray(framing.framed(bytes(50)))
    whole[place] ^= 1
    (tmp_path / "a").write_bytes(whole)
    with (tmp_path / "a").open("rb") as file, pytest.raises(ValueError, match="damaged"):
        list(framing.records(file, 10**6))


@pytest.mark.parametrize(
    "values",
    [
        np.array([[0.25, 0.5], [1, 2]], np.float32),
        np.zeros((0, 2), np.float32),
        np.array([b"a", b"\xff"], object),
    ],
)
def test_tensors_are_read_in_both_forms(values: np.ndarray) -> None:
    forms = [tf.make_tensor_proto(values)]
    if values.dtype != object:
        shape = forms[0].tensor_shape
        kind = forms[0].dtype
        forms.append(TensorProto(dtype=kind, tensor_shape=shape, float_val=values.ravel()))
    for proto in forms:
        assert np.array_equal(messages.array(proto), values)
    given = [b"a", b""]
    expected = tf.make_tensor_proto(given, tf.string)
    assert np.array_equal(tf.make_ndarray(messages.strings(given)), tf.make_ndarray(expected))


def test_equal_values_may_be_given_once() -> None:
    proto = tf.make_tensor_proto(0.5, tf.float32, [2, 3])
    assert messages.array(proto).tolist() == [[0.5] * 3] * 2
    with pytest.raises(ValueError, match="dtype"):
        messages.array(tf.make_tensor_proto([1]))
