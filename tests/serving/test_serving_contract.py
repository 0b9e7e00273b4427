"""What every model server must do: the project's own one always, and a real one where there is one.

Name a tensorflow_model_server in TENSORFLOW_MODEL_SERVER to run these against it too.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest

from components.model_server.client import Client, strings
from components.model_server.errors import ServingError
from components.model_server.tensors import Arrays
from tests.kit.servers import running
from tests.kit.serving import (
    MODEL,
    PREDICT,
    SECONDS,
    Running,
    b64,
    connected,
    example,
    get,
    picture,
    post,
    push,
    rows,
    write_config,
)
from tests.kit.tiny_export import CLASSES, write_warmup


@pytest.fixture(scope="module")
def models(colour_models: list[Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Make a base path with versions 1 and 2, both with warm-up requests."""
    base = tmp_path_factory.mktemp("served")
    for number in (1, 2):
        directory = push(colour_models[number - 1], base, number)
        write_warmup(directory, [picture()], "serving_default", "image_bytes")
    return base


@pytest.fixture(scope="module")
def server(kind: str, models: Path) -> Iterator[Running]:
    """Serve versions 1 (stable) and 2 (canary); started with the labels, without a version before.

    Tests leave it as it is.
    """
    config = models / "models.config"
    write_config(config, models, [1, 2], stable=1, canary=2)
    with running(kind, models, config) as started:
        started.wait_ready(SECONDS)
        yield started


@pytest.fixture
def client(server: Running) -> Iterator[Client]:
    with connected(server) as made:
        yield made


def assert_same(found: Arrays, wanted: Arrays) -> None:
    assert found.keys() == wanted.keys()
    for name in wanted:
        np.testing.assert_array_equal(found[name], wanted[name], name)


class TestPredict:
    IMAGES = (picture("red"), picture("green", kind="JPEG"), picture("blue", (3, 31), "BMP"))

    def test_rest_grpc_and_in_process_agree_to_the_last_bit(
        self, server: Running, client: Client, expected: Callable[..., Arrays]
    ) -> None:
        wanted = expected(2, self.IMAGES)
        assert list(wanted["label"]) == [b"red", b"green", b"blue"]
        version, over_grpc = client.predict(MODEL, {"image_bytes": strings(self.IMAGES)})
        assert version == 2
        assert_same(over_grpc, wanted)
        assert_same(rows(client.predict_images(MODEL, self.IMAGES)), wanted)

    def test_both_signatures_agree(
        self, server: Running, client: Client, expected: Callable[..., Arrays]
    ) -> None:
        examples = [example(image) for image in self.IMAGES]
        wanted = expected(2, self.IMAGES)
        _, over_grpc = client.predict(
            MODEL, {"examples": strings(examples)}, signature="serving_examples"
        )
        assert_same(over_grpc, wanted)
        content = {"signature_name": "serving_examples", "instances": [b64(e) for e in examples]}
        assert_same(rows(post(server, PREDICT, content).json()["predictions"]), wanted)

    @pytest.mark.parametrize(
        "instances",
        [
            [b64(picture("blue"))],
            [{"image_bytes": b64(picture("blue"))}],
        ],
        ids=["unnamed", "named"],
    )
    def test_rows_come_back_as_a_list_of_named_outputs(
        self, server: Running, instances: list[Any]
    ) -> None:
        answer = post(server, PREDICT, {"instances": instances})
        assert answer.status_code == 200
        assert answer.headers["Content-Type"].startswith("application/json")
        (row,) = answer.json()["predictions"]
        assert row.keys() == {"label", "probabilities"}
        assert row["label"] == "blue"
        assert len(row["probabilities"]) == len(CLASSES)

    @pytest.mark.parametrize(
        "inputs",
        [
            [b64(picture("red")), b64(picture("blue"))],
            {"image_bytes": [b64(picture("red")), b64(picture("blue"))]},
        ],
        ids=["unnamed", "named"],
    )
    def test_columns_come_back_as_an_object_of_outputs(self, server: Running, inputs: Any) -> None:
        answer = post(server, PREDICT, {"inputs": inputs})
        assert answer.status_code == 200
        outputs = answer.json()["outputs"]
        assert outputs["label"] == ["red", "blue"]
        assert np.shape(outputs["probabilities"]) == (2, len(CLASSES))

    @pytest.mark.parametrize(
        ("where", "version"),
        [
            ("", 2),
            ("/versions/1", 1),
            ("/versions/2", 2),
            ("/labels/stable", 1),
            ("/labels/canary", 2),
        ],
    )
    def test_the_url_chooses_the_version(
        self, server: Running, expected: Callable[..., Arrays], where: str, version: int
    ) -> None:
        answer = post(server, f"/v1/models/{MODEL}{where}:predict", {"instances": [b64(picture())]})
        assert_same(rows(answer.json()["predictions"]), expected(version, [picture()]))

    @pytest.mark.parametrize(
        ("spec", "version"),
        [({}, 2), ({"version": 1}, 1), ({"label": "stable"}, 1), ({"label": "canary"}, 2)],
    )
    def test_the_model_spec_chooses_the_version(
        self, client: Client, expected: Callable[..., Arrays], spec: Any, version: int
    ) -> None:
        served, outputs = client.predict(MODEL, {"image_bytes": strings([picture()])}, **spec)
        assert served == version
        assert_same(outputs, expected(version, [picture()]))

    def test_grpc_answers_only_the_outputs_asked_for(self, server: Running) -> None:
        response = grpc_predict(server, picture(), output_filter=["label"])
        assert list(response.outputs) == ["label"]
        assert response.model_spec.name == MODEL
        assert response.model_spec.version.value == 2


def grpc_predict(server: Running, image: bytes, **fields: Any) -> Any:
    import tensorflow as tf
    from tensorflow_serving.apis import predict_pb2, prediction_service_pb2_grpc

    request = predict_pb2.PredictRequest(**fields)
    request.model_spec.name = MODEL
    request.inputs["image_bytes"].CopyFrom(tf.make_tensor_proto([image]))
    with grpc.insecure_channel(f"{server.host}:{server.grpc_port}") as channel:
        stub = prediction_service_pb2_grpc.PredictionServiceStub(channel)
        return stub.Predict(request, timeout=SECONDS)


class TestStatusAndMetadata:
    def test_status_lists_each_version_over_both_protocols(self, client: Client) -> None:
        assert client.status(MODEL) == {2: ("AVAILABLE", ""), 1: ("AVAILABLE", "")}
        assert client.rest_status(MODEL) == {2: "AVAILABLE", 1: "AVAILABLE"}

    def test_rest_status_of_a_version_has_the_documented_form(self, server: Running) -> None:
        assert get(server, f"/v1/models/{MODEL}/versions/1").json() == {
            "model_version_status": [
                {
                    "version": "1",
                    "state": "AVAILABLE",
                    "status": {"error_code": "OK", "error_message": ""},
                }
            ]
        }

    def test_rest_status_of_a_label_includes_its_version(self, server: Running) -> None:
        answer = get(server, f"/v1/models/{MODEL}/labels/stable").json()
        assert "1" in [status["version"] for status in answer["model_version_status"]]

    @pytest.mark.parametrize(
        ("where", "version"), [("", "2"), ("/versions/1", "1"), ("/labels/stable", "1")]
    )
    def test_rest_metadata_describes_the_signatures(
        self, server: Running, where: str, version: str
    ) -> None:
        answer = get(server, f"/v1/models/{MODEL}{where}/metadata").json()
        assert answer["model_spec"] == {"name": MODEL, "signature_name": "", "version": version}
        signatures = answer["metadata"]["signature_def"]["signature_def"]
        image_bytes = signatures["serving_default"]["inputs"]["image_bytes"]
        assert image_bytes["dtype"] == "DT_STRING"
        assert image_bytes["tensor_shape"]["dim"] == [{"size": "-1", "name": ""}]
        assert signatures["serving_examples"]["inputs"].keys() == {"examples"}
        assert signatures["serving_default"]["outputs"].keys() == {"label", "probabilities"}

    def test_grpc_metadata_describes_the_signatures(self, server: Running) -> None:
        from tensorflow_serving.apis import get_model_metadata_pb2, prediction_service_pb2_grpc

        request = get_model_metadata_pb2.GetModelMetadataRequest(metadata_field=["signature_def"])
        request.model_spec.name, request.model_spec.version_label = MODEL, "canary"
        with grpc.insecure_channel(f"{server.host}:{server.grpc_port}") as channel:
            stub = prediction_service_pb2_grpc.PredictionServiceStub(channel)
            answer = stub.GetModelMetadata(request, timeout=SECONDS)
        assert answer.model_spec.version.value == 2
        found = get_model_metadata_pb2.SignatureDefMap()
        answer.metadata["signature_def"].Unpack(found)
        signatures = found.signature_def
        assert set(signatures["serving_default"].inputs) == {"image_bytes"}
        assert set(signatures["serving_examples"].inputs) == {"examples"}

    def test_metrics_count_the_requests_of_the_model(self, server: Running, client: Client) -> None:
        def counted() -> float:
            page = get(server, "/monitoring/prometheus/metrics")
            assert page.status_code == 200
            name = f':tensorflow:serving:request_count{{model_name="{MODEL}",status="OK"}} '
            lines = [line for line in page.text.splitlines() if line.startswith(name)]
            return float(lines[0].rpartition(" ")[2]) if lines else 0.0

        before = counted()
        client.predict_images(MODEL, [picture()])
        client.predict(MODEL, {"image_bytes": strings([picture()])})
        assert counted() == before + 2


class TestRefusals:
    """A bad request gets its status code, and the next good one its answer."""

    GOOD = b64(picture())

    @pytest.fixture(autouse=True)
    def still_serving(self, server: Running) -> Iterator[None]:
        yield
        assert post(server, PREDICT, {"instances": [self.GOOD]}).status_code == 200

    @pytest.mark.parametrize(
        "body",
        [
            b"",
            b"{",
            b"[]",
            b"null",
            b"\xff\xfe\x00",
            b"[" * 100_000,
            b"{}",
            b'{"instances": []}',
            b'{"instances": {}}',
            b'{"instances": [1]}',
            b'{"instances": [{"b64": "*"}]}',
            b'{"instances": [{"b64": 7}]}',
            b'{"instances": [{"b64": "AAAA"}]}',
            b'{"instances": [{"wrong": {"b64": "AAAA"}}]}',
            b'{"instances": [{"image_bytes": "a"}, {"other": "b"}]}',
            b'{"instances": ["a", ["b"]]}',
            b'{"inputs": {"wrong": ["a"]}}',
            b'{"inputs": {}}',
            b'{"instances": ["a"], "inputs": ["a"]}',
            b'{"instances": ["a"], "signature_name": "none"}',
            b'{"instances": ["a"], "signature_name": 3}',
        ],
        ids=lambda body: body[:40].decode(errors="replace"),
    )
    def test_a_malformed_body_is_a_bad_request(self, server: Running, body: bytes) -> None:
        answer = post(server, PREDICT, body)
        assert answer.status_code == 400
        assert answer.json()["error"]

    def test_a_broken_image_is_a_bad_request(self, server: Running, client: Client) -> None:
        broken = picture(kind="JPEG")[:200]
        answer = post(server, PREDICT, {"instances": [self.GOOD, b64(broken)]})
        assert answer.status_code == 400
        with pytest.raises(ServingError) as caught:
            client.predict(MODEL, {"image_bytes": strings([broken])})
        assert caught.value.code == "INVALID_ARGUMENT"

    @pytest.mark.parametrize(
        ("path", "status"),
        [
            ("/v1/models/none:predict", 404),
            (f"/v1/models/{MODEL}/versions/9:predict", 404),
            (f"/v1/models/{MODEL}/labels/none:predict", 400),
            (f"/v1/models/{MODEL}:dream", 400),
        ],
    )
    def test_an_unknown_target_is_told(self, server: Running, path: str, status: int) -> None:
        answer = post(server, path, {"instances": [self.GOOD]})
        assert answer.status_code == status
        assert answer.json()["error"]

    @pytest.mark.parametrize(
        "path",
        ["/v1/models/none", f"/v1/models/{MODEL}/versions/9", "/v1/models/none/metadata"],
    )
    def test_an_unknown_model_has_no_status_or_metadata(self, server: Running, path: str) -> None:
        assert get(server, path).status_code == 404

    @pytest.mark.parametrize(
        ("arguments", "code"),
        [
            ({"model": "none"}, "NOT_FOUND"),
            ({"version": 9}, "NOT_FOUND"),
            ({"label": "none"}, "INVALID_ARGUMENT"),
            ({"signature": "none"}, "FAILED_PRECONDITION"),
            ({"inputs": {}}, "INVALID_ARGUMENT"),
            ({"inputs": {"wrong": strings([b"a"])}}, "INVALID_ARGUMENT"),
            ({"inputs": {"image_bytes": np.zeros(1, np.float32)}}, "INVALID_ARGUMENT"),
            ({"inputs": {"image_bytes": strings([b"junk"])}}, "INVALID_ARGUMENT"),
        ],
        ids=lambda value: str(value)[:40],
    )
    def test_grpc_says_what_is_wrong(self, client: Client, arguments: Any, code: str) -> None:
        good = {"model": MODEL, "inputs": {"image_bytes": strings([picture()])}}
        with pytest.raises(ServingError) as caught:
            client.predict(**(good | arguments))
        assert caught.value.code == code

    def test_junk_instead_of_protobuf_is_refused(self, server: Running) -> None:
        with grpc.insecure_channel(f"{server.host}:{server.grpc_port}") as channel:
            predict = channel.unary_unary("/tensorflow.serving.PredictionService/Predict")
            with pytest.raises(grpc.RpcError) as caught:
                predict(b"\xff\xff\xff junk", timeout=SECONDS)
        # Which of the two is up to the gRPC library of the server.
        assert caught.value.code() in (grpc.StatusCode.INVALID_ARGUMENT, grpc.StatusCode.INTERNAL)

    def test_a_tensor_of_impossible_shape_is_refused(self, server: Running) -> None:
        from tensorflow.core.framework import tensor_pb2, types_pb2
        from tensorflow_serving.apis import predict_pb2

        for size in (-1, 1 << 60):
            tensor = tensor_pb2.TensorProto(dtype=types_pb2.DT_STRING, string_val=[picture()])
            tensor.tensor_shape.dim.add(size=size)
            request = predict_pb2.PredictRequest(inputs={"image_bytes": tensor})
            request.model_spec.name = MODEL
            with grpc.insecure_channel(f"{server.host}:{server.grpc_port}") as channel:
                predict = channel.unary_unary("/tensorflow.serving.PredictionService/Predict")
                with pytest.raises(grpc.RpcError) as caught:
                    predict(request.SerializeToString(), timeout=SECONDS)
            assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT
