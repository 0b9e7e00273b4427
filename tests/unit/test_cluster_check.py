"""What could never start is refused before it is submitted, where Kubernetes can be looked at.

The stand-in answers with objects of Kubernetes' API as they are, and knows no more of it: it lets
everybody read all but what `forbidden` names. The same against a real one: tests/cluster.
"""

from __future__ import annotations

import http.server
import json
import re
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from kubeflow import cluster
from kubeflow.cluster import AUTOSCALED
from kubeflow.package import Package
from pipeline.errors import ConfigError

TAINT = {"key": "nvidia.com/gpu", "value": "present", "effect": "NoSchedule"}
GPU_LABEL = {"cloud.google.com/gke-accelerator": "nvidia-l4"}


def node(**fields: Any) -> dict[str, Any]:
    """Return a machine with 4 CPUs, 16 GiB and no GPU."""
    allocatable = {"cpu": "3920m", "memory": "16Gi", "pods": "110"} | fields.get("resources", {})
    return {
        "metadata": {"name": fields.get("name", "a"), "labels": fields.get("labels", {})},
        "spec": {"taints": fields.get("taints")},
        "status": {"allocatable": allocatable},
    }


GPU = node(labels=GPU_LABEL, taints=[TAINT], resources={"nvidia.com/gpu": "1"})


class Api:
    """What there is, by path below /api/v1; forbidden: paths that may not be read."""

    def __init__(self) -> None:
        self.things: dict[str, Any] = {
            "namespaces/kubeflow/services/ml-pipeline": {},
            "namespaces/team/serviceaccounts/perennial-pipeline": {},
            "namespaces/team/persistentvolumeclaims/images": {},
            "namespaces/team/secrets/database": {"data": {"user": "eA==", "password": "eA=="}},
            "nodes": {"items": [node(), GPU]},
        }
        self.forbidden: set[str] = set()


@pytest.fixture
def api(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Api]:
    found = Api()

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            path = self.path.removeprefix("/api/v1/")
            status = 403 if path in found.forbidden else 200 if path in found.things else 404
            thing = found.things.get(path, {}) if status == 200 else {}
            content = (thing if isinstance(thing, str) else json.dumps(thing)).encode()
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, *_: object) -> None:
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
        kubeconfig(tmp_path, monkeypatch, server.server_port)
        yield found
        server.shutdown()


def kubeconfig(folder: Path, monkeypatch: pytest.MonkeyPatch, port: int) -> None:
    config = {
        "apiVersion": "v1",
        "kind": "Config",
        "current-context": "here",
        "contexts": [{"name": "here", "context": {"cluster": "c", "user": "u"}}],
        "clusters": [{"name": "c", "cluster": {"server": f"http://127.0.0.1:{port}"}}],
        "users": [{"name": "u", "user": {"token": "t"}}],
    }
    path = folder / "kubeconfig"
    path.write_text(yaml.safe_dump(config))
    monkeypatch.setenv("KUBECONFIG", str(path))


def package(autoscaled: bool = False, **trainer: Any) -> Package:
    """Return a pipeline of a Trainer on a GPU and a Pusher."""
    resources = {"resourceCpuRequest": "2", "resourceMemoryRequest": "8Gi"}
    gpu = {"accelerator": {"resourceType": "nvidia.com/gpu", "resourceCount": "1"}}
    env = [{"name": AUTOSCALED, "value": str(autoscaled).lower()}]
    keys = [{"secretKey": "user", "envVar": "U"}, {"secretKey": "password", "envVar": "P"}]
    wishes: dict[str, Any] = {
        "pvcMount": [{"constant": "images", "mountPath": "/images"}],
        "secretAsEnv": [{"secretName": "database", "keyToEnv": keys}],
    }
    place: dict[str, Any] = {
        "nodeSelector": {"labels": GPU_LABEL},
        "tolerations": [{"key": "nvidia.com/gpu", "operator": "Exists", "effect": "NoSchedule"}],
    }
    executors: dict[str, dict[str, Any]] = {
        "trainer": {
            "container": {"env": env, "resources": {**resources, **gpu}},
            "kubernetes": {**wishes, **place, **trainer},
        },
        "pusher": {"container": {"env": env, "resources": resources}, "kubernetes": wishes},
    }
    return Package(Path("x.yaml"), "digits", {}, {}, "1", (), executors)


def check(**trainer: Any) -> list[str]:
    return cluster.check(package(**trainer), "team", "perennial-pipeline")


def test_what_is_all_there_is_not_remarked_on(api: Api) -> None:
    assert check() == []


@pytest.mark.parametrize(
    ("path", "problem"),
    [
        ("persistentvolumeclaims/images", r"no claim 'images', .*\btrainer, pusher "),
        ("secrets/database", r"no secret 'database', .*\btrainer, pusher "),
        ("serviceaccounts/perennial-pipeline", "no service account 'perennial-pipeline'"),
    ],
)
def test_what_is_missing_is_refused(api: Api, path: str, problem: str) -> None:
    del api.things[f"namespaces/team/{path}"]
    with pytest.raises(ConfigError, match=problem) as caught:
        check()
    for place in ("http://127.0.0.1:", "namespace team;", "--no-check"):
        assert place in str(caught.value)


def test_a_secret_without_a_key_is_refused(api: Api) -> None:
    del api.things["namespaces/team/secrets/database"]["data"]["password"]
    with pytest.raises(ConfigError, match=r"secret 'database' .*key 'password'"):
        check()


def test_a_mounted_secret_must_be_there(api: Api) -> None:
    with pytest.raises(ConfigError, match=r"no secret 'cloud', .*\btrainer "):
        check(secretAsVolume=[{"secretName": "cloud", "mountPath": "/etc/cloud"}])


@pytest.mark.parametrize(
    ("there", "problem"),
    [
        (node(), r"label cloud\.google\.com/gke-accelerator=nvidia-l4"),
        (node(labels=GPU_LABEL), r" 0 .*nvidia\.com/gpu .*1 "),
        (
            node(labels=GPU_LABEL, resources={"nvidia.com/gpu": "1", "memory": "4Gi"}),
            "4Gi .*memory .*8Gi",
        ),
        (node(labels=GPU_LABEL, taints=[{**TAINT, "key": "team"}]), "taint team"),
        (node(labels=GPU_LABEL, taints=[{**TAINT, "effect": "NoExecute"}]), "taint nvidia"),
    ],
)
def test_a_pod_that_no_machine_can_take_is_refused(
    api: Api, there: dict[str, Any], problem: str
) -> None:
    api.things["nodes"]["items"] = [node(name="b"), there]
    with pytest.raises(ConfigError, match=rf"\b2 machines .*\btrainer: .*{problem}") as caught:
        check()
    assert "pusher" not in str(caught.value)


def test_a_taint_that_only_prefers_others_keeps_nobody_away(api: Api) -> None:
    soft = {**TAINT, "key": "team", "effect": "PreferNoSchedule"}
    api.things["nodes"]["items"] = [{**GPU, "spec": {"taints": [TAINT, soft]}}, node()]
    assert check() == []


def test_where_machines_are_made_on_demand_it_is_only_remarked(api: Api) -> None:
    api.things["nodes"]["items"] = [node()]
    (remark,) = check(autoscaled=True)
    assert re.search(r"\b1 machines .*\btrainer: ", remark)


def test_what_may_not_be_read_is_remarked(api: Api) -> None:
    api.forbidden = {"nodes", "namespaces/team/secrets/database"}
    assert [remark.split(": ")[1] for remark in check()] == ["secret database", "node"]


def test_another_cluster_is_not_judged_by(api: Api) -> None:
    api.things = {}
    (remark,) = check()
    assert re.search("http://127.0.0.1:.* no Kubeflow Pipelines", remark)


def test_a_cluster_that_does_not_answer_stops_nobody(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kubeconfig(tmp_path, monkeypatch, 1)
    (remark,) = check()
    assert "Connection refused" in remark


@pytest.mark.parametrize("content", ["a: [1, {b", "apiVersion: v1", "- 1", ""])
def test_a_kubeconfig_that_cannot_be_used_stops_nobody(
    content: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "kubeconfig"
    path.write_text(content)
    monkeypatch.setenv("KUBECONFIG", str(path))
    (remark,) = check()
    assert "cluster" in remark
    assert cluster.PodLogs().read("team", "p") == ""


def test_without_kubectl_nothing_is_looked_at(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("KUBECONFIG", raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setattr(cluster, "_POD_TOKEN", tmp_path / "none")
    assert check() == []


class TestPodLogs:
    LOG = "namespaces/team/pods/p/log?container=main"

    def test_a_log_is_read_as_it_is(self, api: Api) -> None:
        api.things[self.LOG] = '{"event": "note"}'
        assert cluster.PodLogs().read("team", "p") == '{"event": "note"}'

    def test_a_pod_that_is_not_there_does_not_end_it(self, api: Api) -> None:
        logs = cluster.PodLogs()
        assert logs.read("team", "p") == ""
        api.things[self.LOG] = "text"
        assert logs.read("team", "p") == "text"

    def test_what_may_not_be_read_is_not_asked_for_again(self, api: Api) -> None:
        logs = cluster.PodLogs()
        api.things[self.LOG] = "text"
        api.forbidden.add(self.LOG)
        assert logs.read("team", "p") == ""
        api.forbidden.clear()
        assert logs.read("team", "p") == ""

    def test_without_a_cluster_there_is_none(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.delenv("KUBECONFIG", raising=False)
        monkeypatch.setenv("HOME", str(tmp_path))
        assert cluster.PodLogs().read("team", "p") == ""
