"""A namespace for each file of tests, and nothing without a cluster."""

from __future__ import annotations

import os
import uuid
from collections.abc import Iterator

import pytest

from tests.cluster import kit


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Give all that is here time, and skip it where no cluster is named."""
    for item in items:
        if item.get_closest_marker("cluster"):
            item.add_marker(pytest.mark.timeout(3600))
            if not os.environ.get("KUBECONFIG"):
                item.add_marker(pytest.mark.skip(reason="KUBECONFIG names no cluster"))


@pytest.fixture(scope="module")
def namespace() -> Iterator[str]:
    """One with restricted pod security, which goes with the tests of a file."""
    name = f"perennial-test-{uuid.uuid4().hex[:6]}"
    labels = {f"pod-security.kubernetes.io/{mode}": "restricted" for mode in kit.MODES}
    kit.apply([kit.resource("v1", "Namespace", name, None, metadata={"labels": labels})])
    try:
        yield name
    finally:
        kit.kubectl("delete", "namespace", name, "--wait=true", "--timeout=180s")
        kit.free_volumes(name)
