"""What `submit` refuses, because its pods would wait for ever, in a real cluster.

Of Kubeflow there is only the name of its Service.
"""

from __future__ import annotations

import re
import uuid
from pathlib import Path

import pytest

from kubeflow import cluster, package
from pipeline.errors import ConfigError
from tests.cluster import kit

pytestmark = pytest.mark.cluster

ACCOUNT = "perennial-pipeline"
SECRET = "perennial-metadata"


@pytest.fixture(scope="module")
def found(namespace: str) -> str:
    """Create a namespace with all resources that pods of the compiled pipeline need."""
    ports = {"ports": [{"port": 8888}]}
    rendered = kit.moved(kit.kustomized(kit.MANIFESTS / "overlays" / "profile"), namespace)
    kinds = ("PersistentVolumeClaim", "ServiceAccount")
    secret = {"user": "perennial", "password": uuid.uuid4().hex}
    kit.apply(
        [
            *(each for each in rendered if each["kind"] in kinds),
            kit.resource("v1", "Service", "ml-pipeline", namespace, spec=ports),
            kit.resource("v1", "Secret", SECRET, namespace, stringData=secret),
        ]
    )
    return namespace


def refused(folder: Path, namespace: str, training: str = "", account: str = ACCOUNT) -> str:
    """Why; nothing where it is not."""
    file = kit.compiled(folder, "checked", training=training)
    try:
        assert cluster.check(package.read(file), namespace, account) == []
    except ConfigError as error:
        return str(error)
    return ""


def test_what_has_everything_is_not_refused(found: str, tmp_path: Path) -> None:
    assert refused(tmp_path, found) == ""


@pytest.mark.parametrize(
    ("training", "named"),
    [
        (
            'node_selector = { "perennial/test" = "nowhere" }',
            "label perennial/test=nowhere",
        ),
        ('accelerator = "nvidia.com/gpu"\naccelerator_limit = 16', "of nvidia.com/gpu where 16"),
        ('volumes = [{ claim = "none", path = "/mnt/none" }]', "no claim 'none'"),
        ('secrets = [{ name = "none", key = "k", env = "V" }]', "no secret 'none'"),
    ],
)
def test_what_no_pod_could_have_is_refused(
    found: str, tmp_path: Path, training: str, named: str
) -> None:
    message = refused(tmp_path, found, training)
    assert re.search(re.escape(named), message), message
    assert "trainer" in message


def test_an_account_that_is_missing(found: str, tmp_path: Path) -> None:
    assert "'nobody'" in refused(tmp_path, found, account="nobody")


def test_what_may_not_be_read_is_only_remarked_on(
    found: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By an account without any rights."""
    token = kit.kubectl("create", "token", ACCOUNT, "-n", found).strip()
    config = kit.kubectl("config", "view", "--raw", "--minify", "--flatten")
    file = tmp_path / "kubeconfig"
    file.write_text(config)
    options = ("--kubeconfig", str(file))
    kit.kubectl("config", "set-credentials", "poor", f"--token={token}", *options)
    kit.kubectl("config", "set-context", "--current", "--user=poor", *options)
    package_file = kit.compiled(tmp_path, "checked")
    monkeypatch.setenv("KUBECONFIG", str(file))
    # As a default it was taken from the environment when the library was imported.
    monkeypatch.setattr("kubernetes.config.kube_config.KUBE_CONFIG_DEFAULT_LOCATION", str(file))
    remarks = cluster.check(package.read(package_file), found, ACCOUNT)
    assert len(remarks) >= 3
    assert all("read: " in each for each in remarks)
