"""The manifests in kubeflow/manifests: valid by the strict schemas, and allowing little."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterator
from typing import Any

import pytest
import yaml
from typer.testing import CliRunner

from kubeflow.commands.submit import SERVICE_ACCOUNT
from pipeline import addresses, beam_runner, cli
from pipeline.errors import ConfigError, DataError, NotBlessed
from pipeline.settings.beam import BeamConfig
from pipeline.settings.cluster import KubeflowConfig
from tests import REPO
from tests.kit.kustomize import Resource, render
from tests.kit.manifests import KUBERNETES

MANIFESTS = REPO / "kubeflow" / "manifests"
KUSTOMIZATIONS = {
    "overlays/profile": "perennial",
    "overlays/standalone": "kubeflow",
    "cronjob-submit": "perennial",
    "cronjob-one-pod": "perennial",
    "watch": "perennial",
    "nfs-models": "perennial",
    "beam": "perennial",
    "beam/flink": "perennial",
}
# Those for which the base has the claim that their pods mount.
WITH_BASE = {"beam": {"perennial"}, "beam/flink": {"perennial"}}
OWN_IMAGES = {"perennial", "perennial-prism"}
# Nobody has deployed these: their kustomization has to warn of that.
UNTRIED = {"beam/flink"}
IMAGE_USER = 65532


@pytest.fixture(params=KUSTOMIZATIONS)
def folder(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def resources(folder: str) -> list[Resource]:
    return render(MANIFESTS / folder)


def of(resources: list[Resource], kind: str, name: str = "") -> Resource:
    """Return the only resource of a kind, or the one of a name."""
    (found,) = (
        each
        for each in resources
        if each["kind"] == kind and name in ("", each["metadata"]["name"])
    )
    return found


def pods(resources: list[Resource]) -> Iterator[Resource]:
    for resource in resources:
        spec = resource.get("spec", {})
        template = spec.get("jobTemplate", {}).get("spec", spec).get("template")
        if template:
            yield template["spec"]


def containers(resources: list[Resource]) -> Iterator[Resource]:
    for pod in pods(resources):
        assert "initContainers" not in pod
        yield from pod["containers"]


def test_every_resource_is_valid(resources: list[Resource]) -> None:
    kubernetes_validate = pytest.importorskip("kubernetes_validate")
    for resource in resources:
        kubernetes_validate.validate(resource, KUBERNETES, strict=True)


def test_every_file_belongs_to_a_kustomization() -> None:
    for path in MANIFESTS.rglob("kustomization.yaml"):
        named = set(yaml.safe_load(path.read_text())["resources"])
        others = {each.name for each in path.parent.glob("*.yaml")} - {"kustomization.yaml"}
        assert others <= named


def test_everything_is_in_the_namespace_and_there_once(
    resources: list[Resource], folder: str
) -> None:
    names = [(each["kind"], each["metadata"]["name"]) for each in resources]
    assert len(names) == len(set(names))
    for resource in resources:
        metadata = resource["metadata"]
        if resource["kind"] == "PersistentVolume":
            continue  # in no namespace
        name = metadata["name"] if resource["kind"] == "Namespace" else metadata["namespace"]
        assert name == KUSTOMIZATIONS[folder]


def test_pods_keep_the_restricted_standard(resources: list[Resource]) -> None:
    for pod in pods(resources):
        assert pod["securityContext"]["runAsNonRoot"] is True
        assert pod["securityContext"]["runAsUser"] > 0
        assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
        assert pod["automountServiceAccountToken"] is False
        assert not {"hostNetwork", "hostPID", "hostIPC"} & pod.keys()
        kinds = {kind for volume in pod["volumes"] for kind in volume.keys() - {"name"}}
        assert kinds <= {"emptyDir", "configMap", "persistentVolumeClaim", "projected"}
    for container in containers(resources):
        assert container["securityContext"] == {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
        }
        assert {"cpu", "memory"} <= container["resources"]["requests"].keys()
        assert "memory" in container["resources"]["limits"]


def test_the_projects_image_runs_as_its_user_and_others_are_pinned(
    resources: list[Resource], folder: str
) -> None:
    if folder in UNTRIED:
        assert "# UNTESTED: " in (MANIFESTS / folder / "kustomization.yaml").read_text()
        return
    for pod in pods(resources):
        for container in pod["containers"]:
            if container["image"] in OWN_IMAGES:
                assert pod["securityContext"]["runAsUser"] == IMAGE_USER
            else:
                assert re.fullmatch(r"\S+:\S+@sha256:[0-9a-f]{64}", container["image"])


def test_volumes_are_mounted_and_mounts_have_volumes(
    resources: list[Resource], folder: str
) -> None:
    if not any(pods(resources)):
        return  # claims for the pods of runs
    claimed = {
        template["metadata"]["name"]
        for resource in resources
        for template in resource.get("spec", {}).get("volumeClaimTemplates", ())
    }
    for pod in pods(resources):
        mounted = {m["name"] for container in pod["containers"] for m in container["volumeMounts"]}
        volumes = {volume["name"] for volume in pod["volumes"]}
        assert volumes <= mounted <= volumes | claimed
    claims = {r["metadata"]["name"] for r in resources if r["kind"] == "PersistentVolumeClaim"}
    used = {
        volume["persistentVolumeClaim"]["claimName"]
        for pod in pods(resources)
        for volume in pod["volumes"]
        if "persistentVolumeClaim" in volume
    }
    assert used == claims | WITH_BASE.get(folder, set())


def test_every_account_is_there_and_binds_a_role(resources: list[Resource]) -> None:
    accounts = {r["metadata"]["name"] for r in resources if r["kind"] == "ServiceAccount"}
    roles = {r["metadata"]["name"] for r in resources if r["kind"] == "Role"}
    for pod in pods(resources):
        assert pod["serviceAccountName"] in accounts
    for resource in resources:
        if resource["kind"] == "RoleBinding":
            assert resource["roleRef"]["name"] in roles
            assert {subject["name"] for subject in resource["subjects"]} <= accounts


def test_roles_are_narrow(resources: list[Resource]) -> None:
    assert not [r for r in resources if r["kind"].startswith("Cluster")]
    for resource in resources:
        for rule in resource.get("rules", ()):
            assert "*" not in [*rule["apiGroups"], *rule["resources"], *rule["verbs"]]
            if {"secrets", "configmaps"} & set(rule["resources"]):
                assert rule["resourceNames"]
            assert not {"delete", "update", "escalate", "bind"} & set(rule["verbs"])


def test_no_secret_is_written_down(resources: list[Resource]) -> None:
    assert not [r for r in resources if r["kind"] == "Secret"]
    for container in containers(resources):
        for variable in container.get("env", ()):
            if re.search("PASSWORD|TOKEN|KEY", variable["name"]):
                assert variable.get("value", "1") == "1"  # MARIADB_RANDOM_ROOT_PASSWORD
                assert "value" in variable or "secretKeyRef" in variable["valueFrom"]


class TestMetadata:
    @pytest.fixture
    def rendered(self) -> list[Resource]:
        return render(MANIFESTS / "overlays" / "profile")

    def test_it_is_what_pods_are_told_by_default(self, rendered: list[Resource]) -> None:
        metadata = KubeflowConfig().metadata
        service = of(rendered, "Service")
        assert service["metadata"]["name"] == metadata.host
        assert service["spec"]["ports"][0]["port"] == (metadata.port or 3306)
        (container,) = of(rendered, "StatefulSet")["spec"]["template"]["spec"]["containers"]
        env = {variable["name"]: variable for variable in container["env"]}
        assert env["MARIADB_DATABASE"]["value"] == metadata.database
        for name, key in (("MARIADB_USER", "user"), ("MARIADB_PASSWORD", "password")):
            assert env[name]["valueFrom"]["secretKeyRef"] == {"name": metadata.secret, "key": key}

    def test_runs_use_the_account_that_there_is(self, rendered: list[Resource]) -> None:
        assert of(rendered, "ServiceAccount", SERVICE_ACCOUNT)
        assert of(rendered, "RoleBinding", SERVICE_ACCOUNT)

    def test_selectors_find_the_database(self, rendered: list[Resource]) -> None:
        stateful = of(rendered, "StatefulSet")["spec"]
        labels = stateful["template"]["metadata"]["labels"]
        assert stateful["selector"]["matchLabels"] == labels
        assert of(rendered, "Service")["spec"]["selector"] == labels
        assert stateful["serviceName"] == of(rendered, "Service")["metadata"]["name"]

    def test_only_runs_reach_it(self, rendered: list[Resource]) -> None:
        database = of(rendered, "NetworkPolicy", "perennial-metadata")["spec"]
        labels = of(rendered, "StatefulSet")["spec"]["template"]["metadata"]["labels"]
        assert database["podSelector"]["matchLabels"] == labels
        (rule,) = database["ingress"]
        runs = of(rendered, "NetworkPolicy", "perennial-run")["spec"]
        assert rule["from"] == [{"podSelector": runs["podSelector"]}]
        assert {"podSelector": database["podSelector"]} in [
            place for each in runs["egress"] for place in each.get("to", ())
        ]
        assert runs["ingress"] == []
        assert of(rendered, "NetworkPolicy", "deny-ingress")["spec"]["podSelector"] == {}


def test_a_namespace_of_its_own_is_restricted_and_bounded() -> None:
    rendered = render(MANIFESTS / "overlays" / "profile")
    labels = of(rendered, "Namespace")["metadata"]["labels"]
    assert {labels[f"pod-security.kubernetes.io/{mode}"] for mode in ("enforce", "audit")} == {
        "restricted"
    }
    hard = of(rendered, "ResourceQuota")["spec"]["hard"]
    assert "requests.nvidia.com/gpu" in hard
    (limit,) = of(rendered, "LimitRange")["spec"]["limits"]
    # What the quota counts, containers without a word about it are given.
    assert {key.removeprefix("requests.") for key in hard} & {"cpu", "memory"} == limit[
        "defaultRequest"
    ].keys()


def test_the_namespace_of_kubeflow_itself_is_left_alone() -> None:
    rendered = render(MANIFESTS / "overlays" / "standalone")
    kinds = {each["kind"] for each in rendered}
    assert not kinds & {"Namespace", "ResourceQuota", "LimitRange"}
    # Nor does a policy hold for the pods of others.
    policy = of(rendered, "NetworkPolicy")["spec"]
    assert policy["podSelector"]["matchLabels"] == {"app.kubernetes.io/name": "perennial-metadata"}


class TestBeam:
    @pytest.fixture(params=["beam", "beam/flink"])
    def rendered(self, request: pytest.FixtureRequest) -> list[Resource]:
        return render(MANIFESTS / request.param)

    def settings(self, folder: str) -> BeamConfig:
        """Those that the kustomization tells people to have."""
        text = (MANIFESTS / folder / "kustomization.yaml").read_text()
        lines = [line.removeprefix("#   ") for line in text.splitlines() if line.startswith("#   ")]
        return BeamConfig(**tomllib.loads("\n".join(lines))["beam"])

    @pytest.mark.parametrize("folder", ["beam", "beam/flink"])
    def test_runs_can_use_it_with_the_settings_that_it_names(self, folder: str) -> None:
        beam, rendered = self.settings(folder), render(MANIFESTS / folder)
        beam_runner.check_pods(beam)
        options = beam.jobs["Transform"].options
        name, port = addresses.split(options["job_endpoint"])
        service = of(rendered, "Service", name)
        assert port in [each["port"] for each in service["spec"]["ports"]]
        policy = of(rendered, "NetworkPolicy", "perennial-run-to-beam")["spec"]
        (rule,) = policy["egress"]
        assert {"port": port} in rule["ports"]
        workers = [each for each in containers(rendered) if each["name"] == "worker"]
        assert workers
        for worker in workers:
            (_, worker_port) = addresses.split(options["environment_config"])
            assert worker["args"] == ["worker", f"--port={worker_port}"]

    def test_workers_are_started_by_a_command_that_there_is(self, rendered: list[Resource]) -> None:
        for container in containers(rendered):
            if container["image"] == "perennial":
                assert container["command"] == ["perennial"]
                shown = CliRunner().invoke(cli.app, [container["args"][0], "--help"]).output
                assert "--port" in shown


class TestCronJobs:
    @pytest.fixture(params=["cronjob-submit", "cronjob-one-pod"])
    def spec(self, request: pytest.FixtureRequest) -> Resource:
        found: Resource = of(render(MANIFESTS / request.param), "CronJob")["spec"]
        return found

    def test_run_once_at_a_time_by_a_named_clock(self, spec: Resource) -> None:
        assert len(spec["schedule"].split()) == 5
        assert spec["timeZone"] == "Etc/UTC"
        assert spec["concurrencyPolicy"] == "Forbid"

    @pytest.mark.parametrize("kind", ["cronjob-submit", "cronjob-one-pod", "watch"])
    def test_call_commands_that_there_are(self, kind: str) -> None:
        (container,) = containers(render(MANIFESTS / kind))
        assert container["command"] == ["perennial"]
        command, *arguments = container["args"]
        shown = CliRunner().invoke(cli.app, [command, "--help"], env={"COLUMNS": "200"}).output
        for argument in arguments:
            if argument.startswith("--"):
                assert argument.partition("=")[0] in shown

    @pytest.mark.parametrize("kind", ["cronjob-submit", "watch"])
    def test_the_token_is_where_it_is_looked_for(self, kind: str) -> None:
        from kubeflow import transport

        pod = next(pods(render(MANIFESTS / kind)))
        (container,) = pod["containers"]
        mounts = {mount["name"]: mount["mountPath"] for mount in container["volumeMounts"]}
        (source,) = of_name(pod["volumes"], "token")["projected"]["sources"]
        token = source["serviceAccountToken"]
        assert f"{mounts['token']}/{token['path']}" == str(transport._POD_TOKEN)
        assert token["audience"] == "pipelines.kubeflow.org"

    def test_what_trying_again_does_not_help_is_not_tried_again(self) -> None:
        job = of(render(MANIFESTS / "cronjob-one-pod"), "CronJob")["spec"]["jobTemplate"]["spec"]
        (rule,) = job["podFailurePolicy"]["rules"]
        kinds = (ConfigError, DataError, NotBlessed)
        assert rule["onExitCodes"]["values"] == [kind.exit_code for kind in kinds]
        (container,) = job["template"]["spec"]["containers"]
        assert rule["onExitCodes"]["containerName"] == container["name"]


def of_name(things: list[dict[str, Any]], name: str) -> dict[str, Any]:
    (found,) = (thing for thing in things if thing["name"] == name)
    return found
