"""Fixtures shared by the tests of serving."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from components.model_server.client import Client
    from components.model_server.server import ModelServer
    from components.model_server.tensors import Arrays
    from tests.kit.serving import Running, Serve


@pytest.fixture(scope="module", params=["own", "real"])
def kind(request: pytest.FixtureRequest) -> str:
    """Name each kind of model server; skip TensorFlow Serving where it is not installed."""
    from components.model_server import launch
    from tests.kit.servers import REAL

    if request.param == REAL and not os.environ.get(launch.BINARY_VARIABLE):
        pytest.skip(f"no real server: {launch.BINARY_VARIABLE} is not set")
    return str(request.param)


@pytest.fixture
def serve(tmp_path: Path, colour_models: list[Path]) -> Iterator[Serve]:
    """Start a server of version 1 with the limits that are named."""
    from components.model_server.server import ModelServer
    from components.model_server.service import Limits
    from tests.kit.serving import MODEL, SECONDS, push

    base = tmp_path / "base"
    base.mkdir()
    push(colour_models[0], base, 1)
    with contextlib.ExitStack() as stack:

        def start(base: Path = base, **limits: Any) -> ModelServer:
            server = ModelServer(base, MODEL, limits=Limits(**limits), poll_seconds=0.05)
            stack.enter_context(server)
            server.wait_ready(SECONDS)
            return server

        yield start


@pytest.fixture(scope="module")
def echo_server(kind: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    """Serve the echo model as version ECHO_VERSION, which is stable."""
    from tests.kit.servers import running
    from tests.kit.serving import ECHO_VERSION, MODEL, SECONDS
    from tests.kit.tiny_export import export_echo_model

    base = tmp_path_factory.mktemp("echo")
    export_echo_model(base / str(ECHO_VERSION))
    config = base / "models.config"
    config.write_text(f"""model_config_list {{ config {{
        name: "{MODEL}" base_path: "{base}" model_platform: "tensorflow"
        model_version_policy {{ specific {{ versions: {ECHO_VERSION} }} }}
        version_labels {{ key: "stable" value: {ECHO_VERSION} }}
    }} }}""")
    with running(kind, base, config) as started:
        started.wait_ready(SECONDS)
        yield started


@pytest.fixture(scope="module")
def echo_client(echo_server: Running) -> Iterator[Client]:
    """Connect to the echo server by gRPC."""
    from tests.kit.serving import connected

    with connected(echo_server) as client:
        yield client


@pytest.fixture(scope="module")
def expected(colour_models: list[Path]) -> Iterator[Callable[..., Arrays]]:
    """Compute the outputs of a version for a list of strings, in this process."""
    from components.model_server.client import strings
    from components.model_server.model import Session

    sessions = [Session(path) for path in colour_models]

    def run(version: int, inputs: list[bytes], signature: str = "serving_default") -> Arrays:
        session = sessions[version - 1]
        definition = session.signatures[signature]
        (source,) = definition.inputs.values()
        names = list(definition.outputs)
        fetches = [definition.outputs[name].name for name in names]
        results = session.run({source.name: strings(inputs)}, fetches)
        return dict(zip(names, results, strict=True))

    yield run
    for session in sessions:
        session.close()
