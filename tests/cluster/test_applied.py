"""All kustomizations of kubeflow/ on a real API server, and what kubelet makes of their volumes."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from tests import REPO
from tests.cluster import kit

pytestmark = pytest.mark.cluster

FOLDERS = sorted(
    str(path.parent.relative_to(REPO / "kubeflow"))
    for path in (REPO / "kubeflow").rglob("kustomization.yaml")
    if "kind: Kustomization" in path.read_text() and path.parent.name != "base"
)
POLICY = "violates PodSecurity"


@pytest.mark.parametrize("folder", FOLDERS)
def test_the_api_server_takes_all_of_it(folder: str, namespace: str) -> None:
    """Every object, with restricted pod security and nothing installed beside Kubernetes."""
    resources = kit.moved(kit.kustomized(REPO / "kubeflow" / folder), namespace)
    if folder == "manifests/cronjob-submit":
        assert resources
    # Of Kubeflow, nothing is installed: none of its kinds may be in there.
    warnings = kit.apply(resources, "--dry-run=server", "--validate=strict")
    assert "PodSecurity" not in warnings


@pytest.mark.parametrize("overlay", ["cpu", "nfs", "object-store", "one-namespace", "s3"])
def test_with_the_components_for_promotion_too(overlay: str, namespace: str) -> None:
    resources = kit.kustomized(kit.SERVING / "overlays" / overlay, "promotion", "quick-promotion")
    assert "PodSecurity" not in kit.apply(kit.moved(resources, namespace), "--dry-run=server")


def test_the_component_for_prometheus_needs_its_operator(namespace: str) -> None:
    resources = kit.kustomized(kit.SERVING / "overlays" / "cpu", "prometheus")
    given = yaml.safe_dump_all(kit.moved(resources, namespace))
    done = kit.run_kubectl("apply", "--server-side", "--dry-run=server", "-f", "-", given=given)
    installed = kit.run_kubectl("get", "crd", "servicemonitors.monitoring.coreos.com")
    assert (done.returncode == 0) == (installed.returncode == 0)


def test_the_standard_is_enforced(namespace: str) -> None:
    """Else the absence of warnings would prove nothing."""
    job = kit.job("as-root", namespace, ["true"])
    pod = job["spec"]["template"]["spec"]
    pod["securityContext"] = {"runAsUser": 0}
    bare = kit.resource("v1", "Pod", "as-root", namespace, spec=pod)
    done = kit.run_kubectl("apply", "-f", "-", given=yaml.safe_dump(bare))
    assert done.returncode != 0
    assert POLICY in done.stderr


class TestVolumes:
    @pytest.fixture(scope="class")
    def applied(self, namespace: str) -> str:
        """Return the overlay for profiles without its quota, which is for larger machines."""
        rendered = kit.kustomized(kit.MANIFESTS / "overlays" / "profile")
        resources = kit.moved(rendered, namespace)
        resources.append(
            kit.resource(
                "v1",
                "Secret",
                "perennial-metadata",
                namespace,
                stringData={"user": "perennial", "password": uuid.uuid4().hex},
            )
        )
        kit.apply(resources)
        return namespace

    def test_the_shared_volume_is_handed_to_the_image(self, applied: str) -> None:
        code, _ = kit.ended("prepare-volume", applied)
        assert code == 0
        script = (
            "import os, pathlib; root = pathlib.Path('/mnt/perennial');"
            "(root / 'serving' / 'written').write_text('x');"
            "print(os.getuid(), sorted(each.name for each in root.iterdir()))"
        )
        # Without an fsGroup of its own, as the pods of a run have none.
        reader = kit.job(
            "writer", applied, ["python3", "-c", script], {"/mnt/perennial": "perennial"}
        )
        del reader["spec"]["template"]["spec"]["securityContext"]["fsGroup"]
        kit.apply([reader])
        code, log = kit.ended("writer", applied)
        assert code == 0, log
        assert log.startswith(f"{kit.IMAGE_USER} ")
        for name in ("artifacts", "data", "serving"):
            assert f"'{name}'" in log

    def test_servers_in_the_same_namespace_find_what_was_pushed(self, applied: str) -> None:
        """The overlay one-namespace: the claim of the pipeline, below serving/, to be read."""
        rendered = kit.moved(kit.kustomized(kit.SERVING / "overlays" / "one-namespace"), applied)
        (deployment,) = (each for each in rendered if each["kind"] == "Deployment")
        pod = deployment["spec"]["template"]["spec"]
        (container,) = pod["containers"]
        script = (
            "import pathlib; root = pathlib.Path('/models');"
            "print(root.joinpath('written').read_text());"
            "root.joinpath('mine').write_text('x')"
        )
        reader = kit.job("reader", applied, ["python3", "-c", script])
        looking = reader["spec"]["template"]["spec"]
        looking["volumes"] = pod["volumes"]
        looking["securityContext"] = pod["securityContext"]
        looking["containers"][0]["volumeMounts"] = container["volumeMounts"]
        kit.apply([each for each in rendered if each["kind"] == "ConfigMap"])
        kit.apply([reader])
        code, log = kit.ended("reader", applied)
        assert (code, log.splitlines()[0]) == (1, "x")
        assert "Read-only file system" in log


class TestOneExportUnderTwoClaims:
    """The overlay nfs with its half of the pipeline: here with a folder of the node instead.

    That the one reads what the other wrote is for a server of NFS to show.
    """

    @pytest.fixture
    def namespaces(self, namespace: str) -> Iterator[tuple[str, str]]:
        other = f"{namespace}-served"
        kit.apply([kit.resource("v1", "Namespace", other, None)])
        try:
            yield namespace, other
        finally:
            kit.kubectl("delete", "namespace", other, "--timeout=120s")
            kit.free_volumes(other)

    def test_each_claim_is_given_its_own_volume(self, namespaces: tuple[str, str]) -> None:
        pushed, served = namespaces
        folder = f"/tmp/{pushed}-export"
        for name, place in (
            (pushed, kit.MANIFESTS / "nfs-models"),
            (served, kit.SERVING / "overlays" / "nfs"),
        ):
            found = kit.moved(kit.kustomized(place), name)
            kept = [each for each in found if each["kind"].startswith("PersistentVolume")]
            for each in kept:
                if each["kind"] == "PersistentVolume":
                    del each["spec"]["nfs"], each["spec"]["mountOptions"]
                    each["spec"]["hostPath"] = {"path": folder, "type": "DirectoryOrCreate"}
            kit.apply(kept)
        for name in namespaces:
            kit.wait_until(
                lambda name=name: (  # type: ignore[misc]
                    kit.get("pvc", "models", name).get("status", {}).get("phase") == "Bound"
                ),
                f"the claim in {name}",
            )
        volumes = [kit.get("pvc", "models", name)["spec"]["volumeName"] for name in namespaces]
        assert volumes == [
            f"perennial-models-pushed-{pushed}",
            f"perennial-models-served-{served}",
        ]


def test_folders_are_all_there_are() -> None:
    names = {Path(folder).name for folder in FOLDERS}
    assert {"cpu", "gpu", "nfs", "one-namespace", "object-store", "nfs-models"} <= names
    assert {"profile", "standalone", "cronjob-submit", "cronjob-one-pod"} <= names
