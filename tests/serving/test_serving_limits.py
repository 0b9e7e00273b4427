"""The limits of the development server: sizes, pixels, places, deadlines and slow clients."""

from __future__ import annotations

import contextlib
import gzip
import re
import socket
import threading
import time
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import grpc
import pytest
import requests

from components.model_server.client import Client, strings
from components.model_server.errors import ServingError
from components.model_server.server import ModelServer
from components.model_server.service import Limits
from tests.kit import image_corpus
from tests.kit.bombs import BOMBS
from tests.kit.serving import (
    MODEL,
    PREDICT,
    SECONDS,
    Serve,
    assert_serves,
    b64,
    connected,
    example,
    get,
    picture,
    post,
    push,
    received_by,
    refusal,
    url,
    wait_until,
)
from tests.kit.tiny_export import export_waiting_model, export_wide_model


@pytest.fixture(scope="module")
def waiting_base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Export a model that answers once the file that it is given exists."""
    base = tmp_path_factory.mktemp("waiting")
    export_waiting_model(base / "1")
    return base


class TestRequestSize:
    def test_a_body_beyond_the_limit_is_413_however_it_is_sent(self, serve: Serve) -> None:
        server = serve(request_bytes=10_000)
        body = b" " * 10_001
        assert post(server, PREDICT, body).status_code == 413
        chunks = (body[:5_000] for _ in range(3))
        assert requests.post(url(server, PREDICT), data=chunks, timeout=60).status_code == 413
        assert_serves(server)

    def test_a_message_beyond_the_limit_is_refused_by_grpc(self, serve: Serve) -> None:
        server = serve(request_bytes=10_000)
        with connected(server) as client:
            image = strings([bytes(10_001)])
            assert refusal(client.predict, MODEL, {"image_bytes": image}) == "RESOURCE_EXHAUSTED"
        assert_serves(server)

    def test_one_value_cannot_stand_for_more_than_the_limit(self, serve: Serve) -> None:
        from tensorflow.core.framework import tensor_pb2, types_pb2
        from tensorflow_serving.apis import predict_pb2, prediction_service_pb2_grpc

        server = serve(request_bytes=10_000)
        tensor = tensor_pb2.TensorProto(dtype=types_pb2.DT_STRING, string_val=[b"x"])
        tensor.tensor_shape.dim.add(size=10_001)
        request = predict_pb2.PredictRequest(inputs={"image_bytes": tensor})
        request.model_spec.name = MODEL
        with grpc.insecure_channel(f"{server.host}:{server.grpc_port}") as channel:
            stub = prediction_service_pb2_grpc.PredictionServiceStub(channel)
            with pytest.raises(grpc.RpcError) as caught:
                stub.Predict(request, timeout=SECONDS)
        assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT
        assert "10000 bytes" in caught.value.details()


class TestPixels:
    @pytest.mark.parametrize(
        "images",
        [
            [picture(size=(101, 100))],
            [picture(size=(101, 100), kind="JPEG")],
            [picture(size=(60, 100)), picture(size=(60, 100))],
            [image_corpus.bomb(20_000, 20_000)],
            [image_corpus.bomb(100, 101)],
        ],
        ids=["png", "jpeg", "together", "bomb", "claimed"],
    )
    def test_images_beyond_the_limit_are_refused(self, serve: Serve, images: list[bytes]) -> None:
        server = serve(pixels=10_000)
        answer = post(server, PREDICT, {"instances": [b64(image) for image in images]})
        assert answer.status_code == 400
        assert "10000 pixels" in answer.json()["error"]
        with connected(server) as client:
            assert refusal(client.predict, MODEL, {"image_bytes": strings(images)})

    def test_an_image_in_an_example_counts_as_well(self, serve: Serve) -> None:
        server = serve(pixels=10_000)
        with connected(server) as client:
            for size, refused in (((100, 100), False), ((101, 100), True)):
                inputs = {"examples": strings([example(picture(size=size))])}
                if refused:
                    code = refusal(client.predict, MODEL, inputs, signature="serving_examples")
                    assert code == "INVALID_ARGUMENT"
                else:
                    assert client.predict(MODEL, inputs, signature="serving_examples")[0] == 1

    @pytest.mark.parametrize("name", ["GIF", "WebP", "JPEG XL", "TIFF", "HEIC"])
    @pytest.mark.parametrize("within", ["image", "example"])
    def test_an_image_of_another_format_is_refused_by_name(
        self, serve: Serve, name: str, within: str
    ) -> None:
        """Of a GIF, TensorFlow decodes all frames, whatever size the first one has."""
        image = {
            "GIF": BOMBS["gif, a second frame"](),
            "WebP": picture(kind="WEBP"),
            "TIFF": picture(kind="TIFF"),
            "JPEG XL": b"\xff\n" + bytes(50),
            "HEIC": b"\0\0\0\x18ftypheic" + bytes(50),
        }[name]
        if within == "example" and name in ("TIFF", "HEIC"):
            pytest.skip("the model refuses these, which TensorFlow does not read at all")
        content: dict[str, Any] = {"instances": [b64(image)]}
        if within == "example":
            content = {"instances": [b64(example(image))], "signature_name": "serving_examples"}
        answer = post(serve(), PREDICT, content)
        assert answer.status_code == 400
        assert re.search(rf"\b1 .*{name}: convert ", answer.json()["error"])

    def test_many_tiny_images_count_as_what_they_become(self, serve: Serve) -> None:
        images = [picture(size=(1, 1))] * 2000
        answer = post(serve(), PREDICT, {"instances": [b64(image) for image in images]})
        assert answer.status_code == 400
        # The model does not tell its size, so that it counts as 224 pixels.
        assert re.search(r"\b2000 .*\b318 ", answer.json()["error"])
        few = post(serve(), PREDICT, {"instances": [b64(image) for image in images[:318]]})
        assert few.status_code == 200

    def test_a_model_that_tells_its_size_takes_as_many_as_fit(
        self, colour_models: list[Path], tmp_path: Path
    ) -> None:
        version = push(colour_models[0], tmp_path, 1)
        (version / "assets.extra" / "input.json").write_text('{"image_size": 100}')
        with ModelServer(tmp_path, MODEL, limits=Limits(resized_pixels=25_000)) as server:
            server.wait_ready(SECONDS)
            for count, status in ((2, 200), (3, 400)):
                content = {"instances": [b64(picture())] * count}
                assert post(server, PREDICT, content).status_code == status

    @pytest.mark.parametrize("kind", ["PNG", "JPEG"])
    def test_an_image_that_cannot_be_decoded_is_told_in_a_line(
        self, serve: Serve, kind: str
    ) -> None:
        image = image_corpus.make(kind, 1)
        server = serve()
        for data in (image[: len(image) * 9 // 10], b"no image at all"):
            error = post(server, PREDICT, {"instances": [b64(data)]}).json()["error"]
            assert not re.search(r"\{\{|\[\[|\n|File \"|\[Op:", error)
            assert 10 < len(error) < 200
            with connected(server) as client, pytest.raises(ServingError) as caught:
                client.predict(MODEL, {"image_bytes": strings([data])})
            assert str(caught.value) == error

    def test_images_at_the_limit_are_answered(self, serve: Serve) -> None:
        server = serve(pixels=10_000)
        content = {"instances": [b64(picture(size=(50, 100)))] * 2}
        assert post(server, PREDICT, content).status_code == 200


@contextlib.contextmanager
def one_waiting(server: ModelServer, signal: Path) -> Iterator[Future[requests.Response]]:
    """Have one prediction run inside, which answers once `signal` exists."""
    with ThreadPoolExecutor(1) as thread:
        answer = thread.submit(post, server, PREDICT, {"instances": [str(signal)]})
        try:
            wait_until(lambda: predictions_running(server) == 1)
            yield answer
        finally:
            signal.touch()


def predictions_running(server: ModelServer) -> int:
    return server.limits.concurrency - server._service._places._value


class TestConcurrencyAndDeadlines:
    def test_one_prediction_too_many_is_told_to_come_back_and_status_still_answers(
        self, serve: Serve, waiting_base: Path, tmp_path: Path
    ) -> None:
        server = serve(waiting_base, concurrency=1)
        with connected(server) as client:
            with one_waiting(server, tmp_path / "go") as first:
                assert post(server, PREDICT, {"instances": ["x"]}).status_code == 429
                code = refusal(client.predict, MODEL, {"path": strings([b"x"])})
                assert code == "RESOURCE_EXHAUSTED"
                assert client.rest_status(MODEL) == {1: "AVAILABLE"}
                assert client.status(MODEL) == {1: ("AVAILABLE", "")}
                assert get(server, "/healthz").status_code == 200
            assert first.result().status_code == 200
            wait_until(lambda: predictions_running(server) == 0)
            present = str(tmp_path / "go").encode()
            assert client.predict(MODEL, {"path": strings([present])})[0] == 1

    def test_a_prediction_that_takes_too_long_is_ended_and_its_place_is_free(
        self, serve: Serve, waiting_base: Path, tmp_path: Path
    ) -> None:
        server = serve(waiting_base, concurrency=1, request_seconds=0.3)
        never = str(tmp_path / "never")
        assert post(server, PREDICT, {"instances": [never]}).status_code == 504
        with connected(server) as client:
            inputs = {"path": strings([never.encode()])}
            assert refusal(client.predict, MODEL, inputs) == "DEADLINE_EXCEEDED"
        wait_until(lambda: predictions_running(server) == 0)
        assert post(server, PREDICT, {"instances": [str(tmp_path)]}).status_code == 200

    def test_the_deadline_of_a_grpc_client_ends_its_prediction(
        self, serve: Serve, waiting_base: Path, tmp_path: Path
    ) -> None:
        server = serve(waiting_base)
        with Client(server.host, server.grpc_port, server.rest_port, timeout=0.3) as client:
            inputs = {"path": strings([str(tmp_path / "never").encode()])}
            assert refusal(client.predict, MODEL, inputs) == "DEADLINE_EXCEEDED"
        wait_until(lambda: predictions_running(server) == 0)

    def test_stopping_finishes_what_runs_and_takes_nothing_new(
        self, waiting_base: Path, tmp_path: Path
    ) -> None:
        server = ModelServer(waiting_base, MODEL)
        server.start()
        server.wait_ready(SECONDS)
        with ThreadPoolExecutor(1) as thread, one_waiting(server, tmp_path / "go") as running:
            stopped = thread.submit(server.stop)
            wait_until(lambda: not accepts(server.rest_port))
            wait_until(lambda: not accepts(server.grpc_port))
            assert not stopped.done()
            (tmp_path / "go").touch()
            assert running.result().status_code == 200
            stopped.result(SECONDS)


def accepts(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port), timeout=5).close()
    except ConnectionError:
        return False
    return True


class TestSlowClients:
    HEAD = b"POST " + PREDICT.encode() + b" HTTP/1.1\r\nHost: x\r\n"

    @pytest.mark.parametrize(
        ("sent", "answer"),
        [
            (b"", b""),
            (HEAD, b""),
            (HEAD + b"Content-Length: 100\r\n\r\n{", b"408"),
            (HEAD + b"Transfer-Encoding: chunked\r\n\r\n5\r\n{", b"408"),
        ],
        ids=["silent", "half a head", "half a body", "half a chunk"],
    )
    def test_they_are_hung_up_on_and_nobody_waits_for_them(
        self, serve: Serve, sent: bytes, answer: bytes
    ) -> None:
        server = serve(receive_seconds=0.5, concurrency=2)
        address = (server.host, server.rest_port)
        with contextlib.ExitStack() as stack:
            slow = [stack.enter_context(socket.create_connection(address)) for _ in range(10)]
            for connection in slow:
                connection.sendall(sent)
            assert_serves(server)
            for connection in slow:
                connection.settimeout(SECONDS)
                received = received_by(connection)
                assert answer in received.partition(b"\r\n")[0]
                assert bool(received) is bool(answer)

    def test_a_head_that_drips_in_is_cut_off(self, serve: Serve) -> None:
        server = serve(receive_seconds=0.5)
        give_up = time.monotonic() + SECONDS
        with socket.create_connection((server.host, server.rest_port)) as connection:
            connection.sendall(self.HEAD)
            with contextlib.suppress(ConnectionError):
                while time.monotonic() < give_up:
                    connection.sendall(b"X-Slow: 1\r\n")
                    threading.Event().wait(0.05)
        assert time.monotonic() < give_up
        assert_serves(server)

    def test_who_does_not_take_the_answer_is_hung_up_on(self, serve: Serve, tmp_path: Path) -> None:
        base = tmp_path / "wide"
        export_wide_model(base / "1")
        server = serve(base, receive_seconds=4, connections=2)
        body = b'{"instances": ["%s"]}' % (b"x" * 1000)
        with contextlib.ExitStack() as stack:
            for _ in range(2):
                connection = stack.enter_context(socket.socket())
                connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
                connection.connect((server.host, server.rest_port))
                connection.sendall(self.HEAD + b"Content-Length: %d\r\n\r\n" % len(body) + body)
            wait_until(lambda: get(server, "/healthz").status_code == 503)
            wait_until(lambda: get(server, "/healthz").status_code == 200)
        # What they did not take is as large as this.
        wait_until(lambda: len(post(server, PREDICT, body).content) > 10_000_000)

    def test_a_small_body_that_unpacks_to_a_large_one_is_413(self, serve: Serve) -> None:
        server = serve(request_bytes=100_000)
        answer = requests.post(
            url(server, PREDICT),
            data=gzip.compress(bytes(50_000_000)),
            headers={"Content-Encoding": "gzip"},
            timeout=60,
        )
        assert answer.status_code == 413
        assert_serves(server)

    def test_connections_beyond_the_limit_are_refused_until_some_are_closed(
        self, serve: Serve
    ) -> None:
        server = serve(connections=2)
        address = (server.host, server.rest_port)
        with socket.create_connection(address), socket.create_connection(address):
            wait_until(lambda: get(server, "/healthz").status_code == 503)
        wait_until(lambda: get(server, "/healthz").status_code == 200)

    def test_junk_on_the_grpc_port_hurts_nobody(self, serve: Serve) -> None:
        server = serve()
        address = (server.host, server.grpc_port)
        with contextlib.ExitStack() as stack:
            for sent in (
                b"",
                b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
                b"GET / HTTP/1.1\r\n\r\n",
                bytes(99),
            ):
                stack.enter_context(socket.create_connection(address)).sendall(sent)
            assert_serves(server)

    @pytest.mark.parametrize(
        "sent",
        [
            b"junk\r\n\r\n",
            HEAD + b"Content-Length: nine\r\n\r\n",
            HEAD + b"X: " + b"y" * 100_000 + b"\r\n\r\n",
            HEAD + b"Transfer-Encoding: chunked\r\n\r\nzz\r\n",
            HEAD + b"Content-Encoding: gzip\r\nContent-Length: 4\r\n\r\njunk",
        ],
        ids=["no http", "length", "long header", "chunk", "gzip"],
    )
    def test_broken_http_is_a_bad_request(self, serve: Serve, sent: bytes) -> None:
        server = serve()
        with socket.create_connection((server.host, server.rest_port)) as connection:
            connection.settimeout(SECONDS)
            connection.sendall(sent)
            assert b" 400 " in connection.recv(4096).partition(b"\r\n")[0]
        assert_serves(server)
