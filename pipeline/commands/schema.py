"""`perennial schema infer|review|accept`: from what the data looks like to what it must look like.

A curated schema fixes the classes, their order, and what each derived feature may be; a run with
`data.schema_file` stops before training where the data has anything else.
"""

from __future__ import annotations

import difflib
import os
import shlex
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline.errors import ConfigError, DataError, SchemaDiffers
from pipeline.noise import quiet
from pipeline.settings import Config
from pipeline.workspace import Workspace

if TYPE_CHECKING:
    from tensorflow_metadata.proto.v0 import schema_pb2
    from tfx.types import Artifact

STATISTICS_NODES = ("ImageExampleGen", "StatisticsGen")


def candidate_path(config: Config) -> Path:
    """Where `infer` writes, and `review` and `accept` look."""
    return config.workspace / "schema" / "candidate.pbtxt"


def infer(config: Config, log_format: str, *, ingest: bool, fresh: bool) -> int:
    """Write a candidate schema for the data, and say where.

    It keeps what the committed schema says and adds what the data has beyond that; new classes come
    after the known ones, whose ids stay.

    Args:
      config: names workspace, data and committed schema.
      log_format: "rich", "plain" or "json".
      ingest: read the configured data first; otherwise the statistics of the latest run are used.
      fresh: leave the committed schema out of it.

    Raises DataError where the data cannot be used, ConfigError where there are no statistics yet.
    """
    from pipeline.partial import latest_artifact, run_nodes
    from pipeline.run import new_run_id

    if ingest:
        with run_nodes(config, STATISTICS_NODES, log_format) as outputs:
            schema = _infer(config, outputs["StatisticsGen"]["statistics"][0], fresh)
    else:
        with quiet(Workspace(config.workspace).log_path(new_run_id())):
            statistics = latest_artifact(config, "ExampleStatistics")
            if statistics is None:
                raise ConfigError(
                    f"workspace {config.workspace} has no statistics yet: give --data, or run "
                    "`perennial run` first"
                )
            schema = _infer(config, statistics, fresh)
    _write(candidate_path(config), _text(schema))
    print(f"{candidate_path(config)} is written; next: {_command('review', config)}")
    return 0


def _infer(config: Config, statistics: Artifact, fresh: bool) -> schema_pb2.Schema:
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
    """What to type, with the options that it needs wherever the settings came from."""
    options = {"--workspace": config.workspace, "--schema": config.data.schema_file}
    shown = (f" {option} {shlex.quote(str(path))}" for option, path in options.items() if path)
    return f"perennial schema {name}{''.join(shown)}"


def review(config: Config) -> int:
    """Print what the candidate would change in the committed schema.

    Raises SchemaDiffers where it would change anything, ConfigError where one of the two is not
    named or missing.
    """
    candidate, committed = candidate_path(config), _committed(config)
    old = _lines(_read(committed)) if committed.exists() else []
    changes = list(_changes(old, _lines(_read(_existing(candidate)))))
    print("\n".join(changes) or f"{committed}: nothing would change")
    if changes:
        raise SchemaDiffers(
            f"{candidate} differs from {committed}; `{_command('accept', config)}` takes it over"
        )
    return 0


def accept(config: Config) -> int:
    """Make the candidate the committed schema, in one rename.

    Raises ConfigError where the file is not named or cannot be written.
    """
    candidate, committed = _existing(candidate_path(config)), _committed(config)
    _write(committed, _text(_read(candidate)))
    print(f"{committed}: accepted; it counts in runs with data.schema_file = {str(committed)!r}")
    return 0


def _committed(config: Config) -> Path:
    if config.data.schema_file is None:
        raise ConfigError("which schema? give --schema FILE, or set data.schema_file")
    return config.data.schema_file


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


def _write(path: Path, text: str) -> None:
    """Replace `path`, so that a reader sees the old content or the new."""
    partial = path.with_name(f".{path.name}-{uuid.uuid4().hex}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with open(partial, "x", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        partial.replace(path)
    except OSError as error:
        raise ConfigError(f"{str(path)!r} cannot be written: {error.strerror}") from None
    finally:
        partial.unlink(missing_ok=True)
