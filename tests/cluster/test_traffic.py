"""The component that records traffic: nginx and the recorder beside each server.

The cluster needs an image of nginx, named by CLUSTER_NGINX.
"""

from __future__ import annotations

import json
import os

import pytest

from tests.cluster import kit, servers
from tests.cluster.kit import Resource

pytestmark = pytest.mark.cluster

NGINX = os.environ.get("CLUSTER_NGINX", "registry.example/nginx:1")
COUNT = (
    "import json; from pathlib import Path; from pipeline.monitoring import logs;"
    "rows = logs.read(Path('/logs'), images=False).rows;"
    "print(json.dumps([[row.version, row.label] for row in rows]))"
)

# Prints how many processes it has killed.
KILL = (
    "import os, pathlib, signal;"
    "found = [p for p in pathlib.Path('/proc').iterdir() if p.name.isdigit()"
    " and b'\\0traffic\\0record\\0' in (p / 'cmdline').read_bytes()];"
    "[os.kill(int(p.name), signal.SIGKILL) for p in found];"
    "print(len(found))"
)


@pytest.fixture(scope="module")
def serving(namespace: str) -> str:
    """Two pods with server, proxy and recorder, and a client."""
    found = servers.resources(namespace, "cpu", "traffic")
    pod = servers.pod_of(found)
    assert [each["name"] for each in pod["containers"]][1:] == ["proxy", "recorder"]
    pod["containers"][1]["image"] = NGINX
    for each in found:
        if each["kind"] == "ConfigMap" and "nginx.conf" in each["data"]:
            # Each request is recorded, so that a test need not wait.
            each["data"]["nginx.conf"] = each["data"]["nginx.conf"].replace("10.00%", "100.00%")
    servers.push_colours(namespace, found)
    servers.start(namespace, found)
    servers.start_client(namespace)
    return namespace


def pods(namespace: str) -> list[Resource]:
    selector = "app.kubernetes.io/name=model-server"
    text = kit.kubectl("get", "pods", "-n", namespace, "-l", selector, "-o", "json")
    found: list[Resource] = json.loads(text)["items"]
    return found


def test_requests_are_recorded_on_the_volume_that_the_monitor_reads(serving: str) -> None:
    """A recorder closes its file when it ends, as it does with its pod."""
    before = servers.answers(serving)
    kit.wait_until(lambda: servers.answers(serving) != before, "more answers")
    name = pods(serving)[0]["metadata"]["name"]
    kit.kubectl("delete", "pod", name, "-n", serving, "--timeout=120s")
    kit.apply([kit.job("count", serving, ["python3", "-c", COUNT], {"/logs": "traffic"})])
    code, log = kit.ended("count", serving)
    assert code == 0, log
    rows = json.loads(log.splitlines()[-1])
    assert {version for version, _ in rows} == {1}
    assert len(rows) > 1


def test_no_caller_meets_a_recorder_that_is_killed(serving: str) -> None:
    kit.wait_until(lambda: len(servers.ready(serving)) == 2, "two pods again")
    for pod in pods(serving):
        killed = kit.kubectl(
            *("exec", pod["metadata"]["name"], "-n", serving, "-c", "recorder", "--"),
            *("python3", "-c", KILL),
        )
        assert int(killed) == 1
    before = servers.answers(serving)
    kit.wait_until(
        lambda: sum(servers.answers(serving).values()) > sum(before.values()) + 200, "200 answers"
    )
    found = servers.answers(serving)
    assert not [answer for answer in found if answer.startswith("failed")], found
    assert len(servers.ready(serving)) == 2
