"""Strict schemas for the manifests in kubeflow/serving."""

from __future__ import annotations

from typing import Annotated, Any, Literal

import pytest
from pydantic import BaseModel, ConfigDict, Field

from tests import REPO
from tests.kit.kustomize import Resource

SERVING = REPO / "kubeflow" / "serving"
KUBERNETES = "1.31"  # the oldest one that is supported


class Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)


class Metadata(Strict):
    name: str
    namespace: Literal["perennial-serving", "perennial"]


Duration = Annotated[str, Field(pattern=r"^\d+(ms|s|m|h)$")]


class Endpoint(Strict):
    port: str
    path: str
    interval: Duration


class MonitorSpec(Strict):
    selector: dict[Literal["matchLabels"], dict[str, str]]
    endpoints: Annotated[list[Endpoint], Field(min_length=1)]


class ServiceMonitor(Strict):
    apiVersion: Literal["monitoring.coreos.com/v1"]  # noqa: N815
    kind: Literal["ServiceMonitor"]
    metadata: Metadata
    spec: MonitorSpec


class Static(Strict):
    static: Annotated[list[str], Field(min_length=1)]


class ProbeSpec(Strict):
    jobName: str  # noqa: N815
    interval: Duration
    module: str
    prober: dict[Literal["url"], str]
    targets: dict[Literal["staticConfig"], Static]


class Probe(Strict):
    apiVersion: Literal["monitoring.coreos.com/v1"]  # noqa: N815
    kind: Literal["Probe"]
    metadata: Metadata
    spec: ProbeSpec


class Annotations(Strict):
    summary: str
    description: str


class Rule(Strict):
    alert: Annotated[str, Field(pattern=r"^[A-Z]\w+$")]
    expr: str
    for_: Annotated[Duration | None, Field(alias="for")] = None
    labels: dict[Literal["severity"], Literal["critical", "warning"]]
    annotations: Annotations


class Group(Strict):
    name: str
    rules: Annotated[list[Rule], Field(min_length=1)]


class PrometheusRule(Strict):
    apiVersion: Literal["monitoring.coreos.com/v1"]  # noqa: N815
    kind: Literal["PrometheusRule"]
    metadata: Metadata
    spec: dict[Literal["groups"], list[Group]]


class KServeModel(Strict):
    modelFormat: dict[Literal["name"], Literal["tensorflow"]]  # noqa: N815
    runtimeVersion: Annotated[str, Field(pattern=r"^\d+\.\d+\.\d+(-gpu)?$")]  # noqa: N815
    protocolVersion: Literal["v1"]  # noqa: N815
    storageUri: Annotated[str, Field(pattern=r"^(pvc|gs|s3)://\S+/\d+$")]  # noqa: N815
    resources: dict[str, Any]
    securityContext: dict[str, Any]  # noqa: N815


class Predictor(Strict):
    minReplicas: Annotated[int, Field(ge=1)]  # noqa: N815
    maxReplicas: int  # noqa: N815
    automountServiceAccountToken: Literal[False]  # noqa: N815
    securityContext: dict[str, Any]  # noqa: N815
    model: KServeModel


class InferenceService(Strict):
    apiVersion: Literal["serving.kserve.io/v1beta1"]  # noqa: N815
    kind: Literal["InferenceService"]
    metadata: Metadata
    spec: dict[Literal["predictor"], Predictor]


CUSTOM: dict[str, type[BaseModel]] = {
    "ServiceMonitor": ServiceMonitor,
    "PrometheusRule": PrometheusRule,
    "Probe": Probe,
    "InferenceService": InferenceService,
}


def validate(resource: Resource) -> None:
    custom = CUSTOM.get(resource["kind"])
    if custom is not None:
        custom.model_validate(resource)
        return
    kubernetes_validate = pytest.importorskip("kubernetes_validate")
    kubernetes_validate.validate(resource, KUBERNETES, strict=True)
