"""What the tests of serving share: pushing a version, images, and a request with its answer."""

from __future__ import annotations

import base64
import contextlib
import shutil
import socket
import threading
import time
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, TypeAlias

import numpy as np
import pytest
import requests
from PIL import Image

from components.features import IMAGE
from components.model_server.client import Client, strings
from components.model_server.errors import ServingError
from components.model_server.tensors import Arrays
from tests.kit import image_corpus

if TYPE_CHECKING:
    from components.model_server.server import ModelServer

MODEL = "colours"
PREDICT = f"/v1/models/{MODEL}:predict"
ECHO_VERSION = 5  # of the echo model, where it is served
SECONDS = 60.0  # for anything to happen at all
PURE = {"red": (250, 20, 10), "green": (30, 200, 40), "blue": (0, 60, 220)}


class Running(Protocol):
    """A server of any kind."""

    host: str
    grpc_port: int
    rest_port: int

    def wait_ready(self, timeout: float = ...) -> None: ...


def push(export: Path, base: Path, version: int) -> Path:
    """Put a copy of an export into a base path in one step, as a push does."""
    staging = base / f".staging-{uuid.uuid4().hex}"
    shutil.copytree(export, staging)
    return staging.rename(base / str(version))


def picture(colour: str = "green", size: tuple[int, int] = (12, 9), kind: str = "PNG") -> bytes:
    """Encode an image of one colour."""
    return image_corpus.encoded(Image.new("RGB", size, PURE[colour]), kind)


def example(image: bytes) -> bytes:
    """Serialize a tf.Example with an encoded image."""
    import tensorflow as tf

    feature = tf.train.Feature(bytes_list=tf.train.BytesList(value=[image]))
    features = tf.train.Features(feature={IMAGE: feature})
    return tf.train.Example(features=features).SerializeToString()


def b64(value: bytes) -> dict[str, str]:
    """Wrap bytes as the REST API takes them."""
    return {"b64": base64.b64encode(value).decode()}


def url(server: Running, path: str) -> str:
    """Return the address of a path such as "/v1/models/colours"."""
    return f"http://{server.host}:{server.rest_port}{path}"


def post(server: Running, path: str, content: Any) -> requests.Response:
    """POST JSON, or bytes as they are."""
    sent = {"data": content} if isinstance(content, bytes) else {"json": content}
    return requests.post(url(server, path), timeout=60, **sent)


def get(server: Running, path: str) -> requests.Response:
    """GET a path."""
    return requests.get(url(server, path), timeout=60)


@contextlib.contextmanager
def connected(server: Running) -> Iterator[Client]:
    """Connect a client to a server."""
    with Client(server.host, server.grpc_port, server.rest_port, SECONDS) as made:
        yield made


def wait_until(reached: Callable[[], bool]) -> None:
    """Look until it is so."""
    give_up = time.monotonic() + SECONDS
    while not reached():
        assert time.monotonic() < give_up, "it did not happen in time"
        threading.Event().wait(0.02)


def rows(answer: Sequence[Mapping[str, Any]]) -> Arrays:
    """Return a row-format answer as arrays by output name."""
    return {
        "probabilities": np.array([row["probabilities"] for row in answer], np.float32),
        "label": np.array([row["label"].encode() for row in answer], object),
    }


def write_config(path: Path, base: Path, versions: Sequence[int], **labels: int) -> None:
    """Write a model configuration for `MODEL` in one step."""
    listed = " ".join(f"versions: {version}" for version in versions)
    labelled = "\n".join(
        f'version_labels {{ key: "{label}" value: {version} }}' for label, version in labels.items()
    )
    text = f"""model_config_list {{ config {{
        name: "{MODEL}" base_path: "{base}" model_platform: "tensorflow"
        model_version_policy {{ specific {{ {listed} }} }}
        {labelled}
    }} }}
    """
    temporary = path.with_suffix(".new")
    temporary.write_text(text)
    temporary.replace(path)


GOOD = {"instances": [b64(picture())]}
Serve: TypeAlias = "Callable[..., ModelServer]"


def refusal(call: Callable[..., object], *args: Any, **kwargs: Any) -> str:
    """Return the code of the ServingError that a call raises."""
    with pytest.raises(ServingError) as caught:
        call(*args, **kwargs)
    return caught.value.code


def assert_serves(server: Running) -> None:
    """Check that a server of version 1 answers over both protocols."""
    assert post(server, PREDICT, GOOD).status_code == 200
    with connected(server) as client:
        assert client.predict(MODEL, {"image_bytes": strings([picture()])})[0] == 1


def received_by(connection: socket.socket) -> bytes:
    """Read until the other side hangs up."""
    return b"".join(iter(lambda: connection.recv(4096), b""))


def script(path: Path, text: str) -> Path:
    """Write an executable shell script."""
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)
    return path
