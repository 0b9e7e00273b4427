"""What only the project's own server does: limits, the page, its process, and choosing a server."""

from __future__ import annotations

import contextlib
import gzip
import importlib.metadata
import logging
import os
import re
import resource
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import grpc
import psutil
import pytest
import requests
from typer.testing import Result

from components.model_server import config_file, launch
from components.model_server.client import Client, strings
from components.model_server.errors import ServingError
from components.model_server.launch import (
    Backend,
    Kind,
    ServerProcess,
    Source,
    command,
    find_backend,
    own_backend,
)
from components.model_server.server import ModelServer
from components.model_server.service import Limits
from pipeline.errors import ConfigError
from tests.kit import image_corpus
from tests.kit.bombs import BOMBS
from tests.kit.cli import perennial
from tests.kit.serving import (
    MODEL,
    PREDICT,
    SECONDS,
    b64,
    connected,
    example,
    get,
    picture,
    post,
    push,
    url,
    wait_until,
    write_config,
)
from tests.kit.tiny_export import export_waiting_model, export_wide_model

GOOD = {"instances": [b64(picture())]}
Serve = Callable[..., ModelServer]


@pytest.fixture
def serve(tmp_path: Path, colour_models: list[Path]) -> Iterator[Serve]:
    """Start a server of version 1 with the limits that are named."""
    base = tmp_path / "base"
    base.mkdir()
    push(colour_models[0], base, 1)
    with contextlib.ExitStack() as stack:

        def start(base: Path = base, **limits: Any) -> ModelServer:
            server = ModelServer(base, MODEL, limits=Limits(**limits), poll_seconds=0.05)
            stack.enter_context(server)
            server.wait_ready(SECONDS)
            return server

        yield start


@pytest.fixture(scope="module")
def waiting_base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Export a model that answers once the file that it is given exists."""
    base = tmp_path_factory.mktemp("waiting")
    export_waiting_model(base / "1")
    return base


def refusal(call: Callable[..., object], *args: Any, **kwargs: Any) -> str:
    with pytest.raises(ServingError) as caught:
        call(*args, **kwargs)
    return caught.value.code


def assert_serves(server: ModelServer) -> None:
    assert post(server, PREDICT, GOOD).status_code == 200
    with connected(server) as client:
        assert client.predict(MODEL, {"image_bytes": strings([picture()])})[0] == 1


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
        assert "larger than 10000 bytes" in caught.value.details()


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
        assert "more than 10000 pixels" in answer.json()["error"]
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
        assert f"image 1 of the request is {name}: convert it to" in answer.json()["error"]

    def test_many_tiny_images_count_as_what_they_become(self, serve: Serve) -> None:
        images = [picture(size=(1, 1))] * 2000
        answer = post(serve(), PREDICT, {"instances": [b64(image) for image in images]})
        assert answer.status_code == 400
        # The model does not tell its size, so that it counts as 224 pixels.
        assert "has 2000 images; this model takes 318 at a time" in answer.json()["error"]
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
    (version,) = server.manager.status(MODEL)
    return version.users


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


def received_by(connection: socket.socket) -> bytes:
    """All that comes until the other side hangs up."""
    return b"".join(iter(lambda: connection.recv(4096), b""))


class TestHealthAndPage:
    def test_health_waits_for_the_first_version(
        self, tmp_path: Path, colour_models: list[Path]
    ) -> None:
        with ModelServer(tmp_path, MODEL, poll_seconds=0.05) as server:
            answer = get(server, "/healthz")
            assert answer.status_code == 503
            assert answer.json() == {"available_versions": {MODEL: []}}
            push(colour_models[0], tmp_path, 4)
            server.wait_ready(SECONDS)
            answer = get(server, "/healthz")
            assert answer.status_code == 200
            assert answer.json() == {"available_versions": {MODEL: [4]}}

    def test_an_image_posted_as_it_is_gets_the_likeliest_classes(self, serve: Serve) -> None:
        server = serve()
        answer = post(server, f"/page/models/{MODEL}", picture("blue", kind="JPEG")).json()
        assert answer["model"] == MODEL
        assert answer["version"] == 1
        assert [c["label"] for c in answer["classes"]] == ["blue", "green", "red"]
        probabilities = [c["probability"] for c in answer["classes"]]
        assert probabilities == sorted(probabilities, reverse=True)
        assert sum(probabilities) == pytest.approx(1, abs=1e-6)

    @pytest.mark.parametrize(("name", "body"), [(MODEL, b"junk"), (MODEL, b""), ("none", b"x")])
    def test_what_is_no_image_or_model_is_told(self, serve: Serve, name: str, body: bytes) -> None:
        answer = post(serve(), f"/page/models/{name}", body)
        assert answer.status_code in (400, 404)
        assert answer.json()["error"]

    def test_the_answer_says_which_version_it_is_from(self, serve: Serve) -> None:
        assert post(serve(), PREDICT, GOOD).headers["X-Model-Version"] == "1"

    def test_other_paths_and_methods_are_refused(self, serve: Serve) -> None:
        server = serve()
        assert get(server, "/etc/passwd").status_code == 404
        assert get(server, PREDICT).status_code == 400


class TestStarting:
    def test_it_listens_on_loopback_only(self, serve: Serve) -> None:
        server = serve()
        for port in (server.rest_port, server.grpc_port):
            with pytest.raises(ConnectionError):
                socket.create_connection(("127.0.0.2", port), timeout=5)

    @pytest.mark.parametrize("taken", ["grpc_port", "rest_port"])
    def test_a_port_that_is_taken_is_an_error(
        self, serve: Serve, taken: str, tmp_path: Path
    ) -> None:
        port = getattr(serve(), taken)
        with pytest.raises(OSError, match=str(port)):
            ModelServer(tmp_path, MODEL, **{taken: port}).start()

    def test_waiting_for_a_model_that_cannot_be_loaded_says_why(self, tmp_path: Path) -> None:
        (tmp_path / "3").mkdir()
        with (
            ModelServer(tmp_path, MODEL, load_retries=0) as server,
            pytest.raises(ServingError, match=r"3 holds no saved_model\.pb"),
        ):
            server.wait_ready(SECONDS)

    @pytest.mark.parametrize(
        ("text", "match"),
        [
            ("junk {", "is not a ModelServerConfig"),
            ("", "no model_config_list"),
            ('model_config_list { config { name: "a" base_path: "b" } }', "absolute"),
            ('model_config_list { config { base_path: "/b" } }', "name"),
            (
                'model_config_list { config { name: "a" base_path: "/b" }'
                ' config { name: "a" base_path: "/c" } }',
                "'a'",
            ),
            (
                'model_config_list { config { name: "a" base_path: "/b" model_platform: "x" } }',
                "model_platform",
            ),
        ],
        ids=["junk", "empty", "relative", "no name", "twice", "platform"],
    )
    def test_a_configuration_that_cannot_be_served_is_refused(
        self, tmp_path: Path, text: str, match: str
    ) -> None:
        path = tmp_path / "models.config"
        path.write_text(text)
        with pytest.raises((ServingError, ConfigError), match=match):
            ModelServer(config_file=path)

    def test_a_configuration_file_that_breaks_stays_out_of_force(
        self,
        tmp_path: Path,
        colour_models: list[Path],
        caplog: pytest.LogCaptureFixture,
    ) -> None:
        push(colour_models[0], tmp_path, 1)
        config = tmp_path / "models.config"
        write_config(config, tmp_path, [1])
        with ModelServer(config_file=config, config_poll_seconds=0.05) as server:
            server.wait_ready(SECONDS)
            with caplog.at_level(logging.ERROR, "perennial.serving"):
                config.write_text("junk {")
                wait_until(lambda: "is not in force" in caplog.text)
            assert_serves(server)


class TestPolicies:
    @pytest.mark.parametrize(
        ("policy", "served"),
        [
            ("", [3]),
            ("model_version_policy { latest { num_versions: 2 } }", [3, 2]),
            ("model_version_policy { all {} }", [3, 2, 1]),
            ("model_version_policy { specific { versions: 1 versions: 3 } }", [3, 1]),
            ("model_version_policy { specific { versions: 2 versions: 9 } }", [2]),
        ],
        ids=["default", "latest", "all", "specific", "specific but absent"],
    )
    def test_the_policy_chooses_the_versions(
        self, tmp_path: Path, colour_models: list[Path], policy: str, served: list[int]
    ) -> None:
        for number, export in enumerate(colour_models, start=1):
            push(export, tmp_path, number)
        config = tmp_path / "models.config"
        config.write_text(
            f'model_config_list {{ config {{ name: "{MODEL}" base_path: "{tmp_path}" {policy} }} }}'
        )
        with ModelServer(config_file=config) as server, connected(server) as client:
            server.wait_ready(SECONDS)
            assert list(client.rest_status(MODEL)) == served

    def test_a_version_that_is_removed_gives_way_to_the_one_before(
        self, tmp_path: Path, colour_models: list[Path]
    ) -> None:
        push(colour_models[0], tmp_path, 1)
        newest = push(colour_models[1], tmp_path, 2)
        with ModelServer(tmp_path, MODEL, poll_seconds=0.05) as server, connected(server) as client:
            server.wait_ready(SECONDS)
            newest.rename(tmp_path / "gone")
            wait_until(lambda: client.rest_status(MODEL) == {2: "END", 1: "AVAILABLE"})
            (tmp_path / "gone").rename(newest)
            wait_until(lambda: client.rest_status(MODEL) == {2: "AVAILABLE", 1: "END"})

    def test_a_version_given_up_is_tried_again_once_it_was_replaced(
        self, tmp_path: Path, colour_models: list[Path]
    ) -> None:
        broken = tmp_path / "1"
        broken.mkdir()
        with (
            ModelServer(tmp_path, MODEL, poll_seconds=0.05, load_retries=0) as server,
            connected(server) as client,
        ):
            wait_until(lambda: get(server, f"/v1/models/{MODEL}").status_code == 200)
            wait_until(lambda: client.rest_status(MODEL) == {1: "END"})
            broken.rmdir()
            wait_until(lambda: not server.manager.status(MODEL)[0].given_up)
            push(colour_models[0], tmp_path, 1)
            wait_until(lambda: client.rest_status(MODEL) == {1: "AVAILABLE"})

    def test_an_unreadable_base_path_keeps_what_is_served(
        self, tmp_path: Path, colour_models: list[Path]
    ) -> None:
        base = tmp_path / "base"
        base.mkdir()
        push(colour_models[0], base, 1)
        with ModelServer(base, MODEL, poll_seconds=0.02) as server:
            server.wait_ready(SECONDS)
            base.rename(tmp_path / "away")
            polls = threading.Event()
            polls.wait(0.2)
            assert_serves(server)

    def test_a_model_can_be_added_and_dropped_by_reloading(
        self, serve: Serve, tmp_path: Path, colour_models: list[Path]
    ) -> None:
        from tensorflow_serving.config.model_server_config_pb2 import ModelServerConfig

        server = serve()
        other = tmp_path / "other"
        other.mkdir()
        push(colour_models[2], other, 5)
        config = ModelServerConfig()
        config.model_config_list.config.add(name="other", base_path=str(other))
        with connected(server) as client:
            client.reload(config)
            assert client.predict("other", {"image_bytes": strings([picture()])})[0] == 5
            wait_until(lambda: client.rest_status(MODEL) == {1: "END"})
            config.model_config_list.config.add(name="absent", base_path=str(tmp_path / "none"))
            client_in_a_hurry = Client(server.host, server.grpc_port, server.rest_port, timeout=0.5)
            with client_in_a_hurry:
                assert refusal(client_in_a_hurry.reload, config) in ("UNKNOWN", "DEADLINE_EXCEEDED")


class TestMemory:
    def test_requests_and_swaps_leave_nothing_behind(
        self, tmp_path: Path, colour_models: list[Path]
    ) -> None:
        """A short soak; tests/benchmarks/serving.py has the one of 10,000 requests."""
        image = picture(size=(256, 256), kind="BMP")  # 197 kB, so that 160 MB pass through
        process = psutil.Process()
        push(colour_models[0], tmp_path, 1)
        with ModelServer(tmp_path, MODEL, poll_seconds=0.05) as server, connected(server) as client:
            server.wait_ready(SECONDS)
            sizes = []
            for version in range(1, 9):
                for _ in range(50):
                    client.predict(MODEL, {"image_bytes": strings([image])})
                    client.predict_images(MODEL, [image])
                sizes.append(process.memory_info().rss)
                push(colour_models[0], tmp_path, version + 1)
                client.wait_available(MODEL, version + 1, SECONDS)
        # The first turn still fills pools.
        assert sizes[-1] - sizes[0] < 60e6, sizes


class TestProcess:
    def test_1200_silent_connections_to_grpc_keep_nobody_from_an_answer(
        self, tmp_path: Path, colour_models: list[Path]
    ) -> None:
        push(colour_models[0], tmp_path, 1)
        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        resource.setrlimit(resource.RLIMIT_NOFILE, (1024, hard))  # which the server inherits
        try:
            with ServerProcess(own_backend(), Source.of_model(tmp_path, MODEL)) as server:
                resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, 4096), hard))
                server.wait_ready(2 * SECONDS)
                with contextlib.ExitStack() as stack:
                    address = (server.host, server.grpc_port)
                    silent = [
                        stack.enter_context(socket.create_connection(address, SECONDS))
                        for _ in range(1200)
                    ]
                    assert post(server, PREDICT, GOOD).status_code == 200
                    with connected(server) as client:
                        assert client.predict(MODEL, {"image_bytes": strings([picture()])})[0] == 1
                    # They are hung up on, after what gRPC says first.
                    for connection in silent:
                        connection.settimeout(SECONDS)
                        received_by(connection)
                assert post(server, PREDICT, GOOD).status_code == 200
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))

    def test_it_says_what_it_is_serves_and_ends_on_sigterm(
        self, tmp_path: Path, colour_models: list[Path]
    ) -> None:
        push(colour_models[0], tmp_path, 1)
        with ServerProcess(own_backend(), Source.of_model(tmp_path, MODEL)) as server:
            server.wait_ready(SECONDS)
            said = server.last_words()
            assert "development server" in said
            assert f"http://127.0.0.1:{server.rest_port}/" in said
            assert post(server, PREDICT, GOOD).status_code == 200
        assert server.returncode == 0

    def test_a_configuration_that_cannot_be_read_is_one_line_and_an_exit_code(
        self, tmp_path: Path
    ) -> None:
        done = subprocess.run(
            [
                *(sys.executable, "-m", "components.model_server"),
                *("--port=0", "--rest_api_port=0", f"--model_config_file={tmp_path / 'none'}"),
            ],
            capture_output=True,
            text=True,
            check=False,
            timeout=120,
            env=os.environ | {"CUDA_VISIBLE_DEVICES": "-1"},
        )
        assert done.returncode == 2
        assert done.stderr.splitlines() == [
            f"perennial: error: {tmp_path / 'none'} cannot be read: No such file or directory"
        ]

    def test_a_server_that_ends_at_once_is_reported_with_its_last_words(
        self, tmp_path: Path
    ) -> None:
        program = script(tmp_path / "server", "echo out of order; exit 3")
        backend = Backend(Kind.TENSORFLOW_SERVING, str(program))
        with (
            ServerProcess(backend, Source.of_model(tmp_path, MODEL)) as server,
            pytest.raises(ServingError, match="out of order"),
        ):
            server.wait_ready(SECONDS)
        assert server.returncode == 3


def script(path: Path, text: str) -> Path:
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)
    return path


class TestChoosingAServer:
    @pytest.fixture
    def environment(self, tmp_path: Path) -> dict[str, str]:
        """Return an environment without any server in it."""
        return {"PATH": str(tmp_path)}

    def test_the_named_binary_comes_first(
        self, tmp_path: Path, environment: dict[str, str]
    ) -> None:
        script(tmp_path / "tensorflow_model_server", "")
        named = script(tmp_path / "another", "")
        environment["TENSORFLOW_MODEL_SERVER"] = str(named)
        assert find_backend(environment) == Backend(Kind.TENSORFLOW_SERVING, str(named))

    def test_a_named_binary_that_cannot_run_is_an_error(
        self, tmp_path: Path, environment: dict[str, str]
    ) -> None:
        environment["TENSORFLOW_MODEL_SERVER"] = str(tmp_path / "absent")
        with pytest.raises(ConfigError, match=r"TENSORFLOW_MODEL_SERVER=\S+ is not a program"):
            find_backend(environment)

    def test_a_binary_on_path_comes_before_docker(
        self, tmp_path: Path, environment: dict[str, str]
    ) -> None:
        script(tmp_path / "docker", "exit 0")
        found = script(tmp_path / "tensorflow_model_server", "")
        assert find_backend(environment) == Backend(Kind.TENSORFLOW_SERVING, str(found))

    def test_docker_is_used_only_where_an_engine_answers(
        self, tmp_path: Path, environment: dict[str, str]
    ) -> None:
        assert find_backend(environment) == own_backend()
        script(tmp_path / "docker", "echo cannot connect >&2; exit 1")
        assert find_backend(environment) == own_backend()
        script(tmp_path / "docker", '[ "$1" = version ] && echo 28')
        version = importlib.metadata.version("tensorflow-serving-api")
        assert find_backend(environment) == Backend(Kind.DOCKER, f"tensorflow/serving:{version}")
        environment["TENSORFLOW_SERVING_IMAGE"] = "mine@sha256:1"
        assert find_backend(environment) == Backend(Kind.DOCKER, "mine@sha256:1")

    def test_the_container_reads_what_is_served_and_listens_on_loopback(
        self, tmp_path: Path
    ) -> None:
        base = tmp_path / "models" / MODEL
        config = tmp_path / "served" / "models.config"
        config.parent.mkdir()
        write_config(config, base, [1])
        arguments = command(Backend(Kind.DOCKER, "image"), Source.of_config(config), 1500, 1501)
        before, after = arguments[: arguments.index("image")], arguments[arguments.index("image") :]
        assert before[:3] == ["docker", "run", "--rm"]
        assert {"--publish=127.0.0.1:1500:8500", "--publish=127.0.0.1:1501:8501"} <= set(before)
        mounted = {a.split("=")[1] for a in before if a.startswith("--volume=")}
        assert {f"{base}:{base}:ro", f"{config.parent}:{config.parent}:ro"} <= mounted
        assert {"--port=8500", "--rest_api_port=8501", f"--model_config_file={config}"} <= set(
            after
        )
        (monitoring,) = [a.split("=")[1] for a in after if a.startswith("--monitoring_config_file")]
        assert f"{Path(monitoring).parent}:{Path(monitoring).parent}:ro" in mounted

    @pytest.mark.parametrize("kind", Kind)
    def test_every_kind_is_told_the_same_model(self, kind: Kind, tmp_path: Path) -> None:
        arguments = command(Backend(kind, "program"), Source.of_model(tmp_path, MODEL), 1, 2)
        assert {f"--model_name={MODEL}", f"--model_base_path={tmp_path}"} <= set(arguments)

    def test_labels_ahead_of_their_version_are_allowed_on_a_real_server(
        self, tmp_path: Path
    ) -> None:
        backend = Backend(Kind.TENSORFLOW_SERVING, "program")
        arguments = command(backend, Source.of_model(tmp_path, MODEL), 1, 2)
        assert "--allow_version_labels_for_unavailable_models=true" in arguments


class TestServeCommand:
    @pytest.fixture
    def started(self, monkeypatch: pytest.MonkeyPatch) -> list[list[str]]:
        """Collect the programs that replace the command, on a machine without a server."""
        programs: list[list[str]] = []
        monkeypatch.setattr(os, "execvp", lambda _, arguments: programs.append(arguments))
        monkeypatch.setattr(launch, "find_backend", own_backend)
        return programs

    @pytest.fixture
    def serving(self, tmp_path: Path) -> Path:
        serving = tmp_path / "serving"
        (serving / "digits" / "1").mkdir(parents=True)
        return serving

    def invoke(self, tmp_path: Path, *arguments: str) -> Result:
        return perennial("serve", "--workspace", tmp_path, *arguments)

    def test_the_only_model_is_served(
        self, tmp_path: Path, serving: Path, started: list[list[str]]
    ) -> None:
        result = self.invoke(tmp_path, "--port", "1500", "--rest-port", "1501")
        assert result.exit_code == 0
        assert "digits" in result.output
        assert "the development server" in result.output
        (arguments,) = started
        assert arguments[:4] == [sys.executable, "-P", "-m", "components.model_server"]
        assert {
            f"--model_config_file={serving / 'models.config'}",
            "--model_config_file_poll_wait_seconds=1",
            "--port=1500",
            "--rest_api_port=1501",
            "--host=127.0.0.1",
        } <= set(arguments)
        # Without a policy it is the newest version; the file is there to be followed.
        source = Source.of_config(serving / "models.config")
        assert source.models == {"digits": serving / "digits"}
        assert "policy" not in (serving / "models.config").read_text()

    def test_what_was_promoted_is_served(
        self, tmp_path: Path, serving: Path, started: list[list[str]]
    ) -> None:
        write_config(serving / "models.config", serving / MODEL, [1], stable=1)
        assert self.invoke(tmp_path).exit_code == 0
        assert self.invoke(tmp_path, MODEL).exit_code == 0
        for arguments in started:
            assert f"--model_config_file={serving / 'models.config'}" in arguments
        before = config_file.read(serving / "models.config").model_config_list.config[0]
        assert self.invoke(tmp_path, "digits").exit_code == 0
        promoted, newest = config_file.read(serving / "models.config").model_config_list.config
        assert promoted == before
        assert newest.name == "digits"

    def test_one_of_several_models_must_be_named(
        self, tmp_path: Path, serving: Path, started: list[list[str]]
    ) -> None:
        (serving / "flowers" / "1").mkdir(parents=True)
        result = self.invoke(tmp_path)
        assert result.exit_code == 2
        assert "holds digits, flowers; name one of them" in result.output
        assert self.invoke(tmp_path, "flowers").exit_code == 0
        assert list(Source.of_config(serving / "models.config").models) == ["flowers"]

    def test_a_model_that_is_not_there_is_an_error(
        self, tmp_path: Path, serving: Path, started: list[list[str]]
    ) -> None:
        result = self.invoke(tmp_path, "nothing")
        assert result.exit_code == 2
        assert "holds no model nothing, but digits" in result.output
        assert not started

    def test_an_empty_workspace_says_what_to_do(
        self, tmp_path: Path, started: list[list[str]]
    ) -> None:
        result = self.invoke(tmp_path)
        assert result.exit_code == 2
        assert "run `perennial run` first" in result.output
        assert not started

    def test_a_real_server_cannot_be_bound_to_one_address(
        self,
        tmp_path: Path,
        serving: Path,
        started: list[list[str]],
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        real = Backend(Kind.TENSORFLOW_SERVING, "program")
        monkeypatch.setattr(launch, "find_backend", lambda: real)
        assert self.invoke(tmp_path, "--host", "10.0.0.1").exit_code == 2
        assert not started
        assert self.invoke(tmp_path).exit_code == 0
        assert self.invoke(tmp_path, "--dev-server").exit_code == 0
        renamed = self.invoke(tmp_path, "--own")
        assert "--dev-server" in renamed.stderr
        assert [a[0] for a in started] == ["program", sys.executable, sys.executable]
