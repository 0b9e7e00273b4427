"""Start the best model server that this machine has, behind one interface.

In this order: the binary that TENSORFLOW_MODEL_SERVER names or that is on PATH, TensorFlow
Serving's image where a Docker engine answers, the project's own development server.
"""

from __future__ import annotations

import dataclasses
import enum
import importlib.metadata
import os
import shutil
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import Mapping
from pathlib import Path
from typing import IO, Self

import portpicker

from components.errors import ConfigError
from components.model_server import config_file as files
from components.model_server.errors import ServingError

BINARY_VARIABLE = "TENSORFLOW_MODEL_SERVER"
IMAGE_VARIABLE = "TENSORFLOW_SERVING_IMAGE"
LOOPBACK = "127.0.0.1"
_BINARY = "tensorflow_model_server"
_MONITORING = Path(__file__).with_name("monitoring.config")
_ENGINE_SECONDS = 10.0  # for Docker to answer
_KILL_SECONDS = 45.0  # longer than a request may take, so that it can be finished
_LOG_BYTES = 1000  # of what a server that does not start has printed
_POLL_SECONDS = 0.1
# Becomes the program of its arguments, which gets SIGTERM when the thread that started it ends,
# however that ends. Not in `preexec_fn`, which is unsafe where there are threads.
_END_WITH_PARENT = """
import ctypes, os, signal, sys
parent, *command = sys.argv[1:]
prctl = getattr(ctypes.CDLL(None), "prctl", None)
if prctl:
    prctl(1, signal.SIGTERM)  # PR_SET_PDEATHSIG of Linux
    if os.getppid() != int(parent):
        sys.exit(1)
os.execvp(command[0], command)
"""


class Kind(enum.StrEnum):
    """A kind of server."""

    TENSORFLOW_SERVING = "TensorFlow Serving"
    DOCKER = "TensorFlow Serving in Docker"
    OWN = "the development server"


@dataclasses.dataclass(frozen=True)
class Backend:
    """A kind of server that can be started here: with `program`, a path or an image."""

    kind: Kind
    program: str


@dataclasses.dataclass(frozen=True)
class Source:
    """Folders of versions by the name of the model, perhaps with a ModelServerConfig file."""

    models: Mapping[str, Path]
    config_file: Path | None = None

    @classmethod
    def of_model(cls, base_path: Path, model_name: str) -> Source:
        """Serve the newest version in a folder."""
        return cls({model_name: base_path.absolute()})

    @classmethod
    def of_config(cls, config_file: Path) -> Source:
        """Serve the models of a ModelServerConfig file, and follow it. Raises ConfigError."""
        config = files.read(config_file)
        models = {model.name: Path(model.base_path) for model in config.model_config_list.config}
        if not models:
            raise ConfigError(f"{config_file} has no model_config_list with a model in it")
        return cls(models, config_file.absolute())


def find_backend(environment: Mapping[str, str] | None = None) -> Backend:
    """Choose the best server present.

    Raises ConfigError where TENSORFLOW_MODEL_SERVER names something that cannot be run.
    """
    environment = os.environ if environment is None else environment
    path = environment.get("PATH", os.defpath)
    named = environment.get(BINARY_VARIABLE)
    if named:
        found = shutil.which(named, path=path)
        if not found:
            raise ConfigError(
                f"{BINARY_VARIABLE}={named} is not a program; name the path of a "
                f"{_BINARY}, or unset it"
            )
        return Backend(Kind.TENSORFLOW_SERVING, found)
    found = shutil.which(_BINARY, path=path)
    if found:
        return Backend(Kind.TENSORFLOW_SERVING, found)
    docker = shutil.which("docker", path=path)
    if docker and _engine_answers(docker, environment):
        # Both are released together, under the same number.
        version = importlib.metadata.version("tensorflow-serving-api")
        image = environment.get(IMAGE_VARIABLE) or f"tensorflow/serving:{version}"
        return Backend(Kind.DOCKER, image)
    return own_backend()


def own_backend() -> Backend:
    """Return the project's own server, which is always there."""
    return Backend(Kind.OWN, sys.executable)


def _engine_answers(docker: str, environment: Mapping[str, str]) -> bool:
    """Check that the engine gives its version: the client is often there without one."""
    try:
        done = subprocess.run(
            [docker, "version", "--format", "{{.Server.Version}}"],
            env=dict(environment),
            capture_output=True,
            check=False,
            timeout=_ENGINE_SECONDS,
        )
    except (OSError, subprocess.TimeoutExpired):
        return False
    return done.returncode == 0


def command(
    backend: Backend,
    source: Source,
    grpc_port: int,
    rest_port: int,
    host: str = LOOPBACK,
    container: str = "",
    public_key: Path | None = None,
) -> list[str]:
    """Return the arguments that start a server in the foreground.

    tensorflow_model_server listens on every address of the machine, whatever `host` is. Only the
    own server checks every version with `public_key`.
    """
    # TensorFlow Serving ends where a version is given up before another one is loaded. So where it
    # serves what is promoted, it tries far longer than a load takes.
    is_patient = source.config_file is not None and backend.kind is not Kind.OWN
    flags = [
        "--file_system_poll_wait_seconds=1",
        f"--max_num_load_retries={300 if is_patient else 1}",
        "--load_retry_interval_micros=1000000",
    ]
    if source.config_file:
        flags.append(f"--model_config_file={source.config_file}")
        flags.append("--model_config_file_poll_wait_seconds=1")
    else:
        ((name, folder),) = source.models.items()
        flags += [f"--model_name={name}", f"--model_base_path={folder}"]
    if backend.kind is Kind.OWN:
        ports = [f"--port={grpc_port}", f"--rest_api_port={rest_port}", f"--host={host}"]
        if public_key:
            flags.append(f"--public_key={public_key.absolute()}")
        # -P: a user's pipeline.py in the working directory is not ours.
        return [backend.program, "-P", "-m", "components.model_server", *ports, *flags]
    flags += [
        "--allow_version_labels_for_unavailable_models=true",
        f"--monitoring_config_file={_MONITORING}",
    ]
    if backend.kind is Kind.TENSORFLOW_SERVING:
        ports = [f"--port={grpc_port}", f"--rest_api_port={rest_port}"]
        return [backend.program, *ports, *flags]
    # Mounted where they are outside, so that the same paths are right in the container. The
    # configuration's folder and not the file: a replaced file would stay the old one inside.
    folders = {*source.models.values(), _MONITORING.parent}
    if source.config_file:
        folders.add(source.config_file.parent)
    return [
        *("docker", "run", "--rm", "--init"),  # as process 1 the server would ignore signals
        *([f"--name={container}"] if container else []),
        *(f"--publish={host}:{grpc_port}:8500", f"--publish={host}:{rest_port}:8501"),
        *(f"--volume={folder}:{folder}:ro" for folder in sorted(folders)),
        f"--entrypoint={_BINARY}",
        backend.program,
        *("--port=8500", "--rest_api_port=8501"),
        *flags,
    ]


def serve_folder(base_path: str, model_name: str) -> ServerProcess:
    """Make a process of the best server present, for the newest version in a folder."""
    return ServerProcess(find_backend(), Source.of_model(Path(base_path), model_name))


class ServerProcess:
    """A server of any kind as a child process on free ports of loopback; a context manager.

    with ServerProcess(find_backend(), Source.of_model(folder, "digits")) as server:
        server.wait_ready()
        ... server.grpc_port, server.rest_port
    """

    def __init__(self, backend: Backend, source: Source) -> None:
        """Choose free ports; nothing is started before the context is entered."""
        self.backend = backend
        self.host = LOOPBACK
        self.grpc_port: int = portpicker.pick_unused_port()
        self.rest_port: int = portpicker.pick_unused_port()
        container = f"perennial-{uuid.uuid4().hex[:12]}"
        self._container = container if backend.kind is Kind.DOCKER else ""
        self.command = command(
            backend, source, self.grpc_port, self.rest_port, self.host, self._container
        )
        self._source = source
        self._log: IO[bytes] | None = None
        self._process: subprocess.Popen | None = None
        self.returncode: int | None = None  # once it has ended

    def __str__(self) -> str:
        return str(self.backend.kind)

    def __enter__(self) -> Self:
        self._log = tempfile.TemporaryFile()
        # -I, -S: nothing of a user's is imported for it.
        with_parent = [sys.executable, "-I", "-S", "-c", _END_WITH_PARENT, str(os.getpid())]
        self._process = subprocess.Popen(
            [*with_parent, *self.command],
            stdin=subprocess.DEVNULL,
            stdout=self._log,
            stderr=subprocess.STDOUT,
        )
        return self

    @property
    def pid(self) -> int:
        """The process, once it is started."""
        assert self._process
        return self._process.pid

    def wait_ready(self, timeout: float = 120.0) -> None:
        """Wait until each model has a version that is AVAILABLE and none that is still to come.

        Raises:
            ServingError: UNAVAILABLE where the process has ended, with the end of its log;
                FAILED_PRECONDITION where a version cannot be loaded; or DEADLINE_EXCEEDED.
        """
        from components.model_server.client import Client  # is slow to import

        deadline = time.monotonic() + timeout
        with Client(self.host, self.grpc_port, self.rest_port, timeout=5) as client:
            while not all(client.is_settled(model) for model in self._source.models):
                if self._process is None or self._process.poll() is not None:
                    raise ServingError("UNAVAILABLE", f"the server has ended: {self.last_words()}")
                if time.monotonic() > deadline:
                    raise ServingError(
                        "DEADLINE_EXCEEDED",
                        f"the server is not ready after {timeout:g} s: {self.last_words()}",
                    )
                time.sleep(_POLL_SECONDS)

    def last_words(self) -> str:
        """Return the end of its log."""
        assert self._log
        size = os.fstat(self._log.fileno()).st_size
        start = max(0, size - _LOG_BYTES)
        return os.pread(self._log.fileno(), _LOG_BYTES, start).decode(errors="replace").strip()

    def __exit__(self, *_: object) -> None:
        assert self._process
        assert self._log
        self._process.terminate()
        try:
            self._process.wait(_KILL_SECONDS)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
            if self._container:
                subprocess.run(["docker", "kill", self._container], check=False)
        self.returncode = self._process.returncode
        self._log.close()
