"""`perennial serve`: a model server for the pushed versions."""

from __future__ import annotations

import errno
import os
import socket
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated

import typer

from components import progress
from components.model_registry import Registry
from components.model_server import launch
from components.model_server.config_file import NAME
from pipeline.commands.options import RUNS, RunsOption
from pipeline.errors import ConfigError
from pipeline.workspace import Workspace

LOOPBACK = "127.0.0.1"


def serve(
    model: Annotated[
        str | None,
        typer.Argument(help="Name of the model, if there are several.", metavar="MODEL"),
    ] = None,
    workspace: RunsOption = RUNS,
    port: Annotated[int, typer.Option(help="Port for gRPC.", min=1, max=65535)] = 8500,
    rest_port: Annotated[
        int, typer.Option(help="Port for REST and the page.", min=1, max=65535)
    ] = 8501,
    host: Annotated[
        str,
        typer.Option(help="Address to listen on. Loopback is not reachable from other machines."),
    ] = LOOPBACK,
    dev_server: Annotated[
        bool,
        typer.Option(
            "--dev-server", help="Use the development server even if another one is installed."
        ),
    ] = False,
    own: Annotated[
        bool, typer.Option("--own", hidden=True, help="Earlier name of --dev-server.")
    ] = False,
    public_key: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            envvar="PERENNIAL_PUBLIC_KEY",
            help="Refuse versions that are not signed with the private key of this pair.",
        ),
    ] = None,
) -> None:
    """Serve the pushed models over REST and gRPC.

    The newest version is served until you promote a version or roll back. From then on, the
    promoted versions are served. The server follows models.config beside the models, so changes
    need no restart.

    TensorFlow Serving is used if it is installed (on PATH, or named in TENSORFLOW_MODEL_SERVER) or
    if a Docker engine is running. Otherwise, or with --dev-server, a development server runs, with
    a page at / to try images on.

    With --public-key, the development server checks each version before it loads it. TensorFlow
    Serving does not check signatures. It therefore serves promoted versions only, which are checked
    before it starts and by `perennial promote`.
    """
    if own:
        progress.report("note", text="--own is called --dev-server now")
    source = _source(Workspace.open(workspace).serving, model)
    backend = launch.own_backend() if dev_server or own else launch.find_backend()
    everywhere = backend.kind is launch.Kind.TENSORFLOW_SERVING
    if everywhere and host != LOOPBACK:
        raise ConfigError(
            f"--host {host}: tensorflow_model_server always listens on every address; leave --host "
            "out, or use --dev-server"
        )
    if public_key:
        _check_signed(source, public_key, backend.kind)
    _check_ports(host if not everywhere else "", {"--port": port, "--rest-port": rest_port})
    arguments = launch.command(backend, source, port, rest_port, host, public_key=public_key)
    where = f"{'every address' if everywhere else host}, REST on {rest_port}, gRPC on {port}"
    print(f"Serving {', '.join(source.models)} with {backend.kind} on {where}", flush=True)
    # The server takes this process's place, and so its terminal and its signals.
    os.execvp(arguments[0], arguments)


def _source(serving: Path, model: str | None) -> launch.Source:
    config = serving / NAME
    Registry(None, str(config)).recover()
    if config.exists():
        source = launch.Source.of_config(config)
        if model is None or model in source.models:
            for name in source.models:
                if (serving / name).is_dir():
                    Registry(str(serving / name)).check_folder()
            return source
    # With a file to follow from the start, a promotion needs no restart.
    Registry(str(serving / pushed_model(serving, model))).follow_newest()
    return launch.Source.of_config(config)


def _check_signed(source: launch.Source, public_key: Path, kind: launch.Kind) -> None:
    """Refuse to start with a version that is not signed, or would be served unchecked."""
    for name, base in source.models.items():
        registry = Registry(str(base), str(source.config_file), name, public_key)
        loaded = registry.serving().loaded
        if loaded is None and kind is not launch.Kind.OWN:
            raise ConfigError(
                f"--public-key: {name} follows the newest version, which TensorFlow Serving loads "
                "unchecked; promote a version first, or use --dev-server"
            )
        newest = registry.numbers()[-1:] if loaded is None else []
        for version in sorted(loaded or newest):
            registry.verify_signature(version)


def _check_ports(host: str, ports: Mapping[str, int]) -> None:
    """Refuse ports that another process has, before anything is printed.

    The server refuses addresses that this machine does not have.
    """
    for option, port in ports.items():
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        with socket.socket(family, socket.SOCK_STREAM) as tried:
            tried.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                tried.bind((host, port))
            except OSError as error:
                if error.errno == errno.EADDRINUSE:
                    raise ConfigError(
                        f"port {port} is in use by another process; name another with {option}"
                    ) from error
                if error.errno == errno.EACCES:
                    raise ConfigError(
                        f"no permission to listen on port {port}; name another with {option}"
                    ) from error


def pushed_model(serving: Path, model: str | None) -> str:
    """Return the name of the pushed model: `model`, or the only one.

    Raises:
        ConfigError: there is none of that name or, without a name, not exactly one.
    """
    pushed = sorted(path.name for path in serving.glob("*/") if any(path.glob("[0-9]*/")))
    if not pushed:
        raise ConfigError(
            f"{serving} holds no pushed model; run `perennial run` first, or "
            "name another --workspace"
        )
    if model is None and len(pushed) > 1:
        raise ConfigError(f"{serving} holds {', '.join(pushed)}; name one of them")
    if model is not None and model not in pushed:
        raise ConfigError(f"{serving} holds no model {model}, but {', '.join(pushed)}")
    return model or pushed[0]
