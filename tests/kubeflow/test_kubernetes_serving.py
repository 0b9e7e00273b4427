"""The manifests in kubeflow/serving: valid by the strict schemas, and saying what they should."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest
import yaml
from google.protobuf import text_format
from pydantic import ValidationError
from tensorflow_serving.config.model_server_config_pb2 import ModelServerConfig

from components.model_registry import mirror
from components.model_registry.config_map import ConfigMapKey
from components.model_server.service import REQUEST_COUNT, REQUEST_LATENCY
from tests import REPO
from tests.kit.kustomize import Resource, render
from tests.kit.manifests import CUSTOM, SERVING, validate

OVERLAYS = sorted(path.name for path in (SERVING / "overlays").iterdir())
COMPONENTS = sorted((SERVING / "components").iterdir())
PROMOTION = (SERVING / "components" / "promotion", SERVING / "components" / "quick-promotion")
NAMESPACE = "perennial-serving"
NAMESPACES = {"one-namespace": "perennial"}  # of other overlays
SELECTOR = {"app.kubernetes.io/name": "model-server"}


@pytest.fixture(params=OVERLAYS)
def overlay(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def resources(overlay: str) -> dict[str, Resource]:
    """Return the resources of an overlay with optional components, by kind; each occurs once."""
    rendered = render(SERVING / "overlays" / overlay, SERVING / "components" / "prometheus")
    by_kind = {resource["kind"]: resource for resource in rendered}
    assert len(by_kind) == len(rendered)
    return by_kind


@pytest.fixture
def pod(resources: dict[str, Resource]) -> Resource:
    found: Resource = resources["Deployment"]["spec"]["template"]["spec"]
    return found


@pytest.fixture
def container(pod: Resource) -> Resource:
    (found,) = pod["containers"]
    assert isinstance(found, dict)
    return found


class TestSchemas:
    def test_every_resource_is_valid(self, resources: dict[str, Resource]) -> None:
        for resource in resources.values():
            validate(resource)

    def test_a_misspelt_field_is_found(self, resources: dict[str, Resource]) -> None:
        kubernetes_validate = pytest.importorskip("kubernetes_validate")
        resources["Deployment"]["spec"]["template"]["spec"]["containers"][0]["arg"] = []
        with pytest.raises(kubernetes_validate.ValidationError):
            validate(resources["Deployment"])
        resources["PrometheusRule"]["spec"]["groups"][0]["rules"][0]["expression"] = "1"
        with pytest.raises(ValidationError):
            validate(resources["PrometheusRule"])

    def test_the_inference_service_is_valid(self) -> None:
        validate(yaml.safe_load((SERVING / "kserve" / "inferenceservice.yaml").read_text()))

    def test_all_that_is_promised_is_there(self, resources: dict[str, Resource]) -> None:
        assert resources.keys() >= {
            *("Deployment", "Service", "HorizontalPodAutoscaler", "PodDisruptionBudget"),
            *("NetworkPolicy", "ConfigMap", "ServiceMonitor", "PrometheusRule"),
        }

    def test_an_overlay_needs_nothing_that_is_not_installed(self, overlay: str) -> None:
        for resource in render(SERVING / "overlays" / overlay):
            assert resource["kind"] not in CUSTOM
            assert not resource["apiVersion"].startswith("monitoring.coreos.com")

    @pytest.mark.skipif(not shutil.which("kubectl"), reason="kubectl is not on PATH")
    @pytest.mark.parametrize("components", [(), tuple(COMPONENTS)], ids=["plain", "components"])
    def test_kubectl_renders_the_same(
        self, overlay: str, components: tuple[Path, ...], tmp_path: Path
    ) -> None:
        copy = shutil.copytree(SERVING, tmp_path / "serving")
        path = copy / "overlays" / overlay / "kustomization.yaml"
        content = yaml.safe_load(path.read_text())
        content["components"] = [f"../../components/{each.name}" for each in components]
        path.write_text(yaml.safe_dump(content))
        command = ["kubectl", "kustomize", str(path.parent)]
        done = subprocess.run(command, capture_output=True, text=True, check=True)

        def key(resource: Resource) -> tuple[str, str]:
            return str(resource["kind"]), str(resource["metadata"]["name"])

        theirs = sorted(yaml.safe_load_all(done.stdout), key=key)
        assert sorted(render(SERVING / "overlays" / overlay, *components), key=key) == theirs


class TestPods:
    def test_keep_the_restricted_standard(
        self, resources: dict[str, Resource], pod: Resource, container: Resource
    ) -> None:
        if "Namespace" in resources:  # else it is the pipeline's
            enforced = resources["Namespace"]["metadata"]["labels"]
            assert enforced["pod-security.kubernetes.io/enforce"] == "restricted"
        assert pod["securityContext"]["runAsNonRoot"] is True
        assert pod["securityContext"]["runAsUser"] > 0
        assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
        sidecars = pod.get("initContainers", [])
        for each in (container, *sidecars):
            assert each["securityContext"]["allowPrivilegeEscalation"] is False
            assert each["securityContext"]["capabilities"] == {"drop": ["ALL"]}
            assert each["securityContext"]["readOnlyRootFilesystem"] is True
        assert {each["name"] for each in sidecars} <= {"mirror"}
        assert not {"hostNetwork", "hostPID", "hostIPC"} & pod.keys()
        kinds = {kind for volume in pod["volumes"] for kind in volume.keys() - {"name"}}
        assert kinds <= {"emptyDir", "configMap", "persistentVolumeClaim"}

    def test_run_an_image_that_is_pinned_by_digest(self, container: Resource) -> None:
        assert re.fullmatch(r"tensorflow/serving@sha256:[0-9a-f]{64}", container["image"])

    def test_are_ready_only_with_a_loaded_model(self, container: Resource) -> None:
        for probe in ("startupProbe", "readinessProbe"):
            assert (
                container[probe]["httpGet"]["path"] == "/v1/models/perennial/labels/stable/metadata"
            )

    def test_mount_what_the_server_is_told_to_read(
        self, overlay: str, resources: dict[str, Resource], pod: Resource, container: Resource
    ) -> None:
        flags = dict(argument.removeprefix("--").split("=") for argument in container["args"])
        mounts = {mount["mountPath"]: mount for mount in container["volumeMounts"]}
        volumes = {volume["name"]: volume for volume in pod["volumes"]}
        assert {mount["name"] for mount in mounts.values()} == volumes.keys()
        files = resources["ConfigMap"]["data"]
        for flag in ("model_config_file", "monitoring_config_file"):
            folder, _, name = flags[flag].rpartition("/")
            assert name in files
            # A subPath is not updated in a running pod.
            assert mounts[folder] == {
                "name": mounts[folder]["name"],
                "mountPath": folder,
                "readOnly": True,
            }
            config_map = volumes[mounts[folder]["name"]]["configMap"]["name"]
            assert config_map == resources["ConfigMap"]["metadata"]["name"]

        config = text_format.Parse(files["models.config"], ModelServerConfig())
        (model,) = config.model_config_list.config
        assert model.name == "perennial"
        assert set(model.version_labels.values()) <= set(
            model.model_version_policy.specific.versions
        )
        if overlay == "object-store":
            assert model.base_path.startswith("gs://")
            assert "/models" not in mounts
            assert "PersistentVolumeClaim" not in resources
            return
        assert model.base_path == "/models/perennial"
        assert mounts["/models"]["readOnly"] is True
        if overlay == "s3":
            (sidecar,) = resources["Deployment"]["spec"]["template"]["spec"]["initContainers"]
            assert sidecar["restartPolicy"] == "Always"  # else the server would never start
            assert sidecar["command"][-1] == mirror.__name__
            assert sidecar["args"][1] == model.base_path
            assert {"name": mounts["/models"]["name"], "mountPath": "/models"} in sidecar[
                "volumeMounts"
            ]
            assert "PersistentVolumeClaim" not in resources
            return
        claim = volumes[mounts["/models"]["name"]]["persistentVolumeClaim"]["claimName"]
        if overlay == "one-namespace":
            # Of the pipeline, which makes the folder.
            pipeline = render(REPO / "kubeflow" / "manifests" / "overlays" / "profile")
            names = {(r["kind"], r["metadata"]["name"]): r for r in pipeline}
            assert ("PersistentVolumeClaim", claim) in names
            (job,) = names["Job", "prepare-volume"]["spec"]["template"]["spec"]["containers"]
            assert f"/mnt/perennial/{mounts['/models']['subPath']}" in job["command"]
            assert names["Namespace", resources["Deployment"]["metadata"]["namespace"]]
            return
        assert claim == resources["PersistentVolumeClaim"]["metadata"]["name"]

    def test_follow_a_changed_configuration_without_a_restart(
        self, resources: dict[str, Resource], container: Resource
    ) -> None:
        assert "--model_config_file_poll_wait_seconds=30" in container["args"]
        assert "--allow_version_labels_for_unavailable_models=true" in container["args"]
        assert resources["ConfigMap"]["metadata"]["name"] == "model-server"  # no hash

    def test_gpu_pods_get_a_gpu(self) -> None:
        (deployment,) = (
            r for r in render(SERVING / "overlays" / "gpu") if r["kind"] == "Deployment"
        )
        pod = deployment["spec"]["template"]["spec"]
        assert pod["containers"][0]["resources"]["limits"]["nvidia.com/gpu"] == "1"
        assert pod["tolerations"][0]["key"] == "nvidia.com/gpu"


class TestReferences:
    def test_everything_is_in_the_namespace(
        self, overlay: str, resources: dict[str, Resource]
    ) -> None:
        for kind, resource in resources.items():
            metadata = resource["metadata"]
            if kind == "PersistentVolume":
                assert "namespace" not in metadata
                continue
            name = metadata["name"] if kind == "Namespace" else metadata["namespace"]
            assert name == NAMESPACES.get(overlay, NAMESPACE)

    def test_one_export_is_under_both_claims(self) -> None:
        halves = {
            "perennial-serving": render(SERVING / "overlays" / "nfs"),
            "perennial": render(REPO / "kubeflow" / "manifests" / "nfs-models"),
        }
        exports = []
        for namespace, rendered in halves.items():
            by_kind = {resource["kind"]: resource for resource in rendered}
            volume, claim = by_kind["PersistentVolume"], by_kind["PersistentVolumeClaim"]
            assert claim["metadata"] == {"name": "models", "namespace": namespace}
            assert volume["spec"]["claimRef"] == {"namespace": namespace, "name": "models"}
            assert claim["spec"]["volumeName"] == volume["metadata"]["name"]
            for key in ("accessModes", "storageClassName"):
                assert claim["spec"][key] == volume["spec"][key]
            asked = claim["spec"]["resources"]["requests"]["storage"]
            assert asked == volume["spec"]["capacity"]["storage"]
            exports.append((volume["spec"]["nfs"]["server"], volume["spec"]["nfs"]["path"]))
        assert len(set(exports)) == 1

    def test_selectors_find_the_pods_and_the_service(self, resources: dict[str, Resource]) -> None:
        template = resources["Deployment"]["spec"]["template"]
        assert template["metadata"]["labels"].items() >= SELECTOR.items()
        assert resources["Service"]["metadata"]["labels"].items() >= SELECTOR.items()
        for kind in ("Deployment", "PodDisruptionBudget", "ServiceMonitor"):
            assert resources[kind]["spec"]["selector"] == {"matchLabels": SELECTOR}
        assert resources["Service"]["spec"]["selector"] == SELECTOR
        assert resources["NetworkPolicy"]["spec"]["podSelector"] == {"matchLabels": SELECTOR}

    def test_ports_are_those_of_the_container(
        self, resources: dict[str, Resource], container: Resource
    ) -> None:
        ports = {port["name"]: port["containerPort"] for port in container["ports"]}
        assert ports == {"grpc": 8500, "http": 8501}
        assert {"--port=8500", "--rest_api_port=8501"} <= set(container["args"])
        services = {port["targetPort"] for port in resources["Service"]["spec"]["ports"]}
        allowed = {
            port["port"]
            for rule in resources["NetworkPolicy"]["spec"]["ingress"]
            for port in rule["ports"]
        }
        (endpoint,) = resources["ServiceMonitor"]["spec"]["endpoints"]
        assert services == allowed == ports.keys() >= {endpoint["port"]}

    def test_metrics_are_scraped_where_they_are(self, resources: dict[str, Resource]) -> None:
        (endpoint,) = resources["ServiceMonitor"]["spec"]["endpoints"]
        assert f'path: "{endpoint["path"]}"' in resources["ConfigMap"]["data"]["monitoring.config"]

    def test_the_autoscaler_scales_the_deployment(self, resources: dict[str, Resource]) -> None:
        target = resources["HorizontalPodAutoscaler"]["spec"]["scaleTargetRef"]
        assert target["kind"] == "Deployment"
        assert target["name"] == resources["Deployment"]["metadata"]["name"]
        # It would be set back with each `kubectl apply`.
        assert "replicas" not in resources["Deployment"]["spec"]

    def test_the_server_is_reached_by_named_clients_only(
        self, resources: dict[str, Resource]
    ) -> None:
        policy = resources["NetworkPolicy"]["spec"]
        assert policy["policyTypes"] == ["Ingress", "Egress"]
        for rule in policy["ingress"]:
            for source in rule["from"]:
                assert {} not in source.values() or "podSelector" in source

    def test_alerts_watch_errors_latency_and_versions(self, resources: dict[str, Resource]) -> None:
        (group,) = resources["PrometheusRule"]["spec"]["groups"]
        expressions = {rule["alert"]: rule["expr"] for rule in group["rules"]}
        assert f"{REQUEST_COUNT}{{model_name=" in expressions["ModelServerErrors"]
        assert f"{REQUEST_LATENCY}_bucket" in expressions["ModelServerSlow"]
        targets = resources["Probe"]["spec"]["targets"]["staticConfig"]["static"]
        for alert, label in (("ModelStable", "stable"), ("ModelVersion", "canary")):
            path = f"/labels/{label}/metadata"
            assert path in expressions[f"{alert}NotAvailable"]
            assert sum(target.endswith(path) for target in targets) == 1

    @pytest.mark.skipif(not shutil.which("promtool"), reason="needs promtool, of Prometheus")
    def test_alerts_fire_on_what_the_server_exposes(
        self, resources: dict[str, Resource], tmp_path: Path
    ) -> None:
        """Series as TensorFlow Serving 2.20 exposes them, and the exporters around it."""
        (tmp_path / "rules.yaml").write_text(yaml.dump(resources["PrometheusRule"]["spec"]))
        shutil.copy(REPO / "tests" / "kubeflow" / "alerts.yaml", tmp_path)
        command = ["promtool", "test", "rules", "alerts.yaml"]
        done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
        assert done.returncode == 0, done.stdout + done.stderr


class TestPromotion:
    """The components for promotion in the cluster, and the Job."""

    @pytest.fixture
    def rendered(self) -> dict[tuple[str, str], Resource]:
        found = render(SERVING / "overlays" / "cpu", *PROMOTION)
        for resource in found:
            validate(resource)
        return {(each["kind"], each["metadata"]["name"]): each for each in found}

    @pytest.fixture
    def job(self) -> Resource:
        found: Resource = yaml.safe_load((SERVING / "promote-job.yaml").read_text())
        validate({**found, "metadata": {**found["metadata"], "name": "promote-1"}})
        return found

    def test_the_account_may_change_one_config_map(
        self, rendered: dict[tuple[str, str], Resource]
    ) -> None:
        without = {
            each["kind"]: each
            for each in render(SERVING / "overlays" / "cpu", PROMOTION[0])
            if each["metadata"]["name"] == "model-promoter"
        }
        rules = [
            (rule["resources"], rule["verbs"], rule.get("resourceNames"))
            for rule in without["Role"]["rules"]
        ]
        assert rules == [
            (["configmaps"], ["get", "update"], ["model-versions"]),
            (["endpointslices"], ["list"], None),
            (["events"], ["create"], None),
        ]
        assert without["RoleBinding"]["roleRef"]["name"] == without["Role"]["metadata"]["name"]
        quick = rendered["Role", "model-promoter"]["rules"]
        assert quick[len(rules) :] == [
            {"apiGroups": [""], "resources": ["pods"], "verbs": ["patch"]}
        ]

    def test_the_versions_are_in_no_kustomization(
        self, rendered: dict[tuple[str, str], Resource]
    ) -> None:
        assert ("ConfigMap", "model-versions") not in rendered
        pod = rendered["Deployment", "model-server"]["spec"]["template"]["spec"]
        (config,) = (volume for volume in pod["volumes"] if volume["name"] == "config")
        items = {
            source["configMap"]["name"]: [item["path"] for item in source["configMap"]["items"]]
            for source in config["projected"]["sources"]
        }
        assert items == {
            "model-server": ["monitoring.config"],
            "model-versions": ["models.config"],
        }

    def test_the_job_promotes_by_that_account(
        self, rendered: dict[tuple[str, str], Resource], job: Resource
    ) -> None:
        template = job["spec"]["template"]
        pod, labels = template["spec"], template["metadata"]["labels"]
        assert ("ServiceAccount", pod["serviceAccountName"]) in rendered
        assert job["spec"]["backoffLimit"] == 0
        (container,) = pod["containers"]
        command, version, *arguments = container["args"]
        assert (command, version) == ("promote", "$(VERSION)")
        (where,) = (a for a in arguments if "/" in a)
        place = ConfigMapKey.parse(f"configmap://{where}")
        assert place.name == "model-versions"
        assert place.namespace == job["metadata"]["namespace"] == NAMESPACE
        assert ("Service", place.service) in rendered
        policy = rendered["NetworkPolicy", "model-promoter"]["spec"]
        assert {"podSelector": {"matchLabels": labels}} in policy["ingress"][0]["from"]
        assert policy["ingress"][0]["ports"] == [{"port": "grpc"}]

    def test_the_job_keeps_the_restricted_standard(self, job: Resource) -> None:
        pod = job["spec"]["template"]["spec"]
        assert pod["securityContext"]["runAsNonRoot"] is True
        assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
        (container,) = pod["containers"]
        assert container["securityContext"] == {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
        }
        assert all(
            mount["readOnly"] for mount in container["volumeMounts"] if mount["name"] != "tmp"
        )
