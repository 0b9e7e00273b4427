"""Promotions by a ConfigMap that meet faults, other writers and refusals."""

from __future__ import annotations

import datetime
import json
import os
import re
import signal
import socket
import subprocess
from pathlib import Path

import pytest
import yaml

from components.model_registry import (
    CANARY,
    STABLE,
    Registry,
    registry,
)
from components.model_registry import configuration as model_configuration
from pipeline.errors import ConfigError, KubernetesUnreachable, PromotionFailed
from tests import REPO
from tests.kit.cli import command, perennial, process
from tests.kit.kubernetes_stub import NAME, NAMESPACE, Stub, config_text
from tests.kit.serving import wait_until


class TestNothingIsLost:
    """What needs no server: pods that are waited for in vain, or nobody gets that far."""

    def test_a_change_in_between_is_taken_into_account(
        self, target: Registry, cluster: Stub
    ) -> None:
        base = Path(target.base or "")

        def once(verb: str) -> None:
            if verb == "update configmaps":
                cluster.before = lambda _: None
                cluster.change(config_text(base, 3))

        cluster.before = once
        with pytest.raises(PromotionFailed, match=r"Service \S+/\S+ .*ready"):
            target.promote(2, CANARY, timeout=0.1)
        assert cluster.audit[-1]["from"]["labels"] == {STABLE: 3}
        assert cluster.text == config_text(base, 3)

    def test_changes_all_the_time_end_in_a_refusal(self, target: Registry, cluster: Stub) -> None:
        def always(verb: str) -> None:
            if verb == "update configmaps":
                cluster.store({**cluster.map, "metadata": dict(cluster.map["metadata"])})

        cluster.before = always
        before = cluster.text
        with pytest.raises(ConfigError, match=f"{NAME} .* {registry._TRIES} "):
            target.promote(2, CANARY, timeout=0.1)
        assert (cluster.text, cluster.audit) == (before, [])

    def test_what_somebody_else_wrote_meanwhile_stays(
        self, target: Registry, cluster: Stub
    ) -> None:
        theirs = config_text(Path(target.base or ""), 3)

        def after_the_write(verb: str) -> None:
            if verb == "patch pods" or (verb.startswith("list") and cluster.audit):
                cluster.before = lambda _: None
                cluster.change(theirs)

        cluster.before = after_the_write
        with pytest.raises(PromotionFailed, match=f"/{NAME} .*else"):
            target.promote(2, CANARY, timeout=0.1)
        assert cluster.text == theirs

    def test_that_it_cannot_be_put_back_is_told(self, target: Registry, cluster: Stub) -> None:
        def after_the_write(verb: str) -> None:
            if verb.startswith("list") and cluster.audit:
                cluster.denied = {"update configmaps"}

        cluster.before = after_the_write
        with pytest.raises(PromotionFailed, match=r"NOT .*perennial rollback"):
            target.promote(2, CANARY, timeout=0.1)

    def test_one_at_a_time(self, target: Registry, cluster: Stub) -> None:
        now = datetime.datetime.now(datetime.UTC)
        entry = {"at": "?", "who": "ann@host", "action": "promote 3 to canary"}

        def busy(minutes: int) -> None:
            theirs = model_configuration.Change(
                entry=entry,
                before=cluster.text,
                steps=["theirs"],
                followed=True,
                until=now + datetime.timedelta(minutes=minutes),
            )
            annotation = {model_configuration.CHANGE_ANNOTATION: theirs.model_dump_json()}
            cluster.map["metadata"]["annotations"] = annotation

        busy(5)
        with pytest.raises(ConfigError, match=f"{NAME} .* ann@host "):
            target.promote(2, CANARY, timeout=0.1)
        busy(-1)  # killed, long ago
        with pytest.raises(PromotionFailed, match=r"Service \S+/\S+ .*ready"):
            target.promote(2, CANARY, timeout=0.1)
        assert len(cluster.audit) == 3

    def test_what_was_cut_off_is_undone_by_the_next_change(
        self, target: Registry, cluster: Stub, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        before = cluster.text
        with monkeypatch.context() as killed:
            killed.setattr(model_configuration._ConfigMap, "put_back", lambda *_: "")
            killed.setattr(model_configuration, "_PUT_BACK_TRIES", 0)
            with pytest.raises(PromotionFailed):
                target.promote(2, CANARY, timeout=0.1)
        assert cluster.text != before
        assert cluster.audit[-1]["result"] == "started"
        with pytest.raises(PromotionFailed, match=r"Service \S+/\S+ .*ready"):
            target.promote(3, CANARY, timeout=0.1)
        assert cluster.text == before
        results = [entry["result"] for entry in cluster.audit]
        assert results[:3] == ["started", "failed: cut off, and undone", "started"]
        assert model_configuration.CHANGE_ANNOTATION not in cluster.map["metadata"]["annotations"]

    def test_the_annotation_stays_small(self, target: Registry, cluster: Stub) -> None:
        for _ in range(12):
            with pytest.raises(PromotionFailed):
                target.promote(2, CANARY, timeout=0.01)
        assert len(cluster.audit) == 20
        cluster.map["metadata"]["annotations"]["perennial/audit"] = "somebody's note"
        with pytest.raises(PromotionFailed):
            target.promote(2, CANARY, timeout=0.01)

    def test_terminated_it_puts_the_old_one_back(
        self, target: Registry, cluster: Stub, tmp_path: Path
    ) -> None:
        before = cluster.text
        arguments = command("promote", 2, "--to", "canary", "--configmap", f"{NAMESPACE}/{NAME}")
        with subprocess.Popen(arguments, cwd=REPO, env=dict(os.environ)) as process:
            wait_until(lambda: cluster.text != before)
            process.send_signal(signal.SIGTERM)
        assert process.returncode == 130
        assert cluster.text == before
        assert cluster.audit[-1]["result"] == "failed: KeyboardInterrupt"

    def test_a_file_that_is_applied_again_is_warned_of(self, cluster: Stub) -> None:
        applied = json.dumps({"data": {"models.config": cluster.text}})
        key = "kubectl.kubernetes.io/last-applied-configuration"
        cluster.map["metadata"]["annotations"] = {key: applied}
        arguments = ("--configmap", f"{NAMESPACE}/{NAME}", "--timeout", "1")
        result = process("promote", 2, "--to", "canary", *arguments)
        assert result.returncode == 7
        assert "kubectl apply" in result.stderr
        assert cluster.map["metadata"]["annotations"][key] == applied


class TestRefusals:
    """Nothing was changed: exit code 2, or 13 where nobody answers."""

    def refused(self, cluster: Stub, *arguments: object) -> str:
        before = cluster.map
        result = perennial("promote", 2, "--to", "canary", *arguments)
        assert result.exit_code == 2, result.output
        assert cluster.map is before
        return " ".join(result.stderr.split())

    @pytest.mark.parametrize(
        "right", ["get configmaps", "update configmaps", "list endpointslices"]
    )
    def test_without_a_right(self, cluster: Stub, right: str) -> None:
        cluster.denied = {right}
        message = self.refused(cluster, "--configmap", f"{NAMESPACE}/{NAME}")
        assert right in message
        assert "model-promoter" in message

    @pytest.mark.parametrize(
        ("where", "message"),
        [
            (f"{NAMESPACE}/absent", "absent"),
            ("elsewhere/model-versions", "not found"),
            (f"{NAMESPACE}/{NAME}/absent.config", "key absent.config; .*: models"),
            (f"{NAMESPACE}/{NAME}/other", "ModelServerConfig"),
            (NAME, "configmap://NAMESPACE/NAME"),
            (f"{NAMESPACE}/Name_", "configmap://NAMESPACE/NAME"),
            (f"{NAMESPACE}/{NAME}?services=x", "configmap://NAMESPACE/NAME"),
            (f"{NAMESPACE}/../{NAME}", "configmap://NAMESPACE/NAME"),
        ],
    )
    def test_what_is_not_there(self, cluster: Stub, where: str, message: str) -> None:
        assert re.search(message, self.refused(cluster, "--configmap", where))

    def test_a_pod_out_of_reach(self, cluster: Stub) -> None:
        with socket.socket() as nobody:
            nobody.bind(("127.0.0.1", 0))
            cluster.serve("pod-a", nobody.getsockname()[1])
            message = self.refused(cluster, "--configmap", f"{NAMESPACE}/{NAME}")
        assert "pod-a" in message
        assert "promote-job.yaml" in message

    def test_one_that_is_immutable(self, cluster: Stub) -> None:
        cluster.map["immutable"] = True
        assert "immutable" in self.refused(cluster, "--configmap", f"{NAMESPACE}/{NAME}")

    def test_not_logged_in(self, cluster: Stub, tmp_path: Path) -> None:
        path = Path(os.environ["KUBECONFIG"])
        content = yaml.safe_load(path.read_text())
        content["users"][0]["user"]["token"] = "of-somebody"
        path = path.with_name("other")
        path.write_text(yaml.safe_dump(content))
        os.environ["KUBECONFIG"] = str(path)  # the fixture puts it back
        assert "Unauthorized" in self.refused(cluster, "--configmap", f"{NAMESPACE}/{NAME}")

    @pytest.mark.parametrize("content", [None, "", "[", "{}", "apiVersion: v1"])
    def test_no_usable_kubeconfig(
        self, cluster: Stub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, content: str | None
    ) -> None:
        path = tmp_path / f"kubeconfig-{content}"
        if content is not None:
            path.write_text(content)
        monkeypatch.setenv("KUBECONFIG", str(path))
        message = self.refused(cluster, "--configmap", f"{NAMESPACE}/{NAME}")
        assert "KUBECONFIG" in message

    def test_two_places(self, cluster: Stub) -> None:
        given = ("--configmap", f"{NAMESPACE}/{NAME}", "--config-file", "x")
        assert "--configmap and --config-file: " in self.refused(cluster, *given)

    def test_nobody_answers(self, cluster: Stub, target: Registry, tmp_path: Path) -> None:
        with socket.socket() as nobody:
            nobody.bind(("127.0.0.1", 0))
            cluster.url = f"http://127.0.0.1:{nobody.getsockname()[1]}"
            os.environ["KUBECONFIG"] = str(cluster.kubeconfig(tmp_path))
            with pytest.raises(KubernetesUnreachable, match=cluster.url):
                target.promote(2, CANARY)
            result = perennial("rollback", "--configmap", f"{NAMESPACE}/{NAME}")
        assert result.exit_code == 13

    def test_in_a_pod_its_own_account_is_used(
        self, cluster: Stub, target: Registry, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.delenv("KUBECONFIG")
        monkeypatch.setenv("KUBERNETES_SERVICE_HOST", "10.0.0.1")
        monkeypatch.setenv("KUBERNETES_SERVICE_PORT", "443")
        with pytest.raises(ConfigError, match=r"Service token file .*KUBECONFIG"):
            target.promote(2, CANARY)
