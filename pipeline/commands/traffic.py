"""`perennial traffic`: record the requests to a model server."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path
from typing import Annotated

import typer

from components.wording import counted
from pipeline import addresses
from pipeline.errors import ConfigError, DataError
from pipeline.monitoring.proxy import Proxy

LogsArgument = Annotated[
    Path, typer.Argument(metavar="LOGS", help="Folder of the recorded traffic.")
]


def record(
    folder: LogsArgument,
    server: Annotated[
        str, typer.Option(metavar="HOST:PORT", help="gRPC address of the model server.")
    ] = "127.0.0.1:8500",
    host: Annotated[str, typer.Option(help="Address to listen on.")] = "127.0.0.1",
    port: Annotated[
        int, typer.Option(min=1, max=65535, help="Port that the proxy mirrors to.")
    ] = 8700,
    no_images: Annotated[
        bool, typer.Option("--no-images", help="Keep statistics and embeddings, but no images.")
    ] = False,
    embeddings: Annotated[
        bool,
        typer.Option(
            "--embeddings", help="Keep embeddings too. This costs one more prediction per request."
        ),
    ] = False,
    shadow: Annotated[
        list[str] | None,
        typer.Option(
            metavar="LABEL",
            help="Also record the predictions of the version with this label, such as canary. "
            "Repeatable.",
        ),
    ] = None,
    max_mb: Annotated[
        float,
        typer.Option(
            min=1, metavar="MB", help="Maximum size of the folder. The oldest files are removed."
        ),
    ] = 1000.0,
    file_mb: Annotated[
        float, typer.Option(min=0.1, metavar="MB", help="Size after which a file is closed.")
    ] = 32.0,
    file_minutes: Annotated[
        float, typer.Option(min=0.1, metavar="MIN", help="Age after which a file is closed.")
    ] = 60.0,
    days: Annotated[
        float,
        typer.Option(min=0, metavar="DAYS", help="Age from which files are removed. 0: never."),
    ] = 30.0,
) -> None:
    """Record the requests that the proxy mirrors, until it is stopped.

    The records are TFRecords with one tf.Example per image: the image, the request id, the response
    and the version that gave it. Records may contain personal data: only this user can read them,
    they are removed after --days, and `perennial traffic forget` removes single requests.
    """
    addresses.check("--server", server)
    if 2 * file_mb > max_mb:
        raise ConfigError(f"--file-mb {file_mb:g} is more than half of --max-mb {max_mb:g}")
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(f"{folder}: cannot be made: {error.strerror}") from error

    from pipeline.monitoring import logs, recorder

    what = recorder.RecordOptions(not no_images, embeddings or no_images, tuple(shadow or ()))
    limits = logs.Limits(int(max_mb * 1e6), int(file_mb * 1e6), file_minutes * 60, days)
    print(f"Recording to {folder}, on {host}:{port}", flush=True)
    try:
        recorder.serve(recorder.Recorder(folder, server, what, limits), host, port)
    except OSError as error:
        raise ConfigError(f"--host {host} --port {port}: {error.strerror}") from error


def proxy(
    share: Annotated[
        float, typer.Option(min=0, max=1, help="Share of the requests to record.")
    ] = 0.1,
    rest_listen: Annotated[
        str, typer.Option(metavar="[HOST:]PORT", help="Address for REST clients.")
    ] = "127.0.0.1:8601",
    grpc_listen: Annotated[
        str, typer.Option(metavar="[HOST:]PORT", help="Address for gRPC clients.")
    ] = "127.0.0.1:8600",
    rest: Annotated[
        str, typer.Option(metavar="HOST:PORT", help="REST address of the model server.")
    ] = "127.0.0.1:8501",
    grpc: Annotated[
        str, typer.Option(metavar="HOST:PORT", help="gRPC address of the model server.")
    ] = "127.0.0.1:8500",
    recorder: Annotated[
        str, typer.Option(metavar="HOST:PORT", help="Address of the recorder.")
    ] = "127.0.0.1:8700",
    only_print: Annotated[
        bool, typer.Option("--print", help="Only print nginx.conf, for use in a container.")
    ] = False,
    folder: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR",
            help="Folder for nginx's files. Default: a new folder, or /tmp with --print.",
        ),
    ] = None,
) -> None:
    """Run nginx in front of a model server, and mirror a share of the requests to the recorder.

    Each response has a header X-Request-Id, with the id that the client sent or a new one. If the
    recorder is slow, full or down, clients get no errors.
    """
    for option, address in {
        "--rest-listen": rest_listen,
        "--grpc-listen": grpc_listen,
        "--rest": rest,
        "--grpc": grpc,
        "--recorder": recorder,
    }.items():
        # nginx listens on all addresses for a port alone, as in the pods of servers.
        if not (option.endswith("-listen") and address.isdecimal()):
            addresses.check(option, address)
    place = folder or Path("/tmp" if only_print else tempfile.mkdtemp(prefix="perennial-proxy-"))
    made = Proxy(rest_listen, grpc_listen, rest, grpc, recorder, share, str(place.absolute()))
    if only_print:
        print(made.configuration(), end="")
        return
    place.mkdir(parents=True, exist_ok=True)
    command = made.command()
    print(f"REST on {rest_listen}, gRPC on {grpc_listen}; {share:.0%} is recorded", flush=True)
    # nginx takes this process's place, and so its terminal and its signals.
    os.execv(command[0], command)


def forget(
    folder: LogsArgument,
    requests: Annotated[
        list[str],
        typer.Argument(metavar="ID", help="Ids of the requests, from the header X-Request-Id."),
    ],
) -> None:
    """Remove all records of the given requests.

    The exit code is 3 if a request has no records. The recorder may keep running, but a record that
    it writes at that moment may be lost.
    """
    from pipeline.monitoring import logs

    found = logs.forget(folder, requests)
    print(f"{counted(sum(found.values()), 'record')} removed")
    if missing := [each for each, count in found.items() if not count]:
        raise DataError(f"{folder}: holds nothing of {', '.join(missing)}")
