"""Compiled pipelines: as committed, valid by the strict schemas, and saying what they should."""

from __future__ import annotations

import copy
import json
import re
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import yaml
from google.protobuf import json_format
from kfp import components
from kfp.kubernetes import kubernetes_executor_config_pb2
from kfp.pipeline_spec import pipeline_spec_pb2

from kubeflow import dag
from kubeflow.compiler import compile_pipeline
from pipeline.config import load
from pipeline.settings.cluster import ENVIRONMENTS
from tests import golden
from tests.kit import kubeflow_backend as backend
from tests.kit.sample_package import NEEDED

ARGO_NAME = re.compile(r"[a-zA-Z0-9][-a-zA-Z0-9]*")


GPU_NODES = {"trainer", "infra-validator"}


class Compiled(NamedTuple):
    """The documents of a compiled pipeline."""

    text: str
    spec: dict[str, Any]
    platform: dict[str, Any]

    @property
    def executors(self) -> dict[str, Any]:
        found: dict[str, Any] = self.spec["deploymentSpec"]["executors"]
        return found

    @property
    def pods(self) -> dict[str, Any]:
        """What is asked of Kubernetes, by executor."""
        found: dict[str, Any] = self.platform["platforms"]["kubernetes"]["deploymentSpec"]
        return found["executors"]

    @property
    def tasks(self) -> dict[str, Any]:
        found: dict[str, Any] = self.spec["root"]["dag"]["tasks"]
        return found


@pytest.fixture(scope="module", params=ENVIRONMENTS)
def environment(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def compiled(environment: str) -> Compiled:
    text = golden.compiled(environment)
    return Compiled(text, *yaml.safe_load_all(text))


def test_is_as_committed(environment: str) -> None:
    committed = golden.path(environment).read_text(encoding="utf-8")
    assert golden.content(environment) == committed, (
        "run python -m tests.golden and look at what changed"
    )


def test_keeps_to_the_schemas(compiled: Compiled) -> None:
    json_format.ParseDict(compiled.spec, pipeline_spec_pb2.PipelineSpec())
    deployment = pipeline_spec_pb2.PipelineDeploymentConfig()
    json_format.ParseDict(compiled.spec["deploymentSpec"], deployment)
    assert {each.WhichOneof("spec") for each in deployment.executors.values()} == {"container"}
    json_format.ParseDict(compiled.platform, pipeline_spec_pb2.PlatformSpec())
    for pod in compiled.pods.values():
        json_format.ParseDict(pod, kubernetes_executor_config_pb2.KubernetesExecutorConfig())


def test_kfp_loads_it(compiled: Compiled) -> None:
    component = components.load_component_from_text(compiled.text)
    assert component.name == "photos"
    inputs = component.component_spec.inputs
    assert {name: (each.type, each.default) for name, each in inputs.items()} == {
        "data_root": ("String", "gs://example-images/photos"),
        "span": ("String", ""),
        "recipe": ("String", "vit"),
        "epochs": ("String", "5"),
        "batch_size": ("Integer", 256),
        "seed": ("Integer", 0),
        "learning_rate": ("Float", 0.001),
        "min_accuracy": ("String", "0.5"),
        "pipeline_root": ("String", "gs://example-artifacts/photos"),
    }


def test_argo_takes_the_names(compiled: Compiled) -> None:
    for name in (*compiled.tasks, *compiled.executors, *compiled.spec["components"]):
        assert ARGO_NAME.fullmatch(name), name


def test_kubernetes_is_asked_for_the_tasks_that_there_are(compiled: Compiled) -> None:
    assert compiled.pods.keys() == compiled.executors.keys()


RELEASES = pytest.mark.parametrize("args", [True, False], ids=["since 2.17", "before 2.17"])


def options(command: list[str]) -> dict[str, str]:
    """Values by option, and parameters' by name."""
    found = {}
    for index, part in enumerate(command):
        if part == "--parameter":
            found[command[index + 1]] = command[index + 2]
        elif part.startswith("--"):
            found[part] = command[index + 1]
    return found


@RELEASES
def test_the_backend_resolves_all_of_it(compiled: Compiled, args: bool) -> None:
    run = backend.Run(args=args)
    tasks = dict(backend.commands(compiled.spec, {}, run))
    assert tasks.keys() == compiled.tasks.keys()
    for command in tasks.values():
        assert options(command)["--run-id"] == run.id
    # The defaults, as the plan reads them.
    named = options(tasks["data"])
    assert {"recipe": "vit", "span": "", "seed": "0", "learning_rate": "0.001"}.items() <= (
        named.items()
    )
    assert named["--output"] == "/tmp/kfp/outputs/plan"


@RELEASES
def test_every_parameter_reaches_the_plan(compiled: Compiled, args: bool) -> None:
    inputs = compiled.spec["root"]["inputDefinitions"]["parameters"]
    values = {"STRING": "a value of {it}", "NUMBER_INTEGER": 12345678, "NUMBER_DOUBLE": 2.5e-7}
    given = {name: values[each["parameterType"]] for name, each in inputs.items()}
    command = dict(backend.commands(compiled.spec, given, backend.Run(args=args)))["data"]
    found = options(command)
    for name, value in given.items():
        text = found["--pipeline-root" if name == "pipeline_root" else name]
        assert text == value if isinstance(value, str) else json.loads(text) == value


def test_a_run_id_in_the_arguments_would_not_be_resolved(compiled: Compiled) -> None:
    """As it was compiled once: every run got the same id, and later ones did nothing."""
    spec = copy.deepcopy(compiled.spec)
    container = spec["deploymentSpec"]["executors"]["exec-judgement"]["container"]
    place = container["args"].index("--run-id") + 1
    container["args"][place] = "{{$.pipeline_job_uuid}}"
    with pytest.raises(backend.UnresolvedError, match="pipeline_job_uuid"):
        list(backend.commands(spec, {}, backend.Run()))


@pytest.mark.parametrize(
    "constant", ["run {{$.pipeline_job_uuid}}", "{{$.pipeline_root}}", "{{$.outputs.output_file}}"]
)
def test_what_the_backend_does_not_know_as_a_constant_is_an_error(constant: str) -> None:
    with pytest.raises(backend.UnresolvedError):
        backend.Run().constant(constant, "task")


def test_order_is_that_of_the_dag(compiled: Compiled, environment: str) -> None:
    config = load(None, golden.SETTINGS | {"kubeflow.environment": environment}).config
    ir = dag.make(config, "gs://root")
    upstream = {
        each.pipeline_node.node_info.id: set(each.pipeline_node.upstream_nodes) for each in ir.nodes
    }
    run = {
        name: options(command)["--run"].split(",")
        for name, command in backend.commands(compiled.spec, {}, backend.Run())
    }
    assert sorted(node for nodes in run.values() for node in nodes) == sorted(upstream)
    task_of = {node: task for task, nodes in run.items() for node in nodes}
    for name, nodes in run.items():
        task = compiled.tasks[name]
        before = {task_of[each] for node in nodes for each in upstream[node]} - {name}
        if name == "data":
            assert "dependentTasks" not in task
        else:
            assert set(task["dependentTasks"]) == before | {"data"}
        for index, node in enumerate(nodes):
            assert upstream[node] & set(nodes) <= set(nodes[:index])
        assert task["cachingOptions"] == {}
    titles = {name: compiled.tasks[name]["taskInfo"]["name"] for name in run}
    assert titles.items() >= {("trainer", "Trainer"), ("infra-validator", "InfraValidator")}
    assert titles["judgement"] == "judgement: Resolver, Evaluator, Pusher"
    assert titles["data"].startswith("data: plan, ImageExampleGen, ")


def test_only_nodes_of_a_gpu_pool_see_gpus(compiled: Compiled) -> None:
    for name, executor in compiled.executors.items():
        container = executor["container"]
        env = {each["name"]: each.get("value", "") for each in container["env"]}
        gpu = name.removeprefix("exec-") in GPU_NODES
        assert env.get("CUDA_VISIBLE_DEVICES") == (None if gpu else "")
        assert ("accelerator" in container["resources"]) == gpu
        assert ("nodeSelector" in compiled.pods[name]) == gpu
        assert ("@sha256:" in container["image"]) == gpu
        if gpu:
            assert container["resources"]["accelerator"]["resourceType"] == "nvidia.com/gpu"
            assert container["resources"]["accelerator"]["resourceCount"] == "1"
            (shared,) = compiled.pods[name]["emptyDirMounts"]
            assert (shared["mountPath"], shared["medium"]) == ("/dev/shm", "Memory")
            assert compiled.pods[name]["activeDeadlineSeconds"] == "86400"


def test_every_pod_has_its_surroundings_and_retries(compiled: Compiled) -> None:
    for pod in compiled.pods.values():
        assert [each["constant"] for each in pod["pvcMount"]] == ["images"]
        assert [each["secretName"] for each in pod["secretAsVolume"]] == ["cloud-account"]
        variables = [each["envVar"] for secret in pod["secretAsEnv"] for each in secret["keyToEnv"]]
        assert variables == [
            "PERENNIAL_METADATA_USER",
            "PERENNIAL_METADATA_PASSWORD",
            "AWS_ACCESS_KEY_ID",
        ]
        assert pod["securityContext"] == {"runAsNonRoot": True, "runAsUser": "1000"}
    for task in compiled.tasks.values():
        assert task["retryPolicy"] == {
            "maxRetryCount": 2,
            "backoffDuration": "60s",
            "backoffFactor": 2.0,
            "backoffMaxDuration": "100000000s",
        }


def test_nodes_that_judge_or_push_have_a_report(compiled: Compiled) -> None:
    reports = {
        name
        for name, component in compiled.spec["components"].items()
        if "report" in component["outputDefinitions"].get("artifacts", {})
    }
    assert reports == {"comp-judgement"}


def test_each_node_has_metrics_of_its_own(compiled: Compiled) -> None:
    artifacts = {
        name: set(component["outputDefinitions"]["artifacts"])
        for name, component in compiled.spec["components"].items()
    }
    assert artifacts["comp-trainer"] == {"trainer_metrics"}
    assert artifacts["comp-judgement"] == {
        "resolver_metrics",
        "evaluator_metrics",
        "pusher_metrics",
        "report",
    }


def test_grouping_by_nodes_is_a_pod_each_after_one_that_plans() -> None:
    settings = {**NEEDED, "data.source": "/images", "kubeflow.grouping": "nodes"}
    pods = compile_pipeline(load(None, settings)).pods
    assert (pods[0].task, pods[0].ids) == ("plan", [])
    assert {len(pod.ids) for pod in pods[1:]} == {1}
    assert [pod.plans for pod in pods[1:]] == [False] * (len(pods) - 1)


def test_a_run_has_a_deadline(compiled: Compiled) -> None:
    limits = compiled.platform["platforms"]["kubernetes"]["pipelineConfig"]
    assert limits == {"activeDeadlineSeconds": 86_400}
    # What pods are told, and `perennial watch` and the check of the cluster read.
    for executor in compiled.executors.values():
        env = {each["name"]: each.get("value") for each in executor["container"]["env"]}
        assert (env["PERENNIAL_START_TIMEOUT"], env["PERENNIAL_RETRIES"]) == ("3600", "2")


def test_pods_reach_the_object_store_that_is_set(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("AWS_ENDPOINT_URL_S3", "PERENNIAL_STAGING_GB"):
        monkeypatch.setenv(name, "")  # put back afterwards
    settings = {
        **NEEDED,
        "kubeflow.pipeline_root": "s3://bucket/runs",
        "storage.endpoint_url": "http://minio:9000",
        "storage.staging_gb": 20.5,
    }
    text = compile_pipeline(load(None, settings)).text
    executors = yaml.safe_load(text.partition("\n---")[0])["deploymentSpec"]["executors"]
    for executor in executors.values():
        env = {each["name"]: each.get("value") for each in executor["container"]["env"]}
        assert env["AWS_ENDPOINT_URL_S3"] == "http://minio:9000"
        assert env["PERENNIAL_STAGING_GB"] == "20.5"


def test_a_kubeflow_that_knows_no_deadline_is_told_none() -> None:
    settings = {**NEEDED, "kubeflow.run_timeout": 0}
    text = compile_pipeline(load(None, settings)).text
    assert "pipelineConfig" not in text


def test_compiling_needs_no_data(tmp_path: Path) -> None:
    settings = {**NEEDED, "data.source": str(tmp_path / "absent")}
    assert len(compile_pipeline(load(None, settings)).pods) == 3


@pytest.mark.parametrize(("grouping", "first"), [("stages", "data"), ("nodes", "plan")])
def test_a_first_task_that_decides_is_all_that_runs_where_there_is_nothing_to_do(
    grouping: str, first: str
) -> None:
    settings = {**NEEDED, "data.source": "/images/{SPAN}", "kubeflow.grouping": grouping}
    compiled = compile_pipeline(load(None, settings, scheduled=True), decides=True)
    spec, platform = yaml.safe_load_all(compiled.text)
    tasks = spec["root"]["dag"]["tasks"]
    assert len(tasks) == 2
    [rest] = [task for name, task in tasks.items() if name != first]
    condition = rest["triggerPolicy"]["condition"]
    assert condition == f"inputs.parameter_values['pipelinechannel--{first}-decision'] == 'retrain'"
    inner = spec["components"][rest["componentRef"]["name"]]["dag"]["tasks"]
    assert [*inner] == sorted(pod.task for pod in compiled.pods[1:])
    assert "WarmStart" in [node for pod in compiled.pods for node in pod.ids]
    executors = spec["deploymentSpec"]["executors"]
    assert platform["platforms"]["kubernetes"]["deploymentSpec"]["executors"].keys() <= (
        executors.keys()
    )
    run = backend.Run()
    found = {name: options(each) for name, each in backend.commands(spec, {}, run)}
    assert found.keys() == {first, *inner}
    assert found[first]["--decision"] == "/tmp/kfp/outputs/decision"
    assert {each["--run-id"] for each in found.values()} == {run.id}
