"""Which server is started, with which arguments, and `perennial serve`."""

from __future__ import annotations

import importlib.metadata
import os
import re
import sys
from pathlib import Path

import pytest
from typer.testing import Result

from components.model_server import config_file, launch
from components.model_server.launch import (
    Backend,
    Kind,
    Source,
    command,
    find_backend,
    own_backend,
)
from pipeline.errors import ConfigError
from tests.kit.cli import perennial
from tests.kit.serving import (
    MODEL,
    script,
    write_config,
)


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
        with pytest.raises(ConfigError, match=f"TENSORFLOW_MODEL_SERVER={tmp_path / 'absent'} "):
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
        assert Kind.OWN in result.output
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
        assert "digits, flowers" in result.output
        assert self.invoke(tmp_path, "flowers").exit_code == 0
        assert list(Source.of_config(serving / "models.config").models) == ["flowers"]

    def test_a_model_that_is_not_there_is_an_error(
        self, tmp_path: Path, serving: Path, started: list[list[str]]
    ) -> None:
        result = self.invoke(tmp_path, "nothing")
        assert result.exit_code == 2
        assert re.search(r"\bnothing, .*\bdigits\b", result.output)
        assert not started

    def test_an_empty_workspace_says_what_to_do(
        self, tmp_path: Path, started: list[list[str]]
    ) -> None:
        result = self.invoke(tmp_path)
        assert result.exit_code == 2
        assert "`perennial run`" in result.output
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
