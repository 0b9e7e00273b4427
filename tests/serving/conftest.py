"""Fixtures shared by the tests of serving."""

from __future__ import annotations

import os

import pytest


@pytest.fixture(scope="module", params=["own", "real"])
def kind(request: pytest.FixtureRequest) -> str:
    """Name each kind of model server; skip TensorFlow Serving where it is not installed."""
    from components.model_server import launch
    from tests.kit.servers import REAL

    if request.param == REAL and not os.environ.get(launch.BINARY_VARIABLE):
        pytest.skip(f"no real server: {launch.BINARY_VARIABLE} is not set")
    return str(request.param)
