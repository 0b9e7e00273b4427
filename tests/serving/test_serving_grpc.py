"""The gRPC interface of the contract of tests/serving/test_serving_contract.py."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import grpc
import numpy as np
import pytest
import tensorflow as tf
from google.protobuf.message import Message
from tensorflow_serving.apis import (
    get_model_metadata_pb2,
    get_model_status_pb2,
    model_management_pb2,
    model_service_pb2_grpc,
    predict_pb2,
    prediction_service_pb2_grpc,
)

from components.model_server.client import Client
from tests.kit.serving import (
    ECHO_VERSION,
    MODEL,
    SECONDS,
    Running,
)


def tensor(value: Any, dtype: tf.DType = tf.int32) -> Any:
    return tf.make_tensor_proto(value, dtype)


def request(signature: str = "int32", **fields: Any) -> predict_pb2.PredictRequest:
    made = predict_pb2.PredictRequest(**{"inputs": {"x": tensor([1])}, **fields})
    made.model_spec.name = MODEL
    made.model_spec.signature_name = signature
    return made


@contextlib.contextmanager
def stubs(echo_server: Running) -> Iterator[tuple[Any, Any]]:
    with grpc.insecure_channel(f"{echo_server.host}:{echo_server.grpc_port}") as channel:
        yield (
            prediction_service_pb2_grpc.PredictionServiceStub(channel),
            model_service_pb2_grpc.ModelServiceStub(channel),
        )


def refusal(call: Any, sent: Message) -> str:
    with pytest.raises(grpc.RpcError) as caught:
        call(sent, timeout=SECONDS)
    return str(caught.value.code().name)


class TestGrpc:
    @pytest.mark.parametrize(
        ("dtype", "value"),
        [
            ("int32", [[1, -2]]),
            ("int64", [2**62]),
            ("uint8", [255]),
            ("float32", [0.5, np.inf, np.nan]),
            ("float64", [1e-300]),
            ("bool", [True, False]),
            ("string", [b"\0\xff", b""]),
            ("int32", 7),
        ],
        ids=str,
    )
    def test_tensors_come_back_as_they_went_in(
        self, echo_client: Client, dtype: str, value: Any
    ) -> None:
        array = np.array(value, object if dtype == "string" else dtype)
        version, outputs = echo_client.predict(MODEL, {"x": array}, signature=dtype)
        assert version == ECHO_VERSION
        np.testing.assert_array_equal(outputs["x"], array)
        assert outputs["x"].dtype == array.dtype

    def test_packed_content_and_one_value_for_all_are_read(self, echo_server: Running) -> None:
        packed = tensor(np.arange(6, dtype=np.int32).reshape(2, 3))
        assert packed.tensor_content
        same = tensor([3])
        same.tensor_shape.dim[0].size = 4
        with stubs(echo_server) as (predictions, _):
            for sent, wanted in ((packed, [[0, 1, 2], [3, 4, 5]]), (same, [3, 3, 3, 3])):
                answer = predictions.Predict(request(inputs={"x": sent}), timeout=SECONDS)
                assert tf.make_ndarray(answer.outputs["x"]).tolist() == wanted
                assert answer.model_spec.signature_name == "int32"
                assert answer.model_spec.version.value == ECHO_VERSION

    def test_what_a_predict_request_lacks_or_has_too_much(self, echo_server: Running) -> None:
        nameless = request()
        nameless.model_spec.name = ""
        cases: list[tuple[Any, str]] = [
            (nameless, "INVALID_ARGUMENT"),
            (predict_pb2.PredictRequest(), "INVALID_ARGUMENT"),
            (request(output_filter=["x", "x"]), "INVALID_ARGUMENT"),
            (request(output_filter=["y"]), "INVALID_ARGUMENT"),
            (request(inputs={}), "INVALID_ARGUMENT"),
            (request(inputs={"x": tensor([1]), "y": tensor([1])}), "INVALID_ARGUMENT"),
            (request(inputs={"x": tensor([1.0], tf.float32)}), "INVALID_ARGUMENT"),
            (request(signature="none"), "FAILED_PRECONDITION"),
        ]
        with stubs(echo_server) as (predictions, _):
            assert [refusal(predictions.Predict, sent) for sent, _ in cases] == [
                code for _, code in cases
            ]

    def test_what_metadata_is_asked_for(self, echo_server: Running) -> None:
        def asked(*fields: str, **spec: Any) -> Any:
            made = get_model_metadata_pb2.GetModelMetadataRequest(metadata_field=fields)
            made.model_spec.name = spec.get("name", MODEL)
            if "version" in spec:
                made.model_spec.version.value = spec["version"]
            return made

        with stubs(echo_server) as (predictions, _):
            call = predictions.GetModelMetadata
            assert refusal(call, asked()) == "INVALID_ARGUMENT"
            assert refusal(call, asked("graph_def")) == "INVALID_ARGUMENT"
            assert refusal(call, asked("signature_def", version=9)) == "NOT_FOUND"
            assert refusal(call, asked("signature_def", name="none")) == "NOT_FOUND"
            answer = call(asked("signature_def"), timeout=SECONDS)
            assert answer.model_spec.version.value == ECHO_VERSION
            assert list(answer.metadata) == ["signature_def"]

    def test_what_status_is_asked_for(self, echo_server: Running) -> None:
        def asked(name: str, version: int | None = None) -> Any:
            made = get_model_status_pb2.GetModelStatusRequest()
            made.model_spec.name = name
            if version is not None:
                made.model_spec.version.value = version
            return made

        with stubs(echo_server) as (_, models):
            call = models.GetModelStatus
            assert refusal(call, get_model_status_pb2.GetModelStatusRequest()) == (
                "INVALID_ARGUMENT"
            )
            assert refusal(call, asked("none")) == "NOT_FOUND"
            assert refusal(call, asked(MODEL, 9)) == "NOT_FOUND"
            for version in (None, ECHO_VERSION):
                (found,) = call(asked(MODEL, version), timeout=SECONDS).model_version_status
                assert found.version == ECHO_VERSION
                assert found.state == get_model_status_pb2.ModelVersionStatus.AVAILABLE
                assert found.status.error_code == 0

    def test_a_configuration_that_cannot_be_is_refused(self, echo_server: Running) -> None:
        sent = model_management_pb2.ReloadConfigRequest()
        sent.config.model_config_list.config.add(name=MODEL, base_path="relative")
        with stubs(echo_server) as (_, models):
            assert refusal(models.HandleReloadConfigRequest, sent) == "INVALID_ARGUMENT"

    def test_methods_that_there_are_none_of(self, echo_server: Running) -> None:
        with grpc.insecure_channel(f"{echo_server.host}:{echo_server.grpc_port}") as channel:
            call = channel.unary_unary("/tensorflow.serving.PredictionService/Dream")
            with pytest.raises(grpc.RpcError) as caught:
                call(b"", timeout=SECONDS)
        assert caught.value.code() is grpc.StatusCode.UNIMPLEMENTED
