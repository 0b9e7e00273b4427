"""Tensors, sessions and metrics of the development server, without a network."""

from __future__ import annotations

import functools
import json
import shutil
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import hypothesis
import hypothesis.strategies as st
import numpy as np
import pytest
import tensorflow as tf
from tensorflow.core.framework import types_pb2
from tensorflow.core.protobuf.meta_graph_pb2 import TensorInfo

from components.model_server.client import strings
from components.model_server.errors import ServingError
from components.model_server.model import LoadedModel, Session
from components.model_server.service import Metrics
from components.model_server.tensors import (
    Arrays,
    from_json,
    from_proto,
    parse_json,
    to_json,
    to_proto,
)
from tests.kit.serving import example, picture
from tests.kit.tiny_export import write_warmup

INPUTS = {
    "text": TensorInfo(dtype=types_pb2.DT_STRING),
    "number": TensorInfo(dtype=types_pb2.DT_FLOAT),
    "count": TensorInfo(dtype=types_pb2.DT_UINT8),
    "flag": TensorInfo(dtype=types_pb2.DT_BOOL),
}


def parsed(content: Any, *names: str) -> Arrays:
    return from_json(parse_json(json.dumps(content).encode()), {n: INPUTS[n] for n in names})


floats = functools.partial(np.array, dtype=np.float32)


def outcome(read: Callable[[], Arrays]) -> tuple[Arrays, str]:
    """Return what was read, or nothing and the code of the refusal."""
    try:
        return read(), "OK"
    except ServingError as error:
        return {}, error.code


def read_json(body: bytes, inputs: dict[str, TensorInfo]) -> Arrays:
    return from_json(parse_json(body), inputs)


class TestJson:
    @pytest.mark.parametrize(
        ("name", "value", "wanted"),
        [
            ("number", [[1, 2.5], [3, 4]], np.array([[1, 2.5], [3, 4]], np.float32)),
            ("number", 7, np.array(7, np.float32)),
            ("count", [0, 255], np.array([0, 255], np.uint8)),
            ("flag", [True, False], np.array([True, False])),
            ("text", ["é", {"b64": "AP8="}], strings(["é".encode(), b"\0\xff"])),
            ("text", [["a"], ["b"]], strings([b"a", b"b"]).reshape(2, 1)),
            ("text", "a", strings([b"a"]).reshape(())),
        ],
        ids=str,
    )
    def test_values_get_the_type_of_the_signature(
        self, name: str, value: Any, wanted: np.ndarray
    ) -> None:
        array = parsed({"inputs": value}, name)[name]
        assert array.dtype == wanted.dtype
        np.testing.assert_array_equal(array, wanted)

    @pytest.mark.parametrize(
        ("name", "value"),
        [
            ("number", ["1"]),
            ("number", [[1], [2, 3]]),
            ("number", [None]),
            ("number", [10**400]),
            ("count", [1.5]),
            ("count", [2**31]),
            ("count", [-(2**31) - 1]),
            ("flag", [1]),
            ("text", [1]),
            ("text", [["a"], "b"]),
            ("text", [["a"], ["b", "c"]]),
        ],
        ids=str,
    )
    def test_values_of_another_type_or_shape_are_refused(self, name: str, value: Any) -> None:
        with pytest.raises(ServingError, match=name):
            parsed({"inputs": {name: value}}, name)

    def test_rows_of_named_values_become_columns(self) -> None:
        rows = [{"text": "a", "number": 1}, {"text": "b", "number": 2}]
        columns = parsed({"instances": rows}, "text", "number")
        np.testing.assert_array_equal(columns["text"], strings([b"a", b"b"]))
        np.testing.assert_array_equal(columns["number"], floats([1, 2]))

    def test_several_inputs_must_be_named(self) -> None:
        with pytest.raises(ServingError, match=r"name them: \['number', 'text'\]"):
            parsed({"inputs": ["a"]}, "text", "number")

    def test_a_single_output_stands_without_its_name(self) -> None:
        outputs = {"p": floats([[0.5], [0.25]])}
        assert to_json(outputs, by_row=True) == {"predictions": [[0.5], [0.25]]}
        assert to_json(outputs, by_row=False) == {"outputs": [[0.5], [0.25]]}

    def test_only_outputs_named_bytes_are_encoded(self) -> None:
        outputs = {"x_bytes": strings([b"\xff"]), "x": strings([b"a"])}
        assert to_json(outputs, by_row=False) == {
            "outputs": {"x_bytes": [{"b64": "/w=="}], "x": ["a"]}
        }
        with pytest.raises(ServingError) as caught:
            to_json({"x": strings([b"\xff"])}, by_row=False)
        assert caught.value.code == "INTERNAL"

    def test_outputs_without_a_common_batch_size_have_no_rows(self) -> None:
        outputs = {"a": np.zeros(2, np.float32), "b": np.zeros(3, np.float32)}
        with pytest.raises(ServingError, match="no row format"):
            to_json(outputs, by_row=True)
        with pytest.raises(ServingError, match="no row format"):
            to_json({"a": np.zeros((), np.float32)}, by_row=True)

    @hypothesis.given(body=st.binary(max_size=60))
    def test_any_bytes_are_parsed_or_refused(self, body: bytes) -> None:
        self.assert_read_or_refused(body)

    @hypothesis.given(
        content=st.recursive(
            st.none() | st.booleans() | st.floats() | st.integers() | st.text(max_size=5),
            lambda inner: (
                st.lists(inner, max_size=4)
                | st.dictionaries(st.sampled_from(["b64", *INPUTS]), inner, max_size=4)
            ),
            max_leaves=12,
        ),
        form=st.sampled_from(["inputs", "instances"]),
    )
    def test_any_json_is_read_or_refused(self, content: Any, form: str) -> None:
        self.assert_read_or_refused(json.dumps({form: content}).encode())

    def assert_read_or_refused(self, body: bytes) -> None:
        for name, info in INPUTS.items():
            inputs = {name: info}
            arrays, code = outcome(functools.partial(read_json, body, inputs))
            assert code in ("OK", "INVALID_ARGUMENT")
            wanted = tf.dtypes.as_dtype(info.dtype).as_numpy_dtype
            assert all(array.dtype == wanted for array in arrays.values())


class TestProto:
    @pytest.mark.parametrize(
        "array",
        [floats([[1, 2]]), np.int64(3), strings([b"a", b"\xff" * 40]), np.zeros((0, 2), bool)],
        ids=str,
    )
    def test_arrays_survive_the_way_there_and_back(self, array: np.ndarray) -> None:
        found = from_proto("x", to_proto(np.asarray(array)), 1000)
        assert found.shape == array.shape
        np.testing.assert_array_equal(found, array)

    @hypothesis.given(raw=st.binary(max_size=40))
    def test_any_message_is_read_or_refused(self, raw: bytes) -> None:
        from google.protobuf.message import DecodeError
        from tensorflow.core.framework.tensor_pb2 import TensorProto

        try:
            proto = TensorProto.FromString(raw)
        except DecodeError:
            return
        _, code = outcome(lambda: {"x": from_proto("x", proto, 1000)})
        assert code in ("OK", "INVALID_ARGUMENT")


@pytest.fixture(scope="module")
def echo(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Session]:
    """Load a model that hands its inputs through, and adds 1 to its numbers."""

    class Echo(tf.Module):
        @tf.function(
            input_signature=[
                tf.TensorSpec(None, tf.string, "text"),
                tf.TensorSpec(None, tf.float32, "number"),
            ]
        )
        def call(self, text: tf.Tensor, number: tf.Tensor) -> dict[str, tf.Tensor]:
            return {"text": tf.identity(text), "more": number + 1}

    module = Echo()
    directory = tmp_path_factory.mktemp("echo")
    tf.saved_model.save(module, str(directory), module.call.get_concrete_function())
    session = Session(directory)
    yield session
    session.close()


def run_echo(session: Session, text: np.ndarray, number: np.ndarray) -> list[np.ndarray]:
    signature = session.signatures["serving_default"]
    feeds = {signature.inputs["text"].name: text, signature.inputs["number"].name: number}
    return session.run(feeds, [signature.outputs[name].name for name in ("text", "more")])


class TestSession:
    def test_tensors_of_any_size_go_in_and_out(self, echo: Session) -> None:
        # Short strings are stored in the tensor itself, long ones elsewhere.
        text = strings([b"", b"short", b"\0" * 22, b"\xff" * 23, bytes(100_000)]).reshape(5, 1)
        number = np.arange(6, dtype=np.float32).reshape(2, 3)[:, ::2]  # not contiguous
        found, more = run_echo(echo, text, number)
        np.testing.assert_array_equal(found, text)
        np.testing.assert_array_equal(more, number + 1)

    def test_empty_tensors_go_in_and_out(self, echo: Session) -> None:
        text, more = run_echo(echo, strings([]), np.zeros((0, 3), np.float32))
        assert text.shape == (0,)
        assert more.shape == (0, 3)

    def test_many_threads_get_their_own_answers(self, echo: Session) -> None:
        barrier = threading.Barrier(8)

        def ask(thread: int) -> None:
            barrier.wait()
            for turn in range(100):
                text = strings([f"{thread} {turn}".encode() * 10])
                found, more = run_echo(echo, text, floats([thread]))
                assert found.tolist() == text.tolist()
                assert more.tolist() == [thread + 1]

        with ThreadPoolExecutor(8) as threads:
            for future in [threads.submit(ask, thread) for thread in range(8)]:
                future.result()

    def test_tensorflows_own_errors_come_with_their_code(self, echo: Session) -> None:
        signature = echo.signatures["serving_default"]
        feeds = {signature.inputs["text"].name: floats([1])}
        with pytest.raises(ServingError) as caught:
            echo.run(feeds, [signature.outputs["text"].name])
        assert caught.value.code == "INVALID_ARGUMENT"
        with pytest.raises(ServingError, match="absent"):
            echo.run({}, ["absent:0"])

    def test_a_folder_without_a_model_is_an_error(self, tmp_path: Path) -> None:
        with pytest.raises(ServingError) as caught:
            Session(tmp_path)
        assert caught.value.code == "NOT_FOUND"

    def test_missing_variables_are_met_when_it_loads(
        self, tmp_path: Path, colour_models: list[Path]
    ) -> None:
        directory = Path(shutil.copytree(colour_models[0], tmp_path / "1"))
        shutil.rmtree(directory / "variables")
        with pytest.raises(ServingError) as caught:
            LoadedModel(directory)
        assert caught.value.code == "INVALID_ARGUMENT"


class TestWarmUp:
    @pytest.fixture
    def directory(self, tmp_path: Path, colour_models: list[Path]) -> Path:
        return Path(shutil.copytree(colour_models[0], tmp_path / "1"))

    def test_requests_for_any_signature_are_replayed(self, directory: Path) -> None:
        examples = [example(picture("red")), example(picture("blue"))]
        write_warmup(directory, examples, "serving_examples", "examples")
        loaded = LoadedModel(directory)
        assert loaded.warmup_records == 2
        loaded.close()

    def test_more_records_than_tensorflow_serving_takes_are_refused(self, directory: Path) -> None:
        write_warmup(directory, [picture()] * 1001, "serving_default", "image_bytes")
        with pytest.raises(ServingError, match="more than 1000 records"):
            LoadedModel(directory)

    def test_a_request_of_another_kind_is_refused(self, directory: Path) -> None:
        from tensorflow_serving.apis.prediction_log_pb2 import PredictionLog

        write_warmup(directory, [], "", "")
        log = PredictionLog()
        log.classify_log.request.model_spec.name = "x"
        path = directory / "assets.extra" / "tf_serving_warmup_requests"
        with tf.io.TFRecordWriter(str(path)) as writer:
            writer.write(log.SerializeToString())
        with pytest.raises(ServingError, match=r"record 1 of \S+ is not a predict request"):
            LoadedModel(directory)


class TestMetrics:
    def test_buckets_are_cumulative_and_end_with_all(self) -> None:
        metrics = Metrics()
        for microseconds in (1, 1e3, 1e15):
            metrics.latency.labels("m", "predict", "REST").observe(microseconds)
        lines = metrics.page().splitlines()
        name = ":tensorflow:serving:request_latency"
        buckets = [
            (float(line.split('le="')[1].split('"')[0]), float(line.rpartition(" ")[2]))
            for line in lines
            if line.startswith(f"{name}_bucket{{")
        ]
        counts = [count for _, count in buckets]
        assert buckets[0] == (10, 1)
        assert buckets[-1] == (float("inf"), 3)
        assert counts == sorted(counts)
        assert next(count for bound, count in buckets if bound >= 1000) == 2
        labels = 'API="predict",entrypoint="REST",model_name="m"'
        assert f"{name}_count{{{labels}}} 3.0" in lines
