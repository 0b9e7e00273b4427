"""`perennial models`, `promote` and `rollback`: the pushed versions and their labels."""

from __future__ import annotations

import contextlib
import dataclasses
import enum
import json
import logging
import os
import signal
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Annotated, TextIO

import typer

from components import progress, storage
from components.model_registry import CANARY, CONFIG_MAP, STABLE, Registry, Version, place_of
from pipeline import addresses
from pipeline.commands.options import RUNS, JsonLinesOption, RunsOption, with_options
from pipeline.commands.serve import pushed_model
from pipeline.commands.tables import percent, table
from pipeline.errors import ConfigError
from pipeline.noise import redirect_output
from pipeline.workspace import Workspace


class Label(enum.StrEnum):
    """Labels that a version can be given."""

    CANARY = CANARY
    STABLE = STABLE


@dataclasses.dataclass(frozen=True)
class TargetOptions:
    """The model, and the configuration that its servers follow."""

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
            help="Model configuration in a ConfigMap. For another key than models.config, give "
            "NAMESPACE/NAME/KEY. Changes wait for the ready pods of the Service model-server; "
            "append ?service=NAME for another Service.",
        ),
    ] = None

    def registry(self, public_key: Path | None = None) -> Registry:
        """Find the model. Raises ConfigError."""
        config = _absolute(self.config_file) if self.config_file else ""
        if self.configmap is not None:
            if config:
                raise ConfigError("--configmap and --config-file: give one of them")
            config = CONFIG_MAP + self.configmap.removeprefix(CONFIG_MAP)
            place_of(config)
        if self.directory is not None:
            return Registry(_absolute(self.directory), config, self.model or "", public_key)
        if config:
            return Registry.of_config(config, self.model, public_key)
        serving = Workspace.open(self.workspace).serving
        return Registry(str(serving / pushed_model(serving, self.model)), public_key=public_key)


@dataclasses.dataclass(frozen=True)
class ChangeOptions:
    """Checks of a promotion or rollback."""

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
            help="Seconds to wait for the servers. Default: 120, or 300 with --configmap, because "
            "pods get a changed ConfigMap after up to 90 s.",
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
        addresses.check("--server", *(self.server or ()))


@with_options(place=TargetOptions)
def models(as_json: JsonLinesOption = False, *, place: TargetOptions) -> None:
    """List the pushed versions with their runs, metrics, labels and verdicts."""
    registry = place.registry()
    registry.recover()
    found = registry.versions()
    if not found:
        raise ConfigError(f"{registry.base} has no versions; name another --directory")
    if as_json:
        for version in found:
            print(json.dumps(_row(version)))
    else:
        _print_table(found)


@with_options(place=TargetOptions, change=ChangeOptions)
def promote(
    version: Annotated[
        int,
        typer.Argument(
            metavar="VERSION", help="Number of the version, as in `perennial models`.", min=1
        ),
    ],
    to: Annotated[Label, typer.Option(help="Label: first canary, then stable.")],
    *,
    place: TargetOptions,
    change: ChangeOptions,
) -> None:
    """Label a version canary or stable, for servers to load.

    The command replaces the model configuration that the servers follow. With --server or
    --configmap, it waits until the version is AVAILABLE on every server and answers a request;
    otherwise it restores the previous configuration. Changes are logged in models.audit.jsonl
    beside the configuration, and for a ConfigMap in its annotation perennial/audit.
    """
    registry, servers = place.registry(change.public_key), change.server or ()
    with _changing():
        serving = registry.promote(version, to.value, servers, change.timeout)
    print(f"{registry.name}: {serving} (in {registry.config})")
    if to is Label.CANARY and not registry.followers(servers):
        print("If it does not load, withdraw it at once: perennial rollback")


@with_options(place=TargetOptions, change=ChangeOptions)
def rollback(*, place: TargetOptions, change: ChangeOptions) -> None:
    """Withdraw the canary or, if there is none, restore the previous stable version.

    If the servers follow the newest version, they serve the version before it from then on, and no
    newer one until you promote it.
    """
    registry = place.registry(change.public_key)
    with _changing():
        serving = registry.rollback(change.server or (), change.timeout)
    print(f"{registry.name}: {serving} (in {registry.config})")


def _absolute(location: str) -> str:
    return location if storage.is_uri(location) else str(Path(location).absolute())


class _Notes(logging.Handler):
    """Printer of notes, as a promotion waits for servers."""

    def __init__(self, stream: TextIO) -> None:
        super().__init__()
        self._stream = stream

    def emit(self, record: logging.LogRecord) -> None:
        if record.msg == "note":
            print(record.__dict__["fields"]["text"], file=self._stream, flush=True)


@contextlib.contextmanager
def _changing() -> Iterator[None]:
    """Print notes, and not the output of TensorFlow.

    SIGTERM, which Kubernetes sends to a pod that is deleted, interrupts the change, so that the old
    configuration is restored.
    """

    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    with redirect_output(Path(os.devnull)) as terminal:
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
    tried = record.get("validated")
    verdict = f"blessed, tried in {tried}" if tried else "blessed, not tried in a server"
    return {
        "version": version.number,
        "run": record.get("run"),
        "pushed": record.get("pushed"),
        "metrics": record.get("metrics", {}),
        "labels": version.labels,
        "served": version.served,
        "verdict": "unknown: it has no manifest" if version.record is None else verdict,
    }


def _print_table(found: Sequence[Version]) -> None:
    rows = []
    for version in found:
        record = version.record or {}
        labels = ", ".join(version.labels) or ("(newest)" if version.served else "")
        accuracy = percent(record.get("metrics", {}).get("accuracy"))
        pushed = (record.get("pushed") or "").partition("T")[0]
        verdict = str(_row(version)["verdict"])
        rows.append(
            (str(version.number), labels, accuracy, record.get("run") or "", pushed, verdict)
        )
    table(("version", "labels", "accuracy", "run", "pushed", "verdict"), rows)
