"""From a run to answers and back: serve, retrain while requests flow, roll back."""

from __future__ import annotations

import contextlib
import dataclasses
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import portpicker
import pytest
import requests

from components.model_registry import versions
from components.model_server.client import Client, strings
from components.model_server.errors import ServingError
from tests import REPO
from tests.kit.cli import command, process
from tests.kit.serving import b64

SECONDS = 120.0
CONFIG = """
[transform]
image_size = 8
resize = "area"

[train]
epochs = 12
batch_size = 16

[train.hyperparameters]
patch_size = 4
depth = 1
key_dim = 8
head_dims = [16]
head_dropout = 0.0
flip = false
zoom = 0.0

[evaluate]
min_accuracy = 0.9
max_accuracy_drop = 1.0
"""


def perennial(*arguments: object) -> str:
    done = process(*arguments)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@dataclasses.dataclass
class Load:
    """Requests by gRPC and REST, one after the other, until it is stopped."""

    grpc_port: int
    rest_port: int
    image: bytes
    label: str
    versions: list[int] = dataclasses.field(default_factory=list)
    errors: list[str] = dataclasses.field(default_factory=list)
    stopping: threading.Event = dataclasses.field(default_factory=threading.Event)

    def run(self) -> None:
        with Client("127.0.0.1", self.grpc_port, self.rest_port) as client:
            while not self.stopping.wait(0.02):
                try:
                    inputs = {"image_bytes": strings([self.image])}
                    version, outputs = client.predict("perennial", inputs)
                    (row,) = client.predict_images("perennial", [self.image])
                except ServingError as error:
                    self.errors.append(f"{error.code}: {error}")
                    continue
                self.versions.append(version)
                answers = {outputs["label"][0].decode(), row["label"]}
                if answers != {self.label}:
                    self.errors.append(f"version {version} says {answers}")

    def wait_for(self, version: int) -> None:
        deadline = time.monotonic() + SECONDS
        while self.versions[-1:] != [version]:
            assert time.monotonic() < deadline, (self.versions[-3:], self.errors[:3])
            time.sleep(0.05)

    @contextlib.contextmanager
    def flowing(self) -> Iterator[None]:
        thread = threading.Thread(target=self.run)
        thread.start()
        try:
            yield
        finally:
            self.stopping.set()
            thread.join()


@contextlib.contextmanager
def served(workspace: Path, grpc_port: int, rest_port: int) -> Iterator[None]:
    ports = ("--port", str(grpc_port), "--rest-port", str(rest_port))
    process = subprocess.Popen(
        command("serve", "--dev-server", "--workspace", str(workspace), *ports), cwd=REPO
    )
    try:
        with Client("127.0.0.1", grpc_port, rest_port) as client:
            client.wait_available("perennial", 1, SECONDS)
        yield
    finally:
        process.terminate()
        process.wait()


@pytest.fixture
def data(tmp_path: Path, image_bytes: Callable[..., bytes]) -> Path:
    """Dark cats and bright dogs."""
    root = tmp_path / "data"
    for label, brightness in (("cat", 0), ("dog", 190)):
        (root / label).mkdir(parents=True)
        for index in range(60):
            color = (brightness + index, brightness + index // 2, brightness + 5)
            (root / label / f"{index}.png").write_bytes(image_bytes(color=color))
    return root


def test_a_retrained_model_takes_over_without_an_error_and_is_rolled_back(
    data: Path, tmp_path: Path, image_bytes: Callable[..., bytes]
) -> None:
    workspace = tmp_path / "workspace"
    config = tmp_path / "config.toml"
    config.write_text(CONFIG)
    run = ("run", "--config", str(config), "--data", str(data), "--workspace", str(workspace))
    perennial(*run)

    grpc_port, rest_port = portpicker.pick_unused_port(), portpicker.pick_unused_port()
    with served(workspace, grpc_port, rest_port):
        url = f"http://127.0.0.1:{rest_port}/v1/models/perennial:predict"
        images = {"cat": image_bytes(color=(20, 10, 5)), "dog": image_bytes(color=(210, 200, 195))}
        for label, image in images.items():
            answer = requests.post(url, json={"instances": [b64(image)]}, timeout=60).json()
            assert [row["label"] for row in answer["predictions"]] == [label]

        load = Load(grpc_port, rest_port, images["dog"], "dog")
        with load.flowing():
            load.wait_for(1)
            perennial(*run, "--set", "train.seed=1")
            load.wait_for(2)
            assert sorted(load.versions) == load.versions  # never back
            perennial("rollback", "--workspace", str(workspace))
            load.wait_for(1)
        assert load.errors == []
        assert set(load.versions) == {1, 2}

    base = str(workspace / "serving" / "perennial")
    manifests = [versions.read_manifest(base, number) for number in (1, 2)]
    runs = sorted(path.parent.name for path in (workspace / "runs").glob("*/run.json"))
    assert [manifest and manifest.record["run"] for manifest in manifests] == runs
    for manifest in manifests:
        assert manifest
        assert manifest.record["metrics"]["accuracy"] >= 0.9
        assert manifest.record["validated"]
        assert "assets.extra/tf_serving_warmup_requests" in manifest.files
