"""`perennial models`, `promote` and `rollback`: the pushed versions and their labels."""

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
from pipeline.commands.options import RUNS, JsonLinesOption, RunsOption, with_options
from pipeline.commands.tables import percent, table
from pipeline.errors import ConfigError
from pipeline.noise import Terminal, quiet

if TYPE_CHECKING:
    from pipeline.serving.promotion import Serving, Target

_UNHEARD = Path(os.devnull)  # for what TensorFlow prints while it is loaded


class Label(enum.StrEnum):
    """Labels that a version can be given."""

    CANARY = "canary"
    STABLE = "stable"


@dataclasses.dataclass(frozen=True)
class TargetOptions:
    """The model whose versions are meant, and the configuration that its servers follow."""

    model: Annotated[
        str | None,
        typer.Option(metavar="NAME", help="Name of the model, if there are several."),
    ] = None
    workspace: RunsOption = RUNS
    directory: Annotated[
        str | None,
        typer.Option(
            metavar="DIR|URI",
            help="Folder of numbered versions, if push.directory is outside the workspace.",
        ),
    ] = None
    config_file: Annotated[
        str | None,
        typer.Option(
            "--config-file",
            metavar="FILE|URI",
            help="Model configuration that the servers follow. Default: models.config beside the "
            "model.",
        ),
    ] = None
    configmap: Annotated[
        str | None,
        typer.Option(
            "--configmap",
            metavar="NAMESPACE/NAME",
            help="Model configuration in a ConfigMap, under the key models.config or "
            "NAMESPACE/NAME/KEY. Waits for the ready pods of the Service model-server; append "
            "?service=NAME for another.",
        ),
    ] = None

    def target(self, public_key: Path | None = None) -> Target:
        """Find the model. Raises ConfigError."""
        config = _configured(self.config_file, self.configmap)
        target = _located(self.workspace, self.model, self.directory, config)
        return dataclasses.replace(target, public_key=public_key)


@dataclasses.dataclass(frozen=True)
class ChangeOptions:
    """How a change of what is served is checked."""

    server: Annotated[
        list[str] | None,
        typer.Option(
            "--server",
            metavar="HOST:PORT",
            help="gRPC address of a server to wait for, instead of pods. Repeatable.",
        ),
    ] = None
    timeout: Annotated[
        float | None,
        typer.Option(
            help="Seconds to wait for the servers. Default: 120, or 300 with --configmap, which "
            "the kubelet takes up to 90 s to deliver.",
            min=1,
        ),
    ] = None
    public_key: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            envvar="PERENNIAL_PUBLIC_KEY",
            help="Refuse versions that are not signed with the private key of this pair.",
        ),
    ] = None

    def __post_init__(self) -> None:
        """Raise ConfigError for an address without a port."""
        for server in self.server or ():
            host, _, port = server.rpartition(":")
            if not (host and port.isdecimal()):
                raise ConfigError(f"--server {server}: must be HOST:PORT, such as localhost:8500")


@with_options(place=TargetOptions)
def models(as_json: JsonLinesOption = False, *, place: TargetOptions) -> None:
    """List the pushed versions with their runs, metrics, labels and verdicts."""
    from pipeline.serving import promotion

    target = place.target()
    if target.base is None:
        raise ConfigError(
            "the folder of the versions cannot be read from here; name it with --directory"
        )
    promotion.recover(target)
    rows = _rows(target, promotion.current(target))
    if not rows:
        raise ConfigError(f"{target.base} has no versions; name another --directory")
    if as_json:
        for row in rows:
            print(json.dumps(row))
        return
    _print_table(rows)


@with_options(place=TargetOptions, change=ChangeOptions)
def promote(
    version: Annotated[
        int,
        typer.Argument(
            metavar="VERSION", help="Number of a version, see `perennial models`.", min=1
        ),
    ],
    to: Annotated[Label, typer.Option(help="Label: first canary, then stable.")],
    *,
    place: TargetOptions,
    change: ChangeOptions,
) -> None:
    """Label a version canary or stable, for servers to load.

    Replaces the model configuration that the servers follow. With --server or --configmap the
    change counts once every server has the version AVAILABLE and it answers a request; otherwise
    the previous configuration is restored. Changes are logged in models.audit.jsonl beside the
    configuration, and for a ConfigMap in its annotation perennial/audit.
    """
    from pipeline.serving import promotion

    target = place.target(change.public_key)
    with quiet(_UNHEARD) as terminal, _notes_on(terminal), _terminated_like_interrupted():
        serving = promotion.promote(target, version, to.value, change.server or (), change.timeout)
    print(_told(target, serving))
    if to is Label.CANARY and not promotion.followers_of(target, change.server or ()):
        print("If it does not load, withdraw it at once: perennial rollback")


@with_options(place=TargetOptions, change=ChangeOptions)
def rollback(*, place: TargetOptions, change: ChangeOptions) -> None:
    """Withdraw the canary or, without one, restore the previous stable version.

    Servers that follow the newest version serve the one before it from then on, and no newer one
    until it is promoted.
    """
    from pipeline.serving import promotion

    target = place.target(change.public_key)
    with quiet(_UNHEARD) as terminal, _notes_on(terminal), _terminated_like_interrupted():
        serving = promotion.rollback(target, change.server or (), change.timeout)
    print(_told(target, serving))


def _configured(config_file: str | None, configmap: str | None) -> str | None:
    from components.atomic_pusher.config_map import SCHEME, Place

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
    from components.atomic_pusher import served, storage
    from pipeline.commands.serve import pushed_model
    from pipeline.serving.promotion import Target

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
    from components.atomic_pusher import storage
    from pipeline.serving.promotion import Target, read_config

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
    from components.atomic_pusher import storage

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


def _rows(target: Target, serving: Serving) -> list[dict[str, Any]]:
    from components.atomic_pusher import versions
    from pipeline.serving.checks import find_versions

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
    table(
        ("version", "labels", "accuracy", "run", "pushed", "verdict"),
        [
            (
                str(row["version"]),
                ", ".join(row["labels"]) or ("(newest)" if row["served"] else ""),
                percent(row["metrics"].get("accuracy")),
                row["run"] or "",
                (row["pushed"] or "").partition("T")[0],
                row["verdict"],
            )
            for row in rows
        ],
    )


def _told(target: Target, serving: Serving) -> str:
    from pipeline.serving import promotion

    return f"{target.name}: {promotion.told(serving)} (in {target.config})"
