"""Argo's workflow of a run: its pods, why they wait and how they ended.

Kubeflow returns it as the text `workflow_manifest` in its API v1beta1. The tasks of v2beta1 have
neither reasons nor names of pods.
"""

from __future__ import annotations

import base64
import dataclasses
import datetime
import gzip
import json
import re
from collections.abc import Mapping
from typing import Any

from kubeflow import entrypoint

START_TIMEOUT = "PERENNIAL_START_TIMEOUT"
# Phases of Argo's pods.
PENDING, RUNNING, SUCCEEDED = "Pending", "Running", "Succeeded"
_ATTEMPT = re.compile(r"(.*?)(?:\((\d+)\))?")


@dataclasses.dataclass(frozen=True)
class Pod:
    """A pod of a run, possibly one that does not exist yet.

    name: as in Kubernetes. task: of the compiled pipeline, such as image-example-gen. driver:
    whether it is Kubeflow's driver pod of the task. attempt: from 0. phase: Argo's Pending,
    Running, Succeeded, Failed or Error. message: why it waits or failed; may be empty. started and
    ended: epoch seconds; started includes the time pending, and ended is 0 until the end.
    """

    name: str
    task: str
    driver: bool
    attempt: int
    phase: str
    message: str
    started: float
    ended: float

    @property
    def over(self) -> bool:
        """Return whether the pod has ended, with any result."""
        return self.phase not in (PENDING, RUNNING)


@dataclasses.dataclass(frozen=True)
class Workflow:
    """A run in Argo.

    ours: whether this project compiled it. env: variables of its containers. deadline: seconds for
    the whole run; 0 after it was terminated, None without one.
    """

    name: str
    namespace: str
    message: str
    ours: bool
    env: Mapping[str, str]
    deadline: int | None
    pods: tuple[Pod, ...]

    def overdue(self, now: float) -> str | None:
        """Describe a pod that has been pending longer than allowed; None if there is none.

        Args:
          now: epoch seconds.
        """
        limit = float(self.env.get(START_TIMEOUT, "inf"))
        for pod in self.pods:
            if pod.phase == PENDING and now - pod.started > limit:
                minutes = (now - pod.started) / 60
                return f"{pod.task} has waited {minutes:.0f} min to start: {waits_for(pod)}"
        return None


def waits_for(pod: Pod) -> str:
    """Return the reason that a pod is pending, as far as Argo has one."""
    return pod.message or f"no reason is known; kubectl describe pod {pod.name} may tell"


def parse(manifest: str) -> Workflow:
    """Parse a `workflow_manifest`. Raises ValueError for anything else."""
    try:
        content = json.loads(manifest)
        name, status = content["metadata"]["name"], content.get("status") or {}
        arguments = (content["spec"].get("arguments") or {}).get("parameters") or []
    except (KeyError, TypeError, AttributeError):
        raise ValueError("no Workflow of Argo") from None
    containers = [
        json.loads(each["value"])
        for each in arguments
        if each["name"].startswith("implementations-")
    ]
    plain = content["metadata"].get("annotations", {}).get("workflows.argoproj.io/pod-name-format")
    pods = [
        _pod(name, node, plain == "v1")
        for node in _nodes(status).values()
        if node.get("type") == "Pod"
    ]
    return Workflow(
        name=name,
        namespace=content["metadata"].get("namespace", ""),
        message=status.get("message") or "",
        ours=any(each.get("command") == entrypoint.COMMAND for each in containers),
        env={
            each["name"]: each.get("value", "")
            for container in containers
            for each in container.get("env", [])
        },
        deadline=content["spec"].get("activeDeadlineSeconds"),
        pods=tuple(sorted(pods, key=lambda pod: (pod.started, pod.name))),
    )


def events(log: object) -> list[dict[str, Any]]:
    """Return the events in the log of a pod: JSON objects, one per line, between other output.

    Args:
      log: the text, or the object of a log with a single line.
    """
    if isinstance(log, dict):
        lines: list[object] = [log]
    else:
        lines = [_json(line) for line in str(log).splitlines() if line.startswith("{")]
    return [line for line in lines if isinstance(line, dict) and isinstance(line.get("event"), str)]


def _json(line: str) -> object:
    try:
        return json.loads(line)
    except ValueError:
        return None


def _nodes(status: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    if packed := status.get("compressedNodes"):
        nodes: dict[str, dict[str, Any]] = json.loads(gzip.decompress(base64.b64decode(packed)))
        return nodes
    return status.get("nodes") or {}


def _pod(workflow: str, node: Mapping[str, Any], plain: bool) -> Pod:
    # WORKFLOW.root.TASK.executor(ATTEMPT) or ...TASK-driver(ATTEMPT). With retries, any part can
    # have an (ATTEMPT).
    parts: list[str] = ["", *node["name"].split(".")]
    (before, _), (last, attempt) = map(_without_attempt, parts[-2:])
    driver = last != "executor"
    identity = node["id"]
    template = node.get("templateName") or ""
    unique = identity.rpartition("-")[2]
    return Pod(
        name=identity if plain or not template else f"{workflow}-{template}-{unique}",
        task=last.removesuffix("-driver") if driver else before,
        driver=driver,
        attempt=attempt,
        phase=node.get("phase") or PENDING,
        message=" ".join((node.get("message") or "").split()),
        started=_seconds(node.get("startedAt")),
        ended=_seconds(node.get("finishedAt")),
    )


def _without_attempt(part: str) -> tuple[str, int]:
    matched = _ATTEMPT.fullmatch(part)
    return (matched[1], int(matched[2] or 0)) if matched else (part, 0)


def _seconds(moment: str | None) -> float:
    return datetime.datetime.fromisoformat(moment).timestamp() if moment else 0.0
