"""`perennial schema infer|review|accept`: curate the schema that data is validated against.

A curated schema fixes the classes, their order, and the values of each derived feature; a run with
`data.schema_file` stops before training where the data has anything else.
"""

from __future__ import annotations

import os
import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from pipeline import schemas
from pipeline.commands.files import write
from pipeline.commands.options import (
    ConfigOption,
    LogFormat,
    LogFormatOption,
    SettingsOption,
    WorkspaceOption,
    load,
)
from pipeline.errors import ConfigError, SchemaDiffers
from pipeline.noise import redirect_output

if TYPE_CHECKING:
    from tensorflow_metadata.proto.v0 import schema_pb2
    from tfx.types import Artifact

    from pipeline.settings import Config

STATISTICS_NODES = ("ImageExampleGen", "StatisticsGen")


SchemaOption = Annotated[
    Path | None,
    typer.Option(metavar="FILE", help="Committed schema. Default: data.schema_file."),
]


def infer(
    config: ConfigOption = None,
    data: Annotated[
        str | None,
        typer.Option(metavar="DATA", help="Read these images instead of those of the latest run."),
    ] = None,
    schema: SchemaOption = None,
    workspace: WorkspaceOption = None,
    fresh: Annotated[
        bool, typer.Option("--fresh", help="Ignore the committed schema, and infer a new one.")
    ] = False,
    settings: SettingsOption = None,
    log_format: LogFormatOption = LogFormat.AUTO,
) -> None:
    """Write a candidate schema: the committed schema, widened to fit the data."""
    flags = {"data.source": data, "data.schema_file": schema, "workspace": workspace}
    loaded = load(config, flags, settings).config
    committed = None if fresh else loaded.data.schema_file

    if data is not None:
        from pipeline.partial import run_nodes

        with run_nodes(loaded, STATISTICS_NODES, log_format.resolved) as outputs:
            (statistics,) = outputs["StatisticsGen"]["statistics"]
            found = _infer(loaded, committed, statistics)
    else:
        with redirect_output(Path(os.devnull)):  # a log would make a workspace that is not there
            found = _infer(loaded, committed)
    candidate = _candidate(loaded)
    write(candidate, schemas.text(found))
    print(f"wrote {candidate}; next: {_command('review', loaded)}")


def _infer(
    config: Config, committed: Path | None, statistics: Artifact | None = None
) -> schema_pb2.Schema:
    # It imports TFDV, which prints meanwhile.
    from pipeline import schema_inference

    return schema_inference.infer(statistics or schema_inference.latest(config), committed)


def review(
    config: ConfigOption = None, schema: SchemaOption = None, workspace: WorkspaceOption = None
) -> None:
    """Print the changes that the candidate would make, with exit code 8 if there are any."""
    loaded, candidate, committed = _files(config, schema, workspace)
    old = schemas.read(committed) if committed.exists() else None
    changes = list(schemas.changes(old, schemas.read(_existing(candidate))))
    print("\n".join(changes) or f"{committed}: no changes")
    if changes:
        raise SchemaDiffers(
            f"{candidate} differs from {committed}; accept it with `{_command('accept', loaded)}`"
        )


def accept(
    config: ConfigOption = None, schema: SchemaOption = None, workspace: WorkspaceOption = None
) -> None:
    """Replace the committed schema with the candidate."""
    _, candidate, committed = _files(config, schema, workspace)
    write(committed, schemas.text(schemas.read(_existing(candidate))))
    print(f"wrote {committed}; runs with data.schema_file = {str(committed)!r} use it")


def _command(name: str, config: Config) -> str:
    """Build a command line with the options that it needs, wherever the settings came from."""
    options = {"--workspace": config.workspace, "--schema": config.data.schema_file}
    shown = (f" {option} {shlex.quote(str(path))}" for option, path in options.items() if path)
    return f"perennial schema {name}{''.join(shown)}"


def _files(
    config: Path | None, schema: Path | None, workspace: str | None
) -> tuple[Config, Path, Path]:
    """Return the settings, the candidate and the committed schema."""
    loaded = load(config, {"data.schema_file": schema, "workspace": workspace}, None).config
    if loaded.data.schema_file is None:
        raise ConfigError("no schema is named; give --schema FILE, or set data.schema_file")
    return loaded, _candidate(loaded), loaded.data.schema_file


def _candidate(config: Config) -> Path:
    return config.workspace / "schema" / "candidate.pbtxt"


def _existing(candidate: Path) -> Path:
    if not candidate.exists():
        raise ConfigError(f"{candidate} does not exist; `perennial schema infer` writes it")
    return candidate
