"""Azure's blob storage on loopback, for tests: Azurite, Microsoft's emulator.

It is more generous than Azure: it knows one account with a published key, and no roles.
"""

from __future__ import annotations

import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import fsspec
import pytest

CONTAINER = "container"
# Of https://learn.microsoft.com/azure/storage/common/storage-use-azurite, the same everywhere.
_ACCOUNT = "devstoreaccount1"
_KEY = "Eby8vdM02xNOcqFlqUwJPLlmEtlCDXJ1OUzFT50uSRZ6IFsuFq2UVErCz4I6tq/K1SZFPTOtr/KBHBeksoGMGw=="


def has_azurite() -> bool:
    return shutil.which("azurite-blob") is not None


def uri(*names: str) -> str:
    return "/".join([f"az://{CONTAINER}", *names])


@contextmanager
def azurite(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Serve an empty container, which the environment names."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    folder.mkdir()
    command = ["azurite-blob", "--silent", "--skipApiVersionCheck", "--disableTelemetry"]
    server = subprocess.Popen(
        [*command, "--location", str(folder), "--blobPort", str(port)],
        stdout=subprocess.DEVNULL,
    )
    try:
        give_up = time.monotonic() + 60
        while not _answers(port):
            assert time.monotonic() < give_up
            time.sleep(0.1)
        endpoint = f"http://127.0.0.1:{port}/{_ACCOUNT}"
        monkeypatch.setenv(
            "AZURE_STORAGE_CONNECTION_STRING",
            f"DefaultEndpointsProtocol=http;AccountName={_ACCOUNT};AccountKey={_KEY};"
            f"BlobEndpoint={endpoint};",
        )
        fsspec.get_filesystem_class("az").clear_instance_cache()
        fsspec.filesystem("az").mkdir(CONTAINER)
        yield
    finally:
        fsspec.get_filesystem_class("az").clear_instance_cache()
        server.terminate()
        server.wait()


def _answers(port: int) -> bool:
    with socket.socket() as client:
        return client.connect_ex(("127.0.0.1", port)) == 0
