"""The development server as an object: both protocols over one set of loaded models."""

from __future__ import annotations

import logging
import threading
import time
from pathlib import Path
from typing import Self

import grpc
from tensorflow_serving.config.model_server_config_pb2 import ModelServerConfig

from components.errors import ConfigError
from components.model_server import config_file as files
from components.model_server.errors import ServingError, invalid
from components.model_server.grpc_service import make_server
from components.model_server.launch import LOOPBACK
from components.model_server.manager import Manager
from components.model_server.rest import RestServer
from components.model_server.service import Limits, Service

log = logging.getLogger("perennial.serving")


class ModelServer:
    """A server of models over gRPC and REST between `start` and `stop`, or as a context manager.

    It is meant for development and tests: no batching, no authentication, no encryption.

        with ModelServer("/models/digits", "digits") as server:
            server.wait_ready()
            ... server.grpc_port, server.rest_port

    grpc_port, rest_port: where it listens, once started.
    manager: the loaded models.
    """

    def __init__(
        self,
        base_path: str | Path | None = None,
        model_name: str = "perennial",
        *,
        config_file: str | Path | None = None,
        host: str = LOOPBACK,
        grpc_port: int = 0,
        rest_port: int = 0,
        limits: Limits | None = None,
        poll_seconds: float = 1.0,
        config_poll_seconds: float = 0.0,
        load_retries: int = 1,
        retry_seconds: float = 1.0,
        public_key: Path | None = None,
    ) -> None:
        """Read the configuration; nothing is loaded and nothing listens before `start`.

        Args:
            base_path: folder with one numbered folder a version; may be empty for now.
            model_name: its name in requests.
            config_file: a text-proto ModelServerConfig instead of these two.
            host: address to listen on; anything else than loopback lets others in.
            grpc_port: 0 for any free one.
            rest_port: 0 for any free one.
            limits: of what clients may use.
            poll_seconds: between two looks for new versions.
            config_poll_seconds: between two looks at `config_file`; 0 for none after the first.
            load_retries: attempts after the first before a version is given up.
            retry_seconds: between these.
            public_key: file of the key that each version must be signed for; None takes any.

        Raises:
            ServingError, ConfigError: the configuration cannot be used.
        """
        if (base_path is None) == (config_file is None):
            raise invalid("name either a base path or a configuration file")
        self._config_file = None if config_file is None else Path(config_file)
        if self._config_file:
            config = files.read(self._config_file)
        else:
            config = ModelServerConfig()
            path = str(Path(str(base_path)).absolute())
            config.model_config_list.config.add(name=model_name, base_path=path)
        self.host = host
        self.grpc_port = grpc_port
        self.rest_port = rest_port
        self.limits = limits or Limits()
        self._config_poll_seconds = config_poll_seconds
        self.manager = Manager(config, poll_seconds, load_retries, retry_seconds, public_key)
        self._service = Service(self.manager, self.limits)
        self._grpc: grpc.Server | None = None
        self._rest: RestServer | None = None
        self._stopping = threading.Event()
        self._watcher = threading.Thread(target=self._watch, name="config-watcher", daemon=True)

    def start(self) -> None:
        """Listen on both ports and begin to load. Raises OSError where a port is taken."""
        rest = RestServer(self._service)
        self.rest_port = rest.start(self.host, self.rest_port)
        try:
            self._grpc, self.grpc_port = make_server(self._service, f"{self.host}:{self.grpc_port}")
        except OSError:
            rest.stop()
            raise
        self._rest = rest
        self.manager.start()
        self._grpc.start()
        if self._config_file and self._config_poll_seconds:
            self._watcher.start()

    def wait_ready(self, timeout: float = 60.0) -> None:
        """Wait until each configured version of each model is AVAILABLE.

        Raises:
            ServingError: the error of a version that was given up, or DEADLINE_EXCEEDED after
                `timeout` seconds.
        """
        deadline = time.monotonic() + timeout
        for name in self.manager.names():
            self.manager.wait_for(name, max(0.0, deadline - time.monotonic()))

    def stop(self) -> None:
        """Accept no more requests, finish those that run, and free the models."""
        self._stopping.set()
        if self._grpc and self._rest:
            finished = self._grpc.stop(self.limits.request_seconds)
            self._rest.stop()
            finished.wait()
            self.manager.stop()
        if self._watcher.is_alive():
            self._watcher.join()

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def _watch(self) -> None:
        """Apply the configuration file, over what else was applied, as TensorFlow Serving does."""
        assert self._config_file
        complaint = ""
        while not self._stopping.wait(self._config_poll_seconds):
            try:
                config = files.read(self._config_file)
                if config != self.manager.config:
                    self.manager.reload(config, self.limits.request_seconds)
                    log.info("%s is in force", self._config_file)
                complaint = ""
            except (ServingError, ConfigError) as error:
                if str(error) != complaint:
                    complaint = str(error)
                    log.error("%s is not in force: %s", self._config_file, complaint)
