"""What a process finds around it does not decide what it does."""

from __future__ import annotations

import http.server
import json
import os
import re
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping
from concurrent import futures
from pathlib import Path
from typing import Any

import grpc
import pytest
from tensorflow_serving.apis import get_model_status_pb2, model_service_pb2_grpc

from components import environment
from components.model_server import launch
from components.model_server.client import Client
from pipeline import doctor
from pipeline.retraining import notify
from pipeline.settings.retraining import NotifyConfig
from tests import REPO

PERENNIAL = Path(sys.executable).with_name("perennial")
PROXIES = ("http_proxy", "https_proxy", "all_proxy", "grpc_proxy", "ftp_proxy")
ODD = {"backend": "torch", "image_data_format": "channels_first", "floatx": "float16"}


def run(
    *command: object, env: Mapping[str, str | None] | None = None, **options: Any
) -> subprocess.CompletedProcess[str]:
    """Run a command; variables whose value is None are unset."""
    given = {
        key: value for key, value in {**os.environ, **(env or {})}.items() if value is not None
    }
    return subprocess.run(
        list(map(str, command)), env=given, capture_output=True, text=True, **options
    )


class TestKeras:
    def test_is_the_same_whatever_its_file_and_variables_say(self, tmp_path: Path) -> None:
        (tmp_path / "keras.json").write_text(json.dumps({**ODD, "epsilon": 0.1}))
        code = (
            "import trainer_module, keras, keras.config as c\n"
            "print(c.backend(), c.image_data_format(), c.floatx(), c.epsilon(), c.max_epochs())\n"
            "print(keras.dtype_policies.DTypePolicy('float32') == c.dtype_policy())"
        )
        env = {
            "KERAS_HOME": str(tmp_path),
            "KERAS_BACKEND": "torch",
            "KERAS_MAX_EPOCHS": "1",
            "TF_CPP_MIN_LOG_LEVEL": "3",
        }
        done = run(sys.executable, "-c", code, env=env, cwd=REPO)
        assert done.stdout.split("\n")[:2] == [
            "tensorflow channels_last float32 1e-07 None",
            "True",
        ], done.stderr

    def test_doctor_says_what_is_overruled(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("KERAS_HOME", str(tmp_path))
        [fact, *_] = doctor.environment_facts()
        assert (fact.value, fact.note, fact.problem) == ("tensorflow", "", "")
        (tmp_path / "keras.json").write_text(json.dumps({**ODD, "epsilon": 1e-7}))
        [fact, *_] = doctor.environment_facts()
        assert not fact.problem
        for value in ("torch", "channels_first", "float16"):
            assert f"= {value} " in fact.note

    @pytest.mark.parametrize(
        "content", ["[]", '{"image_data_format": "last"}', '{"floatx": 32}', '{"epsilon": "1e-7"}']
    )
    def test_a_file_that_keras_cannot_read_is_a_problem(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, content: str
    ) -> None:
        monkeypatch.setenv("KERAS_HOME", str(tmp_path))
        (tmp_path / "keras.json").write_text(content)
        [fact, *_] = doctor.environment_facts()
        assert str(tmp_path / "keras.json") in fact.problem
        assert "remove" in fact.remedy
        done = run(sys.executable, "-c", "import keras", cwd=REPO)
        assert done.returncode != 0  # the real Keras refuses it too


class _Status(model_service_pb2_grpc.ModelServiceServicer):
    def GetModelStatus(self, request: Any, context: Any) -> Any:
        answer = get_model_status_pb2.GetModelStatusResponse()
        answer.model_version_status.add(version=7, state=30)
        return answer


class _Pages(http.server.BaseHTTPRequestHandler):
    seen: list[str]

    def do_GET(self) -> None:
        self._answer({"model_version_status": [{"version": "7", "state": "AVAILABLE"}]})

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["Content-Length"]))
        self._answer({})

    def _answer(self, content: object) -> None:
        self.seen.append(self.path)
        body = json.dumps(content).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def pages() -> Iterator[tuple[int, list[str]]]:
    """Start an HTTP server, and return its port and the requests; proxies get whole URLs."""
    seen: list[str] = []
    handler = type("Handler", (_Pages,), {"seen": seen})
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield server.server_port, seen
        server.shutdown()


@pytest.fixture
def proxied(pages: tuple[int, list[str]], monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Every variable that names a proxy is set; returns what the proxy is asked for."""
    port, seen = pages
    for name in PROXIES:
        for form in (name, name.upper()):
            monkeypatch.setenv(form, f"http://127.0.0.1:{port}")
    for name in ("no_proxy", "NO_PROXY", "no_grpc_proxy"):
        monkeypatch.delenv(name, raising=False)
    return seen


class TestProxies:
    def test_a_model_server_is_asked_without(
        self, proxied: list[str], pages: tuple[int, list[str]]
    ) -> None:
        server = grpc.server(futures.ThreadPoolExecutor(1))
        model_service_pb2_grpc.add_ModelServiceServicer_to_server(_Status(), server)
        port = server.add_insecure_port("127.0.0.1:0")
        server.start()
        try:
            with Client("127.0.0.1", port, pages[0], timeout=20) as client:
                assert client.status("m") == {7: ("AVAILABLE", "")}
                assert client.rest_status("m") == {7: "AVAILABLE"}
        finally:
            server.stop(None)
        assert proxied == ["/v1/models/m"]  # the REST call itself, and not by a proxy

    def test_a_webhook_is_told_through_it(
        self, proxied: list[str], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("PERENNIAL_WEBHOOK", "http://hooks.example.org/secret")
        assert notify.send(NotifyConfig(), "failed", "m", "text") is None
        assert proxied == ["http://hooks.example.org/secret"]

    def test_libraries_call_loopback_and_the_cluster_without(
        self, proxied: list[str], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        cluster = {"cluster": {"worker": ["one:1", "two:2"]}}
        monkeypatch.setenv("TF_CONFIG", json.dumps(cluster))
        monkeypatch.setenv("no_proxy", "example.org, localhost")
        environment.keep_calls_direct()
        environment.keep_calls_direct()
        assert os.environ["no_proxy"] == "example.org,localhost,127.0.0.1,::1,one,two"
        assert os.environ["NO_PROXY"] == "localhost,127.0.0.1,::1,one,two"

    def test_without_a_proxy_nothing_is_set(self, monkeypatch: pytest.MonkeyPatch) -> None:
        for name in (*PROXIES, "no_proxy", "NO_PROXY"):
            for form in (name, name.upper()):
                monkeypatch.delenv(form, raising=False)
        environment.keep_calls_direct()
        assert "no_proxy" not in os.environ


class TestOtherPackages:
    """What a user calls pipeline, components and so on."""

    def test_in_the_working_directory_they_are_left_alone(self, tmp_path: Path) -> None:
        for name in ("pipeline", "components", "trainer_module", "kubeflow", "tests"):
            (tmp_path / f"{name}.py").write_text("raise SystemExit(99)")
        assert run(PERENNIAL, "version", cwd=tmp_path).returncode == 0
        source = launch.Source.of_model(tmp_path, "m")
        arguments = launch.command(launch.own_backend(), source, 1, 2)
        start = arguments[: arguments.index("components.model_server") + 1]
        done = run(*start, "--help", cwd=tmp_path)
        assert done.returncode == 0
        assert "--model_base_path" in done.stdout

    @pytest.mark.parametrize("name", ["pipeline", "components", "trainer_module", "kubeflow"])
    @pytest.mark.parametrize("kind", ["package", "folder", "module"])
    def test_found_by_pythonpath_they_are_named(self, tmp_path: Path, name: str, kind: str) -> None:
        place = tmp_path / name
        if kind == "module":
            place = tmp_path / f"{name}.py"
            place.touch()
        else:
            place.mkdir()
        if kind == "package":
            (place / "__init__.py").touch()
        done = run(PERENNIAL, "version", env={"PYTHONPATH": str(tmp_path)})
        assert done.returncode == 2
        assert str(place) in done.stderr
        assert "PYTHONPATH" in done.stderr
        assert done.stderr.count("\n") == 1

    def test_ours_may_be_on_it(self) -> None:
        assert run(PERENNIAL, "version", env={"PYTHONPATH": str(REPO)}).returncode == 0


class TestStreams:
    @pytest.mark.parametrize("closed", ["<&-", ">&-", "2>&-", "<&- >&- 2>&-"])
    def test_may_be_closed(self, closed: str, tmp_path: Path) -> None:
        done = run("sh", "-c", f'exec "{PERENNIAL}" version {closed}')
        assert done.returncode == 0
        config = tmp_path / "config.toml"
        config.write_text("")
        # Nothing that is opened later gets what is printed.
        run("sh", "-c", f'exec "{PERENNIAL}" run --config {config} --recipe nix {closed}')
        assert config.read_text() == ""

    @pytest.mark.parametrize("unbuffered", ["", "1"])
    def test_what_is_lost_is_told(self, unbuffered: str) -> None:
        env = {"PYTHONUNBUFFERED": unbuffered}
        done = run("sh", "-c", f'exec "{PERENNIAL}" version > /dev/full', env=env)
        assert done.returncode == 1
        line = r"perennial: error: standard output .*: No space left on device\n"
        assert re.fullmatch(line, done.stderr)

    def test_why_a_command_fails_comes_first(self) -> None:
        command = f'exec "{PERENNIAL}" run --recipe nix --log-format json > /dev/full'
        done = run("sh", "-c", command)
        assert done.returncode == 2
        assert "'nix'" in done.stderr
        assert done.stderr.count("\n") == 1

    @pytest.mark.parametrize(
        "env",
        [
            {"LANG": "C", "LC_ALL": "C", "PYTHONUTF8": "0"},
            {"HOME": None},
            {"HOME": "/nonexistent"},
            {"TMPDIR": "/nonexistent"},
            {"TERM": None},
            {"OMP_NUM_THREADS": "many", "CUDA_VISIBLE_DEVICES": "none of them"},
            {"COLUMNS": "x", "PYTHONHASHSEED": "1"},
        ],
    )
    def test_other_surroundings_change_nothing(self, env: dict[str, str | None]) -> None:
        done = run(PERENNIAL, "version", env=env)
        assert (done.returncode, done.stderr) == (0, "")


def test_a_user_without_a_name_has_one() -> None:
    unshare = shutil.which("unshare")
    command = [str(unshare), "--user", "--map-user=54321"]
    if not unshare or run(*command, "true").returncode:
        pytest.skip("there are no user namespaces here")
    code = (
        "import getpass\nfrom components import environment\n"
        "environment.name_user()\nprint(getpass.getuser())"
    )
    env = dict.fromkeys(("LOGNAME", "USER", "LNAME", "USERNAME"))
    done = run(*command, sys.executable, "-c", code, env=env, cwd=REPO)
    assert done.stdout == "uid-54321\n", done.stderr
