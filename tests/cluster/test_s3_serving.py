"""The overlay s3: a container beside each server copies whole versions from an object store.

The store is moto's server on the machine that runs the tests, which the pods must reach at
CLUSTER_HOST. tests/kit/s3.py names where it is more generous than S3.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from components.model_registry import Registry
from tests.cluster import kit, servers
from tests.kit import s3
from tests.kit.s3 import S3

pytestmark = pytest.mark.cluster

HOST = os.environ.get("CLUSTER_HOST", "10.88.0.1")


@pytest.fixture(scope="module")
def store() -> Iterator[S3]:
    with s3.moto(HOST) as found:
        yield found


@pytest.fixture(scope="module")
def registry(store: S3) -> Iterator[Registry]:
    with pytest.MonkeyPatch.context() as patch:
        for name, value in store.env.items():
            patch.setenv(name, value)
        s3.make_bucket()
        yield Registry(store.uri("models", "perennial"))


def test_versions_come_from_the_store(
    namespace: str, store: S3, registry: Registry, colour_models: list[Path]
) -> None:
    registry.push(colour_models[0], {"run": "first"}, 10)
    found = servers.resources(namespace, "s3")
    (mirror,) = servers.pod_of(found)["initContainers"]
    assert mirror["args"][0].startswith("s3://BUCKET/")
    mirror["args"] = [store.uri("models", "perennial"), mirror["args"][1], "--every=2"]
    mirror["image"], mirror["imagePullPolicy"] = kit.IMAGE, "IfNotPresent"
    mirror["env"] = [{**each, "value": store.env[each["name"]]} for each in mirror["env"]]
    keys = {name: store.env[name] for name in s3.KEYS}
    secret = kit.resource("v1", "Secret", "model-store", namespace, stringData=keys)
    kit.apply([secret, servers.files(namespace)])
    servers.start(namespace, found)
    servers.start_client(namespace)
    first = set(servers.answers(namespace))
    assert not [each for each in first if each.startswith("failed")]

    # A push is served where the label follows the newest version; here the mirror alone counts.
    version = registry.push(colour_models[1], {"run": "second"}, 10)
    pod = kit.kubectl(
        *("get", "pods", "-n", namespace, "-l", "app.kubernetes.io/name=model-server"),
        *("-o", "jsonpath={.items[0].metadata.name}"),
    )
    place = f"/models/perennial/{version}/saved_model.pb"
    kit.wait_until(
        lambda: (
            kit.run_kubectl(
                "exec", pod, "-n", namespace, "-c", "mirror", "--", "test", "-f", place
            ).returncode
            == 0
        ),
        "the pushed version beside the server",
    )
