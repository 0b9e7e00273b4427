"""The components of kubeflow/serving that record what is asked, and look at it."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from pathlib import Path

import pytest
import yaml
from prometheus_client.parser import text_string_to_metric_families

from components.image_evaluator.figures import Estimate
from pipeline.monitoring import gauges
from pipeline.monitoring.figures import Check, Group, Pair, Report
from pipeline.monitoring.logs import Limits
from pipeline.monitoring.recorder import Recorder, RecordOptions
from tests import REPO
from tests.kit.cli import perennial
from tests.kit.kustomize import Resource, render
from tests.kit.manifests import SERVING, validate
from tests.kit.serving import wait_until
from tests.kit.traffic import NGINX


@pytest.fixture
def rendered() -> dict[tuple[str, str], Resource]:
    components = [SERVING / "components" / f"traffic{suffix}" for suffix in ("", "-prometheus")]
    found = render(SERVING / "overlays" / "one-namespace", *components)
    for resource in found:
        validate(resource)
    return {(each["kind"], each["metadata"]["name"]): each for each in found}


@pytest.fixture
def containers(rendered: dict[tuple[str, str], Resource]) -> dict[str, Resource]:
    pod = rendered["Deployment", "model-server"]["spec"]["template"]["spec"]
    return {each["name"]: each for each in pod["containers"]}


def test_the_proxys_configuration_is_the_commands(
    rendered: dict[tuple[str, str], Resource],
) -> None:
    asked = ("--rest-listen", "8601", "--grpc-listen", "8600", "--folder", "/tmp")
    printed = perennial("traffic", "proxy", "--print", *asked)
    assert rendered["ConfigMap", "traffic"]["data"]["nginx.conf"] == printed.output


@pytest.mark.skipif(not NGINX, reason="no nginx on this machine: make services")
def test_nginx_takes_it(tmp_path: Path) -> None:
    text = (SERVING / "components" / "traffic" / "nginx.conf").read_text()
    (tmp_path / "nginx.conf").write_text(text.replace("/tmp", str(tmp_path)))
    command = [str(NGINX), "-t", "-p", str(tmp_path), "-c", str(tmp_path / "nginx.conf")]
    done = subprocess.run([*command, "-e", "stderr"], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_callers_reach_the_proxy_and_no_port_is_closed(
    rendered: dict[tuple[str, str], Resource], containers: dict[str, Resource]
) -> None:
    ports = {
        port["name"]: port["containerPort"]
        for container in containers.values()
        for port in container["ports"]
    }
    service = {
        port["name"]: port["targetPort"]
        for port in rendered["Service", "model-server"]["spec"]["ports"]
    }
    assert service == {"grpc": "proxy-grpc", "http": "proxy-http", "recorder": "recorder"}
    assert set(service.values()) <= ports.keys()
    policy = rendered["NetworkPolicy", "traffic"]["spec"]
    allowed = {port["port"] for rule in policy["ingress"] for port in rule["ports"]}
    assert allowed == set(service.values())
    conf = rendered["ConfigMap", "traffic"]["data"]["nginx.conf"]
    assert f"listen {ports['proxy-grpc']} default_server http2;" in conf
    assert f"listen {ports['proxy-http']} default_server;" in conf
    assert f"server 127.0.0.1:{ports['recorder']} max_fails" in conf
    assert f"server 127.0.0.1:{ports['grpc']};" in conf
    (endpoint,) = rendered["ServiceMonitor", "traffic"]["spec"]["endpoints"]
    assert endpoint["port"] in service


@pytest.mark.skipif(not shutil.which("promtool"), reason="no promtool here: make services")
def test_alerts_fire_on_what_the_recorder_exposes(
    rendered: dict[tuple[str, str], Resource], tmp_path: Path
) -> None:
    rules = rendered["PrometheusRule", "traffic"]["spec"]
    (tmp_path / "rules.yaml").write_text(yaml.dump(rules))
    shutil.copy(REPO / "tests" / "kubeflow" / "traffic-alerts.yaml", tmp_path)
    command = ["promtool", "test", "rules", "traffic-alerts.yaml"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


def test_every_pod_keeps_the_restricted_standard(
    rendered: dict[tuple[str, str], Resource], containers: dict[str, Resource]
) -> None:
    job = rendered["CronJob", "traffic-monitor"]["spec"]["jobTemplate"]["spec"]
    pod = job["template"]["spec"]
    assert pod["securityContext"]["runAsNonRoot"] is True
    for container in (*containers.values(), *pod["containers"]):
        assert container["securityContext"] == {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
        }


def test_commands_are_commands(
    rendered: dict[tuple[str, str], Resource], containers: dict[str, Resource]
) -> None:
    job = rendered["CronJob", "traffic-monitor"]["spec"]["jobTemplate"]["spec"]
    (monitor,) = job["template"]["spec"]["containers"]
    for container in (containers["recorder"], monitor):
        (script,) = container["args"]
        done = subprocess.run(["sh", "-n", "-c", script], capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        folded = script.replace("\\\n", " ")
        line = next(each for each in folded.splitlines() if "perennial" in each)
        words = line.replace("&", "").split()
        options = {word for word in words if word.startswith("--")}
        name = words[1:3] if words[1] == "traffic" else words[1:2]
        told = perennial(*name, "--help").output
        assert all(option in told for option in options), line


def test_a_recorder_that_ends_takes_no_pod_with_it(
    containers: dict[str, Resource], tmp_path: Path
) -> None:
    """Its container begins it again: one that ends would make the pod unready."""
    (script,) = containers["recorder"]["args"]
    stand_in = tmp_path / "perennial"
    stand_in.write_text(f"#!/bin/sh\necho began >> {tmp_path}/log\nexit 1\n")
    stand_in.chmod(0o755)
    quick = script.replace("sleep 5", "sleep 0.1")
    process = subprocess.Popen(["sh", "-c", quick], env={"PATH": f"{tmp_path}:/bin:/usr/bin"})
    log = tmp_path / "log"
    wait_until(lambda: log.exists() and log.read_text().count("began") > 2)
    process.terminate()
    assert process.wait(10) == 0


def test_what_is_drawn_and_alerted_on_is_exposed(
    rendered: dict[tuple[str, str], Resource], tmp_path: Path
) -> None:
    recorder = Recorder(tmp_path, "127.0.0.1:1", RecordOptions(), Limits())
    (tmp_path / gauges.FILE).write_text(gauges.render("m", full_report()))
    families = list(text_string_to_metric_families(recorder.metrics()))
    exposed = {f"{each.name}{'_total' * (each.type == 'counter')}" for each in families}
    (group,) = rendered["PrometheusRule", "traffic"]["spec"]["groups"]
    dashboard = json.loads(rendered["ConfigMap", "traffic-dashboard"]["data"]["dashboard.json"])
    asked = [rule["expr"] for rule in group["rules"]]
    asked += [target["expr"] for panel in dashboard["panels"] for target in panel["targets"]]
    names = set(re.findall(r"perennial_[a-z_]+", " ".join(asked)))
    assert len(names) > 8
    assert names <= exposed
    spots = [tuple(panel["gridPos"].values()) for panel in dashboard["panels"]]
    assert len(set(spots)) == len(spots)


def full_report() -> Report:
    """Return a report with every kind of figure."""
    at, estimate = "2026-05-01T00:00:00+00:00", Estimate(value=0.5, low=0.4, high=0.6)
    check = Check(
        name="bytes", about="images", images=9, effect=0.1, limit=0.2, p=1, level=0.01,
        found=False, text="",
    )  # fmt: skip
    group = Group(
        model="m", version=1, label="", images=9, refused=0, shares={"a": (estimate, estimate)},
        confidence=estimate, entropy=estimate, accuracy=estimate, expected=estimate,
    )  # fmt: skip
    pair = Pair(first="1", second="2", images=9, disagree=estimate)
    return Report(
        since=at, until=at, verdict="steady", images=9, repeats=0, compared=9, needed=1,
        false_alarms=0.01, detectable=0.1, reference=9, checks=[check], groups=[group],
        pairs=[pair],
    )  # fmt: skip
