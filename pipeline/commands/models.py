"""`perennial models`, `promote` and `rollback`: which versions there are, and which are served."""

from __future__ import annotations

import contextlib
import enum
import json
import logging
import os
import signal
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Annotated, TextIO

import typer

from components import progress
from components.model_registry import CANARY, CONFIG_MAP, STABLE, Registry, Version, place_of
from pipeline.commands.options import RUNS, JsonLinesOption, RunsOption
from pipeline.errors import ConfigError
from pipeline.noise import quiet

_UNHEARD = Path(os.devnull)  # for what TensorFlow says while it is loaded


class Label(enum.StrEnum):
    """What a version can be promoted to."""

    CANARY = CANARY
    STABLE = STABLE


ModelOption = Annotated[
    str | None,
    typer.Option(metavar="NAME", help="The model; not needed where there is one."),
]
DirectoryOption = Annotated[
    str | None,
    typer.Option(
        metavar="DIR|URI",
        help="Folder of numbered versions, where push.directory is not in the workspace.",
    ),
]
ServedConfigOption = Annotated[
    str | None,
    typer.Option(
        "--config-file",
        metavar="FILE|URI",
        help="Model configuration that servers follow (default: models.config beside the model).",
    ),
]
ConfigMapOption = Annotated[
    str | None,
    typer.Option(
        "--configmap",
        metavar="NAMESPACE/NAME",
        help="Model configuration in a ConfigMap of the cluster that KUBECONFIG or the pod names: "
        "its key models.config, or /KEY behind it; waits for the ready pods of the Service "
        "model-server, or of ?service=NAME behind it.",
    ),
]
ServerOption = Annotated[
    list[str] | None,
    typer.Option(
        "--server",
        metavar="HOST:PORT",
        help="gRPC address of a server to wait for, instead of pods; can be repeated.",
    ),
]
PublicKeyOption = Annotated[
    Path | None,
    typer.Option(
        metavar="FILE",
        envvar="PERENNIAL_PUBLIC_KEY",
        help="Refuse a version that the holder of the private key did not sign.",
    ),
]
TimeoutOption = Annotated[
    float | None,
    typer.Option(
        help="Seconds to wait for servers (default: 120; with --configmap 300, for kubelet takes "
        "up to 90).",
        min=1,
    ),
]


def models(
    model: ModelOption = None,
    workspace: RunsOption = RUNS,
    directory: DirectoryOption = None,
    config_file: ServedConfigOption = None,
    configmap: ConfigMapOption = None,
    as_json: JsonLinesOption = False,
) -> None:
    """List the pushed versions: run, metrics, labels and verdict."""
    registry = _registry(workspace, model, directory, config_file, configmap)
    registry.recover()
    found = registry.versions()
    if not found:
        raise ConfigError(f"{registry.base} has no versions; name another --directory")
    if as_json:
        for version in found:
            print(json.dumps(_row(version)))
    else:
        _print_table(found)


def promote(
    version: Annotated[
        int,
        typer.Argument(metavar="VERSION", help="A version that `perennial models` lists.", min=1),
    ],
    to: Annotated[Label, typer.Option(help="canary first, then stable.")],
    model: ModelOption = None,
    workspace: RunsOption = RUNS,
    directory: DirectoryOption = None,
    config_file: ServedConfigOption = None,
    configmap: ConfigMapOption = None,
    server: ServerOption = None,
    timeout: TimeoutOption = None,
    public_key: PublicKeyOption = None,
) -> None:
    """Let servers serve a version as canary or stable, beside the ones they serve.

    Rewrites the model configuration that servers follow, in one step. With --server or --configmap
    it waits until they have the version AVAILABLE and it answers a smoke request, and else puts the
    old configuration back. Every change is a line in models.audit.jsonl beside the configuration;
    of a ConfigMap in its annotation perennial/audit, and beside the versions where it can be
    written.
    """
    registry = _registry(workspace, model, directory, config_file, configmap, public_key)
    servers = _checked(server)
    with _changing():
        serving = registry.promote(version, to.value, servers, timeout)
    print(f"{registry.name}: {serving} (in {registry.config})")
    if to is Label.CANARY and not registry.followers(servers):
        print("Where it does not load, withdraw it at once: perennial rollback")


def rollback(
    model: ModelOption = None,
    workspace: RunsOption = RUNS,
    directory: DirectoryOption = None,
    config_file: ServedConfigOption = None,
    configmap: ConfigMapOption = None,
    server: ServerOption = None,
    timeout: TimeoutOption = None,
    public_key: PublicKeyOption = None,
) -> None:
    """Withdraw the canary or, where there is none, bring back the version that was stable before.

    Where servers follow the newest version, they serve the one before it from now on, and no newer
    one until it is promoted.
    """
    registry = _registry(workspace, model, directory, config_file, configmap, public_key)
    servers = _checked(server)
    with _changing():
        serving = registry.rollback(servers, timeout)
    print(f"{registry.name}: {serving} (in {registry.config})")


def _registry(
    workspace: Path,
    model: str | None,
    directory: str | None,
    config_file: str | None,
    configmap: str | None,
    public_key: Path | None = None,
) -> Registry:
    if configmap is not None:
        if config_file is not None:
            raise ConfigError("--configmap and --config-file: give one of them")
        config_file = CONFIG_MAP + configmap.removeprefix(CONFIG_MAP)
        place_of(config_file)
    config = _absolute(config_file) if config_file else ""
    if directory is not None:
        return Registry(_absolute(directory), config, model or "", public_key)
    if config:
        return Registry.of_config(config, model, public_key)
    from pipeline.commands.serve import pushed_model

    serving = workspace.absolute() / "serving"
    return Registry(str(serving / pushed_model(serving, model)), public_key=public_key)


def _absolute(location: str) -> str:
    return location if "://" in location else str(Path(location).absolute())


def _checked(servers: list[str] | None) -> Sequence[str]:
    for server in servers or ():
        host, _, port = server.rpartition(":")
        if not (host and port.isdecimal()):
            raise ConfigError(f"--server {server}: must be HOST:PORT, such as localhost:8500")
    return servers or ()


class _Notes(logging.Handler):
    """What a promotion waits for, as it goes."""

    def __init__(self, stream: TextIO) -> None:
        super().__init__()
        self._stream = stream

    def emit(self, record: logging.LogRecord) -> None:
        if record.msg == "note":
            print(record.__dict__["fields"]["text"], file=self._stream, flush=True)


@contextlib.contextmanager
def _changing() -> Iterator[None]:
    """Print notes, and not what TensorFlow has to tell while it is loaded.

    SIGTERM, which a pod gets that is deleted, interrupts: so the old configuration is put back.
    """

    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    with quiet(_UNHEARD) as terminal:
        handler = _Notes(terminal.stderr)
        progress.LOGGER.addHandler(handler)
        before = signal.signal(signal.SIGTERM, interrupt)
        try:
            yield
        finally:
            signal.signal(signal.SIGTERM, before)
            progress.LOGGER.removeHandler(handler)


def _row(version: Version) -> dict[str, object]:
    record = version.record or {}
    if version.record is None:
        verdict = "unknown: it has no manifest"
    elif tried := record.get("validated"):
        verdict = f"blessed, tried in {tried}"
    else:
        verdict = "blessed, not tried in a server"
    return {
        "version": version.number,
        "run": record.get("run"),
        "pushed": record.get("pushed"),
        "metrics": record.get("metrics", {}),
        "labels": version.labels,
        "served": version.served,
        "verdict": verdict,
    }


def _print_table(found: Sequence[Version]) -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table(box=None, header_style="bold", pad_edge=False)
    for heading in ("version", "labels", "accuracy", "run", "pushed"):
        table.add_column(heading, no_wrap=True)
    table.add_column("verdict")
    for version in found:
        record = version.record or {}
        accuracy = record.get("metrics", {}).get("accuracy")
        table.add_row(
            str(version.number),
            ", ".join(version.labels) or ("(newest)" if version.served else ""),
            "" if accuracy is None else f"{accuracy:.2%}",
            record.get("run") or "",
            (record.get("pushed") or "").partition("T")[0],
            str(_row(version)["verdict"]),
        )
    Console().print(table)
