"""Promotion by a ConfigMap, of a stand-in for Kubernetes and with the project's own servers.

tests/cluster does the same with a real Kubernetes.
"""

from __future__ import annotations

import contextlib
import json
import socket
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from components.model_registry import (
    CANARY,
    STABLE,
    Registry,
    Serving,
    followers,
)
from components.model_registry import configuration as model_configuration
from components.model_registry.config_map import ConfigMapKey
from components.model_registry.configuration import AUDIT_FILE
from components.model_server.server import ModelServer
from pipeline import config as configuration
from pipeline.errors import ConfigError, PromotionFailed
from tests.kit.cli import perennial
from tests.kit.kubernetes_stub import LOCATION, NAME, NAMESPACE, Stub
from tests.kit.serving import MODEL, SECONDS


@contextlib.contextmanager
def pod(folder: Path, text: str) -> Iterator[tuple[ModelServer, Callable[[str], None]]]:
    """Start a server, and return what gives it another configuration."""
    path = folder / "models.config"

    def bring(new: str) -> None:
        path.with_suffix(".new").write_text(new)
        path.with_suffix(".new").replace(path)

    folder.mkdir()
    bring(text)
    server = ModelServer(
        config_file=str(path),
        poll_seconds=0.05,
        config_poll_seconds=0.05,
        load_retries=0,
        retry_seconds=0.05,
    )
    with server:
        server.wait_ready(SECONDS)
        yield server, bring


@pytest.fixture
def pods(cluster: Stub, tmp_path: Path) -> Iterator[list[ModelServer]]:
    """Two ready pods that follow the ConfigMap."""
    with contextlib.ExitStack() as stack:
        found = [stack.enter_context(pod(tmp_path / n, cluster.text)) for n in ("pod-a", "pod-b")]
        for name, (server, _) in zip(("pod-a", "pod-b"), found, strict=True):
            cluster.serve(name, server.grpc_port)

        def kubelet(text: str) -> None:
            for _, bring in found:
                bring(text)

        cluster.on_change = kubelet
        yield [server for server, _ in found]


class TestWithPods:
    def test_a_version_becomes_canary_then_stable_and_is_rolled_back(
        self, target: Registry, cluster: Stub, pods: list[ModelServer], base: Path
    ) -> None:
        before = cluster.map
        target.promote(2, CANARY, timeout=SECONDS)
        assert target.serving() == Serving.of({STABLE: 1, CANARY: 2})
        target.promote(2, STABLE, timeout=SECONDS)
        # A label in use moves to what is not loaded yet, which takes two writes.
        target.promote(3, STABLE, timeout=SECONDS)
        assert target.rollback(timeout=SECONDS) == Serving.of({STABLE: 2})

        done = ["promote 2 to canary", "promote 2 to stable", "promote 3 to stable", "rollback"]
        assert [(entry["action"], entry["result"]) for entry in cluster.audit] == [
            (action, result) for action in done for result in ("started", "done")
        ]
        first = cluster.audit[1]
        assert first["from"] == {"labels": {"stable": 1}, "loaded": [1]}
        assert first["to"] == {"labels": {"stable": 1, "canary": 2}, "loaded": [1, 2]}
        assert first["config"] == LOCATION
        assert "@" in first["who"]
        beside = (base.parent / AUDIT_FILE).read_text().splitlines()
        assert [json.loads(line) for line in beside[-8:]] == cluster.audit
        # What it does not know of, it leaves alone.
        assert cluster.map["futureField"] == before["futureField"]
        assert cluster.map["metadata"]["labels"] == before["metadata"]["labels"]
        assert cluster.map["data"]["other"] == "kept"
        assert {name for name, _ in cluster.touched} == {"pod-a", "pod-b"}
        assert [event["reason"] for event in cluster.events] == ["Promoted"] * 4
        assert cluster.events[0]["involvedObject"]["uid"] == "1-2-3"
        assert cluster.events[0]["type"] == "Normal"

    def test_one_pod_that_never_loads_it_puts_the_old_one_back(
        self, target: Registry, cluster: Stub, pods: list[ModelServer], tmp_path: Path
    ) -> None:
        before = cluster.text
        with pod(tmp_path / "pod-c", before) as (stuck, _):
            cluster.serve("pod-c", stuck.grpc_port)
            with pytest.raises(PromotionFailed, match="pod-c does not serve"):
                target.promote(2, CANARY, timeout=2.0)
        assert cluster.text == before
        assert cluster.audit[-1]["result"].startswith("failed: pod-c")
        assert (cluster.events[-1]["reason"], cluster.events[-1]["type"]) == (
            "PromotionFailed",
            "Warning",
        )

    def test_a_pod_that_becomes_ready_meanwhile_counts(
        self, target: Registry, cluster: Stub, pods: list[ModelServer], tmp_path: Path
    ) -> None:
        before = cluster.text
        with pod(tmp_path / "pod-c", before) as (late, _):

            def comes(verb: str) -> None:
                names = [each["endpoints"][0]["targetRef"]["name"] for each in cluster.slices]
                if verb == "patch pods" and "pod-c" not in names:
                    cluster.serve("pod-c", late.grpc_port)

            cluster.before = comes
            with pytest.raises(PromotionFailed, match="pod-c"):
                target.promote(2, CANARY, timeout=2.0)
        assert cluster.text == before

    def test_a_pod_that_goes_away_meanwhile_does_not(
        self,
        target: Registry,
        cluster: Stub,
        pods: list[ModelServer],
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        monkeypatch.setattr(followers, "_TURN_SECONDS", 0.5)

        def goes(verb: str) -> None:
            if verb == "list endpointslices" and cluster.audit:
                looks.append(verb)
                if len(looks) == 3:  # it was waited for in between
                    del cluster.slices[2:]

        looks: list[str] = []
        with socket.create_server(("127.0.0.1", 0)) as mute:
            cluster.serve("pod-c", mute.getsockname()[1])
            cluster.before = goes
            target.promote(2, CANARY, timeout=SECONDS)
        assert target.serving().labels == {STABLE: 1, CANARY: 2}

    def test_pods_that_are_not_ready_do_not(
        self, target: Registry, cluster: Stub, pods: list[ModelServer]
    ) -> None:
        cluster.serve("starting", 1, ready=False)
        cluster.serve("pod-a", 1, host="fd00::1")  # its other address
        target.promote(2, CANARY, timeout=SECONDS)

    def test_named_servers_are_waited_for_instead(
        self, target: Registry, cluster: Stub, pods: list[ModelServer]
    ) -> None:
        cluster.serve("out-of-reach", 1)
        at = [f"127.0.0.1:{server.grpc_port}" for server in pods]
        target.promote(2, CANARY, at, SECONDS)
        assert "list endpointslices" not in cluster.asked

    def test_optional_rights_may_be_missing(
        self, target: Registry, cluster: Stub, pods: list[ModelServer]
    ) -> None:
        cluster.denied = {"patch pods", "create events"}
        target.promote(2, CANARY, timeout=SECONDS)
        assert cluster.audit[-1]["result"] == "done"

    def test_an_answer_that_gets_lost_is_no_conflict(
        self, target: Registry, cluster: Stub, pods: list[ModelServer]
    ) -> None:
        cluster.lost = 1
        target.promote(2, CANARY, timeout=SECONDS)
        assert [entry["result"] for entry in cluster.audit] == ["started", "done"]

    def test_policies_label_what_was_pushed(
        self, cluster: Stub, pods: list[ModelServer], base: Path, target: Registry
    ) -> None:
        target.label(2, CANARY)
        assert target.serving().labels == {STABLE: 1, CANARY: 2}
        given = {
            "name": MODEL,
            "push.directory": str(base),
            "push.served_config": LOCATION,
            "retrain.promote": "stable",
        }
        config = configuration.load_given({"test": given}).config
        told = config.registry.label(3, config.retrain.promote)
        assert told.startswith("version 3 is stable, instead of version 1")
        assert target.serving().labels == {STABLE: 3, "previous": 1}
        assert config.registry.label(2, config.retrain.promote).startswith("version 2 is not newer")

    def test_the_command_tells_who_serves_what(
        self, cluster: Stub, pods: list[ModelServer]
    ) -> None:
        result = perennial("promote", 2, "--to", "canary", "--configmap", f"{NAMESPACE}/{NAME}")
        assert result.exit_code == 0, result.output
        assert "canary is version 2" in result.stdout
        rows = perennial("models", "--configmap", f"{NAMESPACE}/{NAME}", "--json").stdout
        found = {row["version"]: row["labels"] for row in map(json.loads, rows.splitlines())}
        assert found == {1: ["stable"], 2: ["canary"], 3: []}
        assert perennial("rollback", "--configmap", f"{NAMESPACE}/{NAME}").exit_code == 0
        assert [entry["action"] for entry in cluster.audit[1::2]] == [
            "promote 2 to canary",
            "rollback",
        ]


class TestPlace:
    def test_all_of_it_can_be_named(self) -> None:
        assert ConfigMapKey.parse("configmap://a/b") == ConfigMapKey(
            "a", "b", "models.config", "model-server"
        )
        assert ConfigMapKey.parse("configmap://a/b/k.c?service=s") == ConfigMapKey(
            "a", "b", "k.c", "s"
        )

    @pytest.mark.parametrize(
        "settings",
        [
            {"push.served_config": "configmap://alone"},
            {"push.promote": "canary"},
            {"push.promote": "canary", "push.served_config": "/models/models.config"},
            {"push.directory": "configmap://a/b"},
        ],
    )
    def test_settings_that_cannot_be_are_refused(self, settings: dict[str, str]) -> None:
        with pytest.raises(ConfigError):
            configuration.load_given({"test": settings})

    def test_a_push_removes_nothing_that_the_config_map_names(
        self, cluster: Stub, base: Path
    ) -> None:
        assert Registry(str(base), LOCATION).pinned() == {1}
        cluster.denied = {"get configmaps"}
        with pytest.raises(ConfigError, match="which versions are served is not known"):
            Registry(str(base), LOCATION).pinned()


def test_two_promoters_at_once_do_not_mix(
    target: Registry, cluster: Stub, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each sees the other's change, or is told to wait."""
    monkeypatch.setattr(model_configuration, "_PUT_BACK_PAUSE_S", 5.0)
    ended: list[str] = []
    # Without the folder's lock, as on two machines.
    blind = Registry(None, LOCATION, MODEL)

    def promote(version: int) -> None:
        try:
            blind.promote(version, CANARY, timeout=0.3)
        except (ConfigError, PromotionFailed) as error:
            ended.append(type(error).__name__)

    before = cluster.text
    threads = [threading.Thread(target=promote, args=(version,)) for version in (2, 3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(ended) in (["ConfigError", "PromotionFailed"], ["PromotionFailed"] * 2)
    assert cluster.text == before
