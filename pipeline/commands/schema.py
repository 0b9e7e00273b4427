"""`perennial schema infer|review|accept`: curate the schema that data is validated against.

A curated schema fixes the classes, their order, and what each derived feature may be; a run with
`data.schema_file` stops before training where the data has anything else.
"""

from __future__ import annotations

import difflib
import os
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from pipeline.commands.files import write
from pipeline.commands.options import (
    ConfigOption,
    LogFormat,
    LogFormatOption,
    SettingsOption,
    WorkspaceOption,
    load,
)
from pipeline.errors import ConfigError, DataError, SchemaDiffers
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
        bool, typer.Option("--fresh", help="Start from nothing instead of the committed schema.")
    ] = False,
    settings: SettingsOption = None,
    log_format: LogFormatOption = LogFormat.AUTO,
) -> None:
    """Write a candidate schema: the committed one, widened to fit the data."""
    flags = {"data.source": data, "data.schema_file": schema, "workspace": workspace}
    loaded = load(config, flags, settings).config

    from pipeline.partial import latest_artifact, run_nodes

    if data is not None:
        with run_nodes(loaded, STATISTICS_NODES, log_format.resolved) as outputs:
            found = _infer(loaded, outputs["StatisticsGen"]["statistics"][0], fresh)
    else:
        with redirect_output(Path(os.devnull)):  # a log would make a workspace that is not there
            statistics = latest_artifact(loaded, "ExampleStatistics")
            if statistics is None:
                raise ConfigError(
                    f"workspace {loaded.workspace} has no statistics yet: give --data, or run "
                    "`perennial run` first"
                )
            found = _infer(loaded, statistics, fresh)
    candidate = _candidate(loaded)
    write(candidate, _text(found))
    print(f"wrote {candidate}; next: {_command('review', loaded)}")


def _infer(config: Config, statistics: Artifact, fresh: bool) -> schema_pb2.Schema:
    """A schema for the data: what the committed one says, and what the data has beyond that.

    New classes come after the known ones, whose ids stay.
    """
    from tfx.components.statistics_gen import stats_artifact_utils
    from tfx.types import artifact_utils

    from components.image_schema_gen import inference
    from components.image_schema_gen.schema import class_counts

    splits = [
        stats_artifact_utils.load_statistics(statistics, split).proto()
        for split in artifact_utils.decode_split_names(statistics.split_names)
    ]
    classes = {name for split in splits for name in class_counts(split)}
    committed = config.data.schema_file
    base = _read(committed) if committed and committed.exists() and not fresh else None
    return inference.infer(splits, classes, base)


def _command(name: str, config: Config) -> str:
    """Build a command line with the options that it needs, wherever the settings came from."""
    options = {"--workspace": config.workspace, "--schema": config.data.schema_file}
    shown = (f" {option} {shlex.quote(str(path))}" for option, path in options.items() if path)
    return f"perennial schema {name}{''.join(shown)}"


def review(
    config: ConfigOption = None, schema: SchemaOption = None, workspace: WorkspaceOption = None
) -> None:
    """Print the changes that the candidate would make, with exit code 8 if there are any."""
    loaded, candidate, committed = _files(config, schema, workspace)
    old = _lines(_read(committed)) if committed.exists() else []
    changes = list(_changes(old, _lines(_read(_existing(candidate)))))
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
    write(committed, _text(_read(_existing(candidate))))
    print(f"wrote {committed}; runs with data.schema_file = {str(committed)!r} use it")


def _files(
    config: Path | None, schema: Path | None, workspace: str | None
) -> tuple[Config, Path, Path]:
    """The settings, the candidate and the committed schema."""
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


def _read(path: Path) -> schema_pb2.Schema:
    from components.errors import BadDataError
    from components.image_schema_gen.schema import read_schema

    try:
        return read_schema(path)
    except BadDataError as error:
        raise DataError(str(error)) from error


def _text(schema: schema_pb2.Schema) -> str:
    from google.protobuf import text_format

    return text_format.MessageToString(schema, as_utf8=True)


def _lines(schema: schema_pb2.Schema) -> list[str]:
    """The schema as one line for each class and each feature, in an order that means something."""
    from google.protobuf import text_format
    from tensorflow_metadata.proto.v0 import schema_pb2

    from components.image_schema_gen.schema import class_names

    def one_line(message: Any) -> str:
        return text_format.MessageToString(message, as_utf8=True, as_one_line=True)

    classes = class_names(schema)
    rest = schema_pb2.Schema()
    rest.CopyFrom(schema)
    domains = [domain for domain in rest.string_domain if list(domain.value) != classes]
    del rest.feature[:], rest.string_domain[:]
    return [
        *(f"class {name}" for name in classes),
        *sorted(f"feature {one_line(feature)}" for feature in schema.feature),
        *sorted(f"domain {one_line(domain)}" for domain in domains),
        *([f"other {one_line(rest)}"] if rest.ByteSize() else []),
    ]


def _changes(old: list[str], new: list[str]) -> Iterator[str]:
    """Lines that go, with -, and that come, with +."""
    for line in difflib.ndiff(old, new):
        if line[0] in "+-":
            yield line
