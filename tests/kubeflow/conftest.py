"""Stand-ins for the APIs of Kubeflow and Kubernetes, and what is sent to them."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.kit import kubeflow_stub
from tests.kit.kubeflow_stub import Stub

if TYPE_CHECKING:
    from components.model_registry import Registry
    from tests.kit import kubernetes_stub


@pytest.fixture
def stub() -> Iterator[Stub]:
    """Serve the API on loopback."""
    with kubeflow_stub.serving() as server:
        yield server


@pytest.fixture(scope="session")
def package(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Compile a pipeline."""
    from tests.kit import sample_package

    path = tmp_path_factory.mktemp("package") / "digits.yaml"
    sample_package.write(path)
    return path


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory, colour_models: list[Path]) -> Path:
    """Push three versions."""
    from components.model_registry import versions
    from tests.kit.serving import MODEL

    base = tmp_path_factory.mktemp("cluster") / MODEL
    for model in colour_models:
        versions.push(model, base, {}, 10, lambda: ())
    return base


@pytest.fixture
def cluster(
    base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[kubernetes_stub.Stub]:
    """Serve Kubernetes' API with a ConfigMap in which version 1 of `base` is stable."""
    from components import kubernetes_api
    from components.model_registry import configuration, followers
    from tests.kit import kubernetes_stub

    text = kubernetes_stub.config_text(base, 1)
    text = text.replace('config { name: "other" base_path: "/models/other" }', "")
    with kubernetes_stub.running(text) as stub:
        monkeypatch.setenv("KUBECONFIG", str(stub.kubeconfig(tmp_path)))
        monkeypatch.setattr(configuration, "_PUT_BACK_PAUSE_S", 0.01)
        monkeypatch.setattr(followers, "_LIST_SECONDS", 0.02)
        monkeypatch.setattr(kubernetes_api, "TIMEOUT", (2, 2))
        yield stub


@pytest.fixture
def target(base: Path, cluster: kubernetes_stub.Stub) -> Registry:
    """Open the registry of `base`, whose labels are in the ConfigMap."""
    from components.model_registry import Registry
    from tests.kit.kubernetes_stub import LOCATION
    from tests.kit.serving import MODEL

    return Registry(str(base), LOCATION, MODEL)
