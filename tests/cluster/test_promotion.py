"""Promotion in the cluster: the Job, its rights, the pods, and clients that ask all the time.

tests/cluster/servers.py names where its servers are more generous than TensorFlow Serving.
"""

from __future__ import annotations

import json
import time

import pytest
import yaml

from tests.cluster import kit, servers
from tests.cluster.kit import Resource

pytestmark = pytest.mark.cluster

ACCOUNT = "model-promoter"


@pytest.fixture(scope="module")
def serving(namespace: str) -> str:
    """Deploy the overlay cpu with the component for promotion, two ready pods, and a client."""
    found = servers.resources(namespace, "cpu", "promotion")
    versions = (kit.SERVING / "base" / "models.config").read_text()
    data = {"models.config": versions}
    kit.apply([kit.resource("v1", "ConfigMap", "model-versions", namespace, data=data)])
    servers.push_colours(namespace, found)
    servers.start(namespace, found)
    servers.start_client(namespace)
    return namespace


def promote(namespace: str, *arguments: str, account: str = ACCOUNT) -> tuple[int, str]:
    """Run the Job with other arguments; returns its exit code and log."""
    job: Resource = yaml.safe_load((kit.SERVING / "promote-job.yaml").read_text())
    (job,) = kit.moved([job], namespace)
    pod = job["spec"]["template"]["spec"]
    pod["serviceAccountName"] = account
    (container,) = pod["containers"]
    kit.small(pod, "2Gi")
    *_, place = container["args"]
    assert place == "perennial-serving/model-versions"
    container["args"] = [*arguments, "--configmap", f"{namespace}/model-versions"]
    created = kit.kubectl("create", "-f", "-", "-o", "name", given=yaml.safe_dump(job))
    return kit.ended(created.strip().rpartition("/")[2], namespace)


def configured(namespace: str) -> str:
    text: str = kit.get("configmap", "model-versions", namespace)["data"]["models.config"]
    return text


def audit(namespace: str) -> list[Resource]:
    metadata = kit.get("configmap", "model-versions", namespace)["metadata"]
    return [json.loads(line) for line in metadata["annotations"]["perennial/audit"].splitlines()]


def test_the_account_may_do_no_more_than_it_must(serving: str) -> None:
    def may(verb: str, what: str) -> bool:
        user = f"--as=system:serviceaccount:{serving}:{ACCOUNT}"
        answer = kit.kubectl("auth", "can-i", verb, what, "-n", serving, user, check=False)
        return answer.strip() == "yes"

    assert may("get", "configmaps/model-versions")
    assert may("update", "configmaps/model-versions")
    assert may("list", "endpointslices.discovery.k8s.io")
    for verb, what in (
        ("update", "configmaps/model-server"),
        ("list", "configmaps"),
        ("delete", "configmaps/model-versions"),
        ("create", "configmaps"),
        ("patch", "pods"),
        ("get", "secrets"),
        ("get", "pods"),
        ("create", "pods/exec"),
        ("update", "deployments.apps"),
    ):
        assert not may(verb, what), f"{verb} {what}"


def test_promoted_rolled_back_and_refused_while_clients_ask(serving: str) -> None:
    at_first = configured(serving)
    started = time.monotonic()
    code, log = promote(serving, "promote", "2", "--to", "canary")
    print(f"canary after {time.monotonic() - started:.0f} s\n{log}")
    assert code == 0, log
    with_canary = configured(serving)
    assert with_canary != at_first
    assert audit(serving)[-1]["to"]["labels"] == {"stable": 1, "canary": 2}

    # One that no pod can load: the old versions are back, and the exit code says so.
    code, log = promote(serving, "promote", "3", "--to", "canary", "--timeout", "200")
    assert code == 7, log
    assert configured(serving) == with_canary
    assert audit(serving)[-1]["result"].startswith("failed: model-server-")

    code, log = promote(serving, "promote", "2", "--to", "stable")
    assert code == 0, log
    before = servers.answers(serving)
    kit.wait_until(lambda: servers.answers(serving) != before, "more answers")
    after = servers.answers(serving)
    code, log = promote(serving, "rollback")
    assert code == 0, log
    assert audit(serving)[-1]["to"]["labels"] == {"stable": 1}

    answers = servers.answers(serving)
    print(answers)
    assert not [answer for answer in answers if answer.startswith("failed")]
    assert len(after) == 2  # of both versions, which differ by how sure they are
    reasons = kit.kubectl(
        "get", "events", "-n", serving, "--field-selector=involvedObject.name=model-versions",
        "-o", "jsonpath={.items[*].reason}",
    )  # fmt: skip
    assert sorted(reasons.split()) == ["Promoted"] * 3 + ["PromotionFailed"]


def test_a_pod_that_comes_meanwhile_is_waited_for(serving: str) -> None:
    """One that is deleted while it is waited for has no part in it; its successor has."""
    name = json.loads(
        kit.kubectl(
            "get", "pods", "-n", serving, "-l", "app.kubernetes.io/name=model-server", "-o", "json"
        )
    )["items"][0]["metadata"]["name"]
    kit.kubectl("delete", "pod", name, "-n", serving, "--wait=false")
    code, log = promote(serving, "promote", "2", "--to", "canary")
    assert code == 0, log
    assert promote(serving, "rollback")[0] == 0


def test_without_rights_nothing_is_changed(serving: str) -> None:
    before = configured(serving)
    code, log = promote(serving, "promote", "2", "--to", "canary", account="default")
    assert code == 2, log
    assert "model-promoter" in log
    assert configured(serving) == before


def test_the_manifests_applied_again_change_nothing_that_is_served(serving: str) -> None:
    before = configured(serving)
    found = kit.moved(kit.kustomized(kit.SERVING / "overlays" / "cpu", "promotion"), serving)
    kit.apply([each for each in found if each["kind"] == "ConfigMap"])
    assert configured(serving) == before


def test_pods_that_are_touched_follow_at_once(serving: str) -> None:
    """With the component quick-promotion."""
    found = kit.kustomized(kit.SERVING / "overlays" / "cpu", "promotion", "quick-promotion")
    kit.apply([each for each in kit.moved(found, serving) if each["kind"] == "Role"])
    started = time.monotonic()
    code, log = promote(serving, "promote", "2", "--to", "canary")
    print(f"canary after {time.monotonic() - started:.0f} s, touched\n{log}")
    assert code == 0, log
    text = kit.kubectl(
        "get", "pods", "-n", serving, "-l", "app.kubernetes.io/name=model-server", "-o", "json"
    )
    for pod in json.loads(text)["items"]:
        assert "perennial/models-config" in pod["metadata"]["annotations"]
