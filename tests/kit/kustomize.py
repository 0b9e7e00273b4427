"""The part of `kubectl kustomize` that kubeflow/ uses; refuses what it does not know."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import yaml

Resource = dict[str, Any]
_KNOWN = {
    *("apiVersion", "kind", "namespace", "resources", "configMapGenerator", "generatorOptions"),
    *("images", "patches", "components"),
}
_CLUSTER_WIDE = {"Namespace", "PersistentVolume"}


def render(folder: Path, *components: Path) -> list[Resource]:
    """All resources of a kustomization, with further components after its own."""
    resources: list[Resource] = []
    _accumulate(folder, resources, components)
    return resources


def _accumulate(folder: Path, resources: list[Resource], components: Sequence[Path] = ()) -> None:
    """Add what is in a folder; a component is applied to what there is."""
    kustomization = yaml.safe_load((folder / "kustomization.yaml").read_text())
    unknown = kustomization.keys() - _KNOWN
    if unknown:
        raise ValueError(f"{folder}: {unknown}")
    for name in kustomization.get("resources", ()):
        path = folder / name
        resources += render(path) if path.is_dir() else list(yaml.safe_load_all(path.read_text()))
    for each in (*(folder / name for name in kustomization.get("components", ())), *components):
        _accumulate(each, resources)
    for generator in kustomization.get("configMapGenerator", ()):
        _generate(folder, generator, resources)
    for patch in kustomization.get("patches", ()):
        _patch(patch, resources)
    for image in kustomization.get("images", ()):
        for container in _containers(resources):
            if container["image"] == image["name"]:
                container["image"] = f"{image['name']}@{image['digest']}"
    if "namespace" in kustomization:
        for resource in resources:
            if resource["kind"] not in _CLUSTER_WIDE:
                resource["metadata"]["namespace"] = kustomization["namespace"]
        accounts = {r["metadata"]["name"] for r in resources if r["kind"] == "ServiceAccount"}
        for resource in resources:
            for subject in resource.get("subjects", ()):
                if subject["name"] in accounts:
                    subject["namespace"] = kustomization["namespace"]


def _generate(folder: Path, generator: Resource, resources: list[Resource]) -> None:
    data = {name: (folder / name).read_text() for name in generator["files"]}
    if generator.get("behavior") == "merge":
        _find(resources, "ConfigMap", generator["name"])["data"].update(data)
        return
    metadata: Resource = {"name": generator["name"]}
    if labels := generator.get("options", {}).get("labels"):
        metadata["labels"] = labels
    resources.append({"apiVersion": "v1", "kind": "ConfigMap", "metadata": metadata, "data": data})


def _patch(patch: Resource, resources: list[Resource]) -> None:
    resource = _find(resources, patch["target"]["kind"], patch["target"]["name"])
    operations = yaml.safe_load(patch["patch"])
    if isinstance(operations, dict):
        if operations.pop("$patch", None) != "delete":
            raise ValueError("of strategic merge patches only $patch: delete is known")
        resources.remove(resource)
        return
    for operation in operations:
        _operate(resource, **operation)


def _operate(resource: Any, op: str, path: str, value: Any = None) -> None:
    *parents, last = [part.replace("~1", "/") for part in path.split("/")[1:]]
    for part in parents:
        resource = resource[int(part) if isinstance(resource, list) else part]
    key = int(last) if isinstance(resource, list) and last != "-" else last
    if op == "remove":
        del resource[key]
    elif op == "test":
        if resource[key] != value:
            raise ValueError(f"{path} is {resource[key]}, not {value}")
    elif op == "add" and last == "-":
        resource.append(copy.deepcopy(value))
    elif op == "add" and isinstance(resource, list):
        raise ValueError("of lists only the end can be added to")
    elif op == "add" or (op == "replace" and _has(resource, key)):
        resource[key] = copy.deepcopy(value)
    else:
        raise ValueError(f"{op} {path}")


def _has(resource: Any, key: Any) -> bool:
    return key < len(resource) if isinstance(resource, list) else key in resource


def _find(resources: list[Resource], kind: str, name: str) -> Resource:
    (found,) = (r for r in resources if r["kind"] == kind and r["metadata"]["name"] == name)
    return found


def _containers(resources: list[Resource]) -> Iterator[Resource]:
    for resource in resources:
        if resource["kind"] == "Deployment":
            yield from resource["spec"]["template"]["spec"]["containers"]
