"""What only the project's own server does: the page, its policies, its memory and its process."""

from __future__ import annotations

import contextlib
import logging
import os
import resource
import socket
import subprocess
import sys
import threading
import weakref
from pathlib import Path

import psutil
import pytest

from components.model_server.client import Client, strings
from components.model_server.errors import ServingError
from components.model_server.launch import (
    Backend,
    Kind,
    ServerProcess,
    Source,
    own_backend,
)
from components.model_server.server import ModelServer
from pipeline.errors import ConfigError
from tests.kit.serving import (
    GOOD,
    MODEL,
    PREDICT,
    SECONDS,
    Serve,
    assert_serves,
    connected,
    get,
    picture,
    post,
    push,
    received_by,
    refusal,
    script,
    wait_until,
    write_config,
)


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
            pytest.raises(ServingError, match=rf"^{tmp_path / '3'} .*saved_model\.pb"),
        ):
            server.wait_ready(SECONDS)

    @pytest.mark.parametrize(
        ("text", "match"),
        [
            ("junk {", "ModelServerConfig"),
            ("", "model_config_list"),
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
    def test_a_version_that_was_replaced_is_freed_with_its_last_request(
        self, tmp_path: Path, colour_models: list[Path]
    ) -> None:
        push(colour_models[0], tmp_path, 1)
        with ModelServer(tmp_path, MODEL, poll_seconds=0.05) as server, connected(server) as client:
            server.wait_ready(SECONDS)
            _, held = server.manager.find(MODEL)
            session = weakref.ref(held._session)
            push(colour_models[1], tmp_path, 2)
            client.wait_available(MODEL, 2, SECONDS)
            wait_until(lambda: client.rest_status(MODEL)[1] == "END")
            image = {"image_bytes": strings([picture()])}
            assert client.predict(MODEL, image)[0] == 2
            assert len(held.predict(image)["label"]) == 1
            del held
            assert session() is None

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
            assert Kind.OWN.removeprefix("the ") in said
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
        (line,) = done.stderr.splitlines()
        assert line.startswith(f"perennial: error: {tmp_path / 'none'} ")

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
