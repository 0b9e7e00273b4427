"""`perennial models`, `promote` and `rollback`, with the project's own server following along."""

from __future__ import annotations

import json
import os
import re
import shlex
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from unittest import mock

import pytest

from components import servable, storage
from components.model_registry import (
    CANARY,
    STABLE,
    Registry,
    Serving,
    configuration,
    versions,
)
from components.model_registry.configuration import AUDIT_FILE
from components.model_registry.followers import Named
from components.model_registry.registry import PUT_BACK
from components.model_server.client import Client, strings
from components.model_server.server import ModelServer
from pipeline.commands.serve import _source
from pipeline.errors import ConfigError, PromotionFailed
from tests import REPO
from tests.kit.cli import perennial
from tests.kit.serving import MODEL, SECONDS, connected, picture, wait_until

POLL_SECONDS = 0.05  # of the configuration file


@pytest.fixture
def workspace(tmp_path: Path, colour_models: list[Path]) -> Path:
    """Make a workspace in which three versions were pushed."""
    workspace = tmp_path / "workspace"
    for number, model in enumerate(colour_models, 1):
        record = {
            "run": f"run-{number}",
            "pushed": f"2026-01-0{number}T12:00:00+00:00",
            "metrics": {"accuracy": 0.9 + number / 100},
            "validated": "a server",
        }
        versions.push(model, workspace / "serving" / MODEL, record, 10, lambda: ())
    return workspace


@pytest.fixture
def target(workspace: Path) -> Registry:
    serving = workspace / "serving"
    return Registry(str(serving / MODEL), str(serving / "models.config"), MODEL)


@pytest.fixture
def server(workspace: Path, target: Registry) -> Iterator[ModelServer]:
    """Start a server as `perennial serve` does, only more eager."""
    source = _source(workspace / "serving", None)
    server = ModelServer(
        config_file=source.config_file,
        poll_seconds=0.05,
        config_poll_seconds=POLL_SECONDS,
        load_retries=0,
        retry_seconds=0.05,
    )
    with server:
        server.wait_ready(SECONDS)
        yield server


@pytest.fixture
def client(server: ModelServer) -> Iterator[Client]:
    with connected(server) as client:
        yield client


def address(server: ModelServer) -> str:
    return f"{server.host}:{server.grpc_port}"


def answering(client: Client, label: str = "") -> int:
    inputs = {"image_bytes": strings([picture()])}
    return client.predict(MODEL, inputs, label=label)[0]


def states(client: Client) -> dict[int, str]:
    return {version: state for version, (state, _) in client.status(MODEL).items()}


def audit(target: Registry) -> list[dict[str, object]]:
    """Return the changes that ended, each of which was logged before it began."""
    text = storage.read_text(str(Path(target.config).with_name(AUDIT_FILE)))
    entries = [json.loads(line) for line in (text or "").splitlines()]
    assert all(entry["result"] == "started" for entry in entries[::2])
    for started, ended in zip(entries[::2], entries[1::2], strict=False):
        assert {**started, "at": 0, "result": 0} == {**ended, "at": 0, "result": 0}
    return entries[1::2]


class TestWithServer:
    def test_a_version_becomes_canary_then_stable_and_is_rolled_back(
        self, target: Registry, server: ModelServer, client: Client
    ) -> None:
        at = (address(server),)
        assert answering(client) == 3
        # What was served becomes stable by name, so that only the label is new.
        target.rollback(at, SECONDS)
        assert answering(client) == answering(client, STABLE) == 2

        target.promote(3, CANARY, at, SECONDS)
        assert (answering(client, STABLE), answering(client, CANARY)) == (2, 3)
        assert target.serving() == Serving.of({STABLE: 2, CANARY: 3})

        target.promote(3, STABLE, at, SECONDS)
        assert answering(client) == answering(client, STABLE) == 3
        assert answering(client, "previous") == 2

        target.rollback(at, SECONDS)
        assert answering(client) == answering(client, STABLE) == 2
        done = [(entry["action"], entry["result"]) for entry in audit(target)]
        assert done == [
            ("rollback", "done"),
            ("promote 3 to canary", "done"),
            ("promote 3 to stable", "done"),
            ("rollback", "done"),
        ]
        assert audit(target)[1]["from"] == {"labels": {"stable": 2}, "loaded": [2]}
        assert audit(target)[1]["to"] == {"labels": {"stable": 2, "canary": 3}, "loaded": [2, 3]}
        assert all("@" in str(entry["who"]) for entry in audit(target))

    def test_a_label_in_use_moves_to_a_version_that_is_not_loaded(
        self, target: Registry, server: ModelServer, client: Client
    ) -> None:
        at = (address(server),)
        target.promote(1, STABLE, at, SECONDS)
        target.promote(2, CANARY, at, SECONDS)
        target.promote(3, CANARY, at, SECONDS)
        assert (answering(client, STABLE), answering(client, CANARY)) == (1, 3)
        target.promote(2, STABLE, at, SECONDS)
        assert (answering(client, STABLE), answering(client, CANARY)) == (2, 3)

    def test_a_version_that_cannot_be_loaded_puts_the_old_configuration_back(
        self, target: Registry, server: ModelServer, client: Client, tmp_path: Path
    ) -> None:
        broken = tmp_path / "broken"
        broken.mkdir()
        (broken / "saved_model.pb").write_bytes(b"junk")
        assert target.base
        target.promote(2, STABLE, (address(server),), SECONDS)
        versions.push(broken, Path(target.base), {}, 10, lambda: ())
        before = storage.read_text(target.config)
        with pytest.raises(PromotionFailed, match="version 4"):
            target.promote(4, CANARY, (address(server),), SECONDS)
        assert storage.read_text(target.config) == before
        assert answering(client, STABLE) == 2
        assert str(audit(target)[-1]["result"]).startswith("failed: ")

    def test_a_server_that_has_dropped_a_version_takes_it_back_where_another_fails(
        self, target: Registry, server: ModelServer, client: Client
    ) -> None:
        """It would refuse to move the label to a version that it has not loaded."""
        at = (address(server),)
        target.promote(2, STABLE, at, SECONDS)
        target.promote(3, STABLE, at, SECONDS)
        with pytest.raises(PromotionFailed, match=rf"127\.0\.0\.1:1\b.*{PUT_BACK}"):
            target.rollback((*at, "127.0.0.1:1"), 4)
        assert target.serving() == Serving.of({STABLE: 3, "previous": 2})
        wait_until(lambda: answering(client, STABLE) == 3)

    def test_a_rollback_that_is_cut_off_when_a_version_was_dropped_is_kept(
        self,
        target: Registry,
        server: ModelServer,
        client: Client,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        at = (address(server),)
        target.promote(2, STABLE, at, SECONDS)
        target.promote(3, STABLE, at, SECONDS)
        with monkeypatch.context() as killed:
            killed.setattr(configuration._File, "end", mock.Mock(side_effect=KeyboardInterrupt))
            killed.setattr(configuration._File, "put_back", lambda *_: "")
            with pytest.raises(KeyboardInterrupt):
                target.rollback(at, SECONDS)
        target.recover()
        assert target.serving() == Serving.of({STABLE: 2})
        assert answering(client, STABLE) == 2
        target.promote(3, CANARY, at, SECONDS)
        assert (answering(client, STABLE), answering(client, CANARY)) == (2, 3)

    def test_an_error_of_before_the_change_does_not_count(
        self, target: Registry, server: ModelServer, client: Client
    ) -> None:
        at = (address(server),)
        target.promote(1, STABLE, at, SECONDS)
        # No part of what was pushed, so that only the server finds it.
        warmup = Path(target.base or "") / "3" / servable.WARMUP_FILE
        warmup.write_bytes(b"junk" * 100)
        for _ in range(2):  # as it is broken still, the second error is a new one
            with pytest.raises(PromotionFailed, match=rf"version 3: .*{servable.WARMUP_FILE}"):
                target.promote(3, CANARY, at, SECONDS)
            assert client.failures(MODEL).keys() == {3}
            # Before it follows what was put back, the server finds no change, and tries nothing.
            wait_until(lambda: not server.manager._models[MODEL].versions[3].given_up)
        warmup.unlink()
        assert target.promote(3, CANARY, at, SECONDS) == Serving.of({STABLE: 1, CANARY: 3})
        assert answering(client, CANARY) == 3

    def test_a_version_that_answers_nonsense_puts_the_old_configuration_back(
        self, target: Registry, server: ModelServer, client: Client, tmp_path: Path
    ) -> None:
        from tests.kit.tiny_export import export_colour_model

        export_colour_model(tmp_path / "nan", sharpness=float("nan"))
        assert target.base
        target.promote(2, STABLE, (address(server),), SECONDS)
        versions.push(tmp_path / "nan", Path(target.base), {}, 10, lambda: ())
        with pytest.raises(PromotionFailed, match=r"version 4 .*probabilities"):
            target.promote(4, CANARY, (address(server),), SECONDS)
        assert target.serving() == Serving.of({STABLE: 2})

    def test_a_server_that_does_not_follow_puts_the_old_configuration_back(
        self, target: Registry
    ) -> None:
        with socket.socket() as nobody:
            nobody.bind(("127.0.0.1", 0))
            at = f"127.0.0.1:{nobody.getsockname()[1]}"
            with pytest.raises(PromotionFailed, match=PUT_BACK):
                target.promote(2, STABLE, (at,), timeout=1.0)
        assert not Path(target.config).exists()

    def test_a_push_changes_what_is_served_until_something_is_promoted(
        self,
        target: Registry,
        server: ModelServer,
        client: Client,
        colour_models: list[Path],
    ) -> None:
        assert target.base

        def push(name: str) -> int:
            record = {"run": name}
            model = colour_models[0 if name == "first" else 1]
            return versions.push(model, Path(target.base or ""), record, 10, lambda: ())

        assert push("first") == 4
        client.wait_available(MODEL, 4, SECONDS)
        assert answering(client) == 4
        target.rollback((address(server),), SECONDS)
        assert push("second") == 5
        target.promote(4, CANARY, (address(server),), SECONDS)
        assert answering(client, STABLE) == 3
        assert 5 not in states(client)

    def test_a_server_that_starts_cold_serves_the_labels(
        self, workspace: Path, target: Registry
    ) -> None:
        target.promote(1, STABLE)
        target.promote(2, CANARY)
        source = _source(workspace / "serving", None)
        with ModelServer(config_file=source.config_file) as server:
            server.wait_ready(SECONDS)
            with connected(server) as client:
                assert (answering(client, STABLE), answering(client, CANARY)) == (1, 2)

    def test_the_written_procedure_does_what_it_says(
        self, target: Registry, server: ModelServer, client: Client
    ) -> None:
        config = Path(target.config)
        target.promote(2, STABLE, (address(server),), SECONDS)
        text = (REPO / "kubeflow" / "serving" / "README.md").read_text()
        steps = re.findall(r"```sh\n(perennial [^\n]* \$CONFIG\n.*?)```", text, re.DOTALL)
        expected = [{STABLE: 2, CANARY: 3}, {"previous": 2, STABLE: 3}, {STABLE: 2}]
        assert len(steps) == len(expected)
        for step, labels in zip(steps, expected, strict=True):
            command, apply = step.strip().splitlines()
            assert apply == "kubectl apply -k kubeflow/serving/overlays/cpu"
            program, *arguments = shlex.split(
                command.replace("$NEW", "3").replace("$CONFIG", shlex.quote(str(config)))
            )
            assert program == "perennial"
            result = perennial(*arguments)
            assert result.exit_code == 0, result.output
            Named((address(server),)).wait(MODEL, Serving.of(labels), SECONDS)
            assert {label: answering(client, label) for label in labels} == labels


class TestRules:
    """What needs no server."""

    def test_stable_needs_a_canary_first(self, target: Registry) -> None:
        target.promote(1, STABLE)
        with pytest.raises(ConfigError, match=r"^version 2 .*'stable'.*canary.*--server"):
            target.promote(2, STABLE)
        target.promote(2, CANARY)
        assert target.promote(2, STABLE) == Serving.of({STABLE: 2, "previous": 1})

    def test_rollback_withdraws_the_canary_first(self, target: Registry) -> None:
        target.promote(1, STABLE)
        target.promote(2, CANARY)
        target.promote(2, STABLE)
        target.promote(3, CANARY)
        assert target.rollback() == Serving.of({STABLE: 2, "previous": 1})
        assert target.rollback() == Serving.of({STABLE: 1})
        with pytest.raises(ConfigError, match=f"^{MODEL}: .* 1 "):
            target.rollback()

    def test_a_canary_beside_the_newest_leaves_the_newest_stable(self, target: Registry) -> None:
        assert target.promote(1, CANARY) == Serving.of({STABLE: 3, CANARY: 1})

    def test_an_older_version_made_stable_is_the_one_without_a_label_too(
        self, target: Registry
    ) -> None:
        target.promote(3, STABLE)
        target.promote(1, CANARY)
        assert target.promote(1, STABLE) == Serving.of({STABLE: 1})

    def test_the_same_again_changes_nothing(self, target: Registry) -> None:
        target.promote(2, STABLE)
        before = Path(target.config).stat()
        target.promote(2, STABLE)
        assert Path(target.config).stat() == before
        assert len(audit(target)) == 1

    def test_a_version_that_is_not_there_is_refused(self, target: Registry) -> None:
        with pytest.raises(ConfigError, match=r" 9; .*: 1, 2, 3"):
            target.promote(9, CANARY)

    def test_a_version_that_is_not_what_was_pushed_is_refused(self, target: Registry) -> None:
        (Path(target.base or "") / "2" / "saved_model.pb").write_bytes(b"other")
        with pytest.raises(ConfigError, match=r"^version 2 .*: saved_model\.pb"):
            target.promote(2, CANARY)

    def test_other_models_of_the_configuration_stay(self, target: Registry) -> None:
        other = 'model_config_list { config { name: "other" base_path: "/other" } }'
        Path(target.config).write_text(other)
        target.promote(1, STABLE)
        text = Path(target.config).read_text()
        assert 'name: "other"' in text
        assert f'name: "{MODEL}"' in text

    def test_versions_that_are_served_survive_pushes(
        self, target: Registry, tmp_path: Path, colour_models: list[Path]
    ) -> None:
        target.promote(1, STABLE)
        target.promote(2, CANARY)
        assert target.push(colour_models[0], {}, 1) == 4
        assert versions.find(target.base or "") == [1, 2, 4]

    def test_killed_while_it_writes_it_leaves_a_whole_configuration(
        self, target: Registry, workspace: Path
    ) -> None:
        target.promote(1, STABLE)
        before = storage.read_text(target.config)
        script = (
            "import os, signal, sys; from pathlib import Path; from pipeline import cli;"
            "real = Path.replace; Path.replace = lambda self, to: os.kill(os.getpid(), "
            "signal.SIGKILL) if to.name == 'models.config' else real(self, to); cli.main()"
        )
        arguments = ["promote", "2", "--to", "canary", "--workspace", str(workspace)]
        command = [sys.executable, "-c", script, *arguments]
        done = subprocess.run(command, cwd=REPO, env={**os.environ}, check=False)
        assert done.returncode == -signal.SIGKILL
        assert storage.read_text(target.config) == before
        log = Path(target.config).with_name(AUDIT_FILE).read_text().splitlines()
        assert json.loads(log[-1])["action"] == "promote 2 to canary"
        listed = perennial("models", "--workspace", str(workspace))
        assert "promote 2 to canary, by " in listed.stderr
        assert "before" in listed.stderr
        log = Path(target.config).with_name(AUDIT_FILE).read_text().splitlines()
        assert json.loads(log[-1])["result"] == "failed: cut off"
        assert target.promote(2, CANARY) == Serving.of({STABLE: 1, CANARY: 2})

    def test_an_object_store_is_promoted_alike(self, colour_models: list[Path]) -> None:

        base = "memory://promotion/models/colours"
        for number in (1, 2):
            versions.push(colour_models[number], base, {}, 10, lambda: ())
        target = Registry(base, "memory://promotion/models/models.config", "colours")
        target.promote(1, STABLE)
        target.promote(2, CANARY)
        assert target.serving() == Serving.of({STABLE: 1, CANARY: 2})
        assert f'base_path: "{base}"' in (storage.read_text(target.config) or "")
        log = storage.read_text("memory://promotion/models/models.audit.jsonl") or ""
        assert len(log.splitlines()) == 4


class TestCommands:
    @pytest.mark.parametrize("command", [("models",), ("promote", "2", "--to", "stable")])
    def test_a_workspace_that_was_moved_is_recognised(
        self, workspace: Path, target: Registry, tmp_path: Path, command: tuple[str, ...]
    ) -> None:
        target.follow_newest()
        stamp = {"format": 1, "root": str(workspace)}
        (workspace / "workspace.json").write_text(json.dumps(stamp))
        moved = workspace.rename(tmp_path / "moved")
        result = perennial(*command, "--workspace", str(moved))
        assert result.exit_code == 0, result.output
        told = (moved / "serving" / "models.config").read_text()
        assert f'base_path: "{moved}/serving/{MODEL}"' in told
        assert json.loads((moved / "workspace.json").read_text())["root"] == str(moved)

    def test_models_lists_versions_with_run_metrics_labels_and_verdict(
        self, workspace: Path, target: Registry
    ) -> None:
        given = ("--workspace", str(workspace))
        assert "(newest)" in perennial("models", *given).output
        assert perennial("promote", "2", "--to", "stable", *given).exit_code == 0
        assert perennial("promote", "3", "--to", "canary", *given).exit_code == 0
        lines = perennial("models", *given, "--json").output.splitlines()
        rows = [json.loads(line) for line in lines]
        assert [(row["version"], row["run"], row["labels"]) for row in rows] == [
            (3, "run-3", ["canary"]),
            (2, "run-2", ["stable"]),
            (1, "run-1", []),
        ]
        assert rows[0]["metrics"] == {"accuracy": 0.93}
        assert [row["served"] for row in rows] == [True, True, False]
        assert all(row["verdict"] == "blessed, tried in a server" for row in rows)
        table = perennial("models", *given).output
        assert re.search(r"3 +canary +93\.00% +run-3", table)

    def test_rollback_says_what_is_served_now(self, workspace: Path) -> None:
        result = perennial("rollback", "--workspace", str(workspace))
        assert result.exit_code == 0
        assert re.search(r"\bstable .*\b2\b", result.output)

    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            (("rollback", "--model", "other"), r"\bother\b"),
            (("promote", "1", "--to", "canary", "--server", "here"), "here: .*HOST:PORT"),
            (("models", "--config-file", "/absent"), "/absent: "),
            (("models", "--directory", "/absent"), "/absent .*--directory"),
            (("rollback", "--directory", "/absent"), "/absent "),
        ],
    )
    def test_what_cannot_be_done_is_one_line(
        self, workspace: Path, arguments: tuple[str, ...], message: str
    ) -> None:
        result = perennial(*arguments, "--workspace", str(workspace))
        assert result.exit_code == 2
        assert re.search(message, result.output)
