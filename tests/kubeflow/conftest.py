"""A stand-in for Kubeflow's API, and a compiled pipeline to send to it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.kit import kubeflow_stub
from tests.kit.kubeflow_stub import Stub


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
