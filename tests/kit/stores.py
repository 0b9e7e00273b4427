"""Places without content for tests of files by path or URI, each on a server of its own."""

from __future__ import annotations

import contextlib
import uuid
from collections.abc import Iterator
from pathlib import Path

import fsspec
import pytest

from tests.kit import azure
from tests.kit import s3 as s3_kit
from tests.kit.s3 import S3


def reached(server: S3, monkeypatch: pytest.MonkeyPatch) -> S3:
    """Have this process reach a server of S3, with an empty bucket."""
    for name in ("AWS_PROFILE", "AWS_ENDPOINT_URL", "AWS_SESSION_TOKEN"):
        monkeypatch.delenv(name, raising=False)
    for name, value in server.env.items():
        monkeypatch.setenv(name, value)
    fsspec.filesystem("s3").clear_instance_cache()
    s3_kit.make_bucket()
    server.faults.log.clear()
    return server


@contextlib.contextmanager
def place(kind: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """Have a location: on "disk", in "memory", or on "moto", "versity" or "azurite".

    Skips the test where that server is not installed.
    """
    with contextlib.ExitStack() as stack:
        if kind == "disk":
            yield str(folder / "place")
        elif kind == "memory":
            yield f"memory://{uuid.uuid4().hex}/place"
        elif kind == "azurite":
            if not azure.has_azurite():
                pytest.skip("azurite-blob is not in PATH; make azurite")
            stack.enter_context(azure.azurite(folder / "azure", monkeypatch))
            yield azure.uri("place")
        else:
            if kind == "versity" and not s3_kit.has_versity():
                pytest.skip("versitygw is not in PATH; make s3")
            server = s3_kit.moto() if kind == "moto" else s3_kit.versity(folder / "s3")
            yield reached(stack.enter_context(server), monkeypatch).uri("place")
            fsspec.filesystem("s3").clear_instance_cache()
