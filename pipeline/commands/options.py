"""Options that several commands have, and the configuration that they add up to."""

from __future__ import annotations

import enum
import os
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from pipeline.config import Loaded


class LogFormat(enum.StrEnum):
    """What is printed: `auto` is for people, and plain where standard output is no terminal."""

    AUTO = "auto"
    PLAIN = "plain"
    JSON = "json"

    @property
    def resolved(self) -> str:
        """As "rich", "plain" or "json"."""
        if self is not LogFormat.AUTO:
            return self.value
        return "rich" if sys.stdout.isatty() and os.environ.get("TERM") != "dumb" else "plain"


LogFormatOption = Annotated[
    LogFormat,
    typer.Option(help="auto: live on a terminal, else plain lines; json: one object a line."),
]
JsonLinesOption = Annotated[bool, typer.Option("--json", help="Print one JSON object a line.")]
ConfigOption = Annotated[Path | None, typer.Option(help="TOML file of settings.", metavar="FILE")]
SettingsOption = Annotated[
    list[str] | None,
    typer.Option(
        "--set",
        metavar="KEY=VALUE",
        help="Any setting, such as train.batch_size=32; can be repeated.",
    ),
]
RecipeOption = Annotated[
    str | None,
    typer.Option(
        metavar="NAME",
        help="auto, or a file of trainer_module/recipes, such as vit (default: vit).",
    ),
]
PresetOption = Annotated[
    str | None,
    typer.Option(
        metavar="NAME",
        help="All values of a published document, such as keras-bit; see docs/results.md.",
    ),
]
# Not a Path: that would take an empty string for the working directory.
WorkspaceOption = Annotated[
    str | None,
    typer.Option(
        metavar="DIR", help="Folder for metadata, artifacts, logs and models (default: workspace)."
    ),
]
# For commands that look at what runs have left, and need no configuration.
RunsOption = Annotated[Path, typer.Option("--workspace", help="Folder of the runs.", metavar="DIR")]
RUNS = Path("workspace")


def load(
    file: Path | None,
    flags: Mapping[str, object],
    settings: list[str] | None,
    *,
    scheduled: bool = False,
    below: Mapping[str, Mapping[str, object]] | None = None,
) -> Loaded:
    """The configuration of all layers; of `flags`, by dotted key, those that were given.

    `scheduled` and `below` as for `config.load`. Raises ConfigError.
    """
    from pipeline import config

    overrides = given(flags) | dict(map(config.parse_set, settings or []))
    return config.load(file, overrides, scheduled=scheduled, below=below)


def given(flags: Mapping[str, object]) -> dict[str, object]:
    """Those of `flags`, by dotted key, that were given."""
    return {
        key: str(value) if isinstance(value, Path) else value
        for key, value in flags.items()
        if value is not None
    }
