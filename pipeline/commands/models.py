"""`perennial models`, `promote` and `rollback`: which versions there are, and which are served."""

from __future__ import annotations

import contextlib
import dataclasses
import enum
import json
import logging
import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TextIO

import typer

from components import progress
from pipeline.commands.options import RUNS, JsonLinesOption, RunsOption
from pipeline.errors import ConfigError
from pipeline.noise import Terminal, quiet

if TYPE_CHECKING:
    from components.model_registry.promotion import Serving, Target

_UNHEARD = Path(os.devnull)  # for what TensorFlow says while it is loaded


class Label(enum.StrEnum):
    """What a version can be promoted to."""

    CANARY = "canary"
    STABLE = "stable"


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
    from components.model_registry import promotion

    target = _target(workspace, model, directory, config_file, configmap)
    if target.base is None:
        raise ConfigError("the versions cannot be seen from here; name their folder: --directory")
    promotion.recover(target)
    rows = _rows(target, promotion.current(target))
    if not rows:
        raise ConfigError(f"{target.base} has no versions; name another --directory")
    if as_json:
        for row in rows:
            print(json.dumps(row))
        return
    _print_table(rows)


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
    from components.model_registry import promotion

    target = _target(workspace, model, directory, config_file, configmap, public_key)
    _check_servers(server)
    with quiet(_UNHEARD) as terminal, _notes_on(terminal), _terminated_like_interrupted():
        serving = promotion.promote(target, version, to.value, server or (), timeout)
    print(_told(target, serving))
    if to is Label.CANARY and not promotion.followers_of(target, server or ()):
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
    from components.model_registry import promotion

    target = _target(workspace, model, directory, config_file, configmap, public_key)
    _check_servers(server)
    with quiet(_UNHEARD) as terminal, _notes_on(terminal), _terminated_like_interrupted():
        serving = promotion.rollback(target, server or (), timeout)
    print(_told(target, serving))


def _target(
    workspace: Path,
    model: str | None,
    directory: str | None,
    config_file: str | None,
    configmap: str | None,
    public_key: Path | None = None,
) -> Target:
    target = _located(workspace, model, directory, _configured(config_file, configmap))
    return dataclasses.replace(target, public_key=public_key)


def _configured(config_file: str | None, configmap: str | None) -> str | None:
    from components.model_registry.config_map import SCHEME, Place

    if configmap is None:
        return config_file
    if config_file is not None:
        raise ConfigError("--configmap and --config-file: give one of them")
    location = SCHEME + configmap.removeprefix(SCHEME)
    try:
        Place.parse(location)
    except ValueError as error:
        raise ConfigError(f"--configmap {configmap}: {error}") from error
    return location


def _located(
    workspace: Path, model: str | None, directory: str | None, config_file: str | None
) -> Target:
    from components import storage
    from components.model_registry import served
    from components.model_registry.promotion import Target
    from pipeline.commands.serve import pushed_model

    if directory is not None:
        base = _absolute(directory)
        config = config_file or served.default_config(base)
        return Target(model or storage.name(base), base, _absolute(config))
    if config_file is not None:
        return _target_of_config(_absolute(config_file), model)
    serving = workspace.absolute() / "serving"
    name = pushed_model(serving, model)
    return Target(name, str(serving / name), str(serving / served.FILE))


def _target_of_config(location: str, model: str | None) -> Target:
    from components import storage
    from components.model_registry.promotion import Target, read_config

    found = {m.name: m.base_path for m in read_config(location).model_config_list.config}
    if not found:
        raise ConfigError(f"{location}: is not there, or names no model")
    if (model or (len(found) == 1 and next(iter(found)))) not in found:
        raise ConfigError(f"{location}: name the model; there are: {', '.join(found)}")
    name = model or next(iter(found))
    # A path of the server's machine need not be one here.
    seen = storage.is_uri(found[name]) or Path(found[name]).is_dir()
    return Target(name, found[name] if seen else None, location)


def _absolute(location: str) -> str:
    from components import storage

    return location if storage.is_uri(location) else str(Path(location).absolute())


class _Notes(logging.Handler):
    """What a promotion waits for, as it goes."""

    def __init__(self, stream: TextIO) -> None:
        super().__init__()
        self._stream = stream

    def emit(self, record: logging.LogRecord) -> None:
        if record.msg == "note":
            print(record.__dict__["fields"]["text"], file=self._stream, flush=True)


@contextlib.contextmanager
def _notes_on(terminal: Terminal) -> Iterator[None]:
    handler = _Notes(terminal.stderr)
    progress.LOGGER.addHandler(handler)
    try:
        yield
    finally:
        progress.LOGGER.removeHandler(handler)


@contextlib.contextmanager
def _terminated_like_interrupted() -> Iterator[None]:
    """Let SIGTERM, which a pod gets that is deleted, put the old configuration back."""

    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _check_servers(servers: list[str] | None) -> None:
    for server in servers or ():
        host, _, port = server.rpartition(":")
        if not (host and port.isdecimal()):
            raise ConfigError(f"--server {server}: must be HOST:PORT, such as localhost:8500")


def _rows(target: Target, serving: Serving) -> list[dict[str, Any]]:
    from components.model_registry import versions
    from components.model_registry.checks import find_versions

    base, numbers = target.base or "", find_versions(target)
    rows = []
    for number in reversed(numbers):
        manifest = versions.read_manifest(base, number)
        record = manifest.record if manifest else {}
        newest = serving.loaded is None and number == numbers[-1]
        rows.append(
            {
                "version": number,
                "run": record.get("run"),
                "pushed": record.get("pushed"),
                "metrics": record.get("metrics", {}),
                "labels": [label for label, n in serving.labels.items() if n == number],
                "served": newest or number in (serving.loaded or ()),
                "verdict": _verdict(record) if manifest else "unknown: it has no manifest",
            }
        )
    return rows


def _verdict(record: Any) -> str:
    validated = record.get("validated")
    return f"blessed, tried in {validated}" if validated else "blessed, not tried in a server"


def _print_table(rows: list[dict[str, Any]]) -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table(box=None, header_style="bold", pad_edge=False)
    for heading in ("version", "labels", "accuracy", "run", "pushed"):
        table.add_column(heading, no_wrap=True)
    table.add_column("verdict")
    for row in rows:
        accuracy = row["metrics"].get("accuracy")
        labels = ", ".join(row["labels"]) or ("(newest)" if row["served"] else "")
        table.add_row(
            str(row["version"]),
            labels,
            "" if accuracy is None else f"{accuracy:.2%}",
            row["run"] or "",
            (row["pushed"] or "").partition("T")[0],
            row["verdict"],
        )
    Console().print(table)


def _told(target: Target, serving: Serving) -> str:
    from components.model_registry import promotion

    return f"{target.name}: {promotion.told(serving)} (in {target.config})"
