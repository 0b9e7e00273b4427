"""Options that several commands share, as blocks that a command takes in place of a parameter."""

from __future__ import annotations

import dataclasses
import enum
import functools
import inspect
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Protocol

import typer

from pipeline import config
from pipeline.config import Loaded
from pipeline.errors import ConfigError


class LogFormat(enum.StrEnum):
    """Form of a command's output: `auto` is `plain` where standard output is not a terminal."""

    AUTO = "auto"
    PLAIN = "plain"
    JSON = "json"

    @property
    def resolved(self) -> str:
        """The form to use: "rich", "plain" or "json"."""
        if self is not LogFormat.AUTO:
            return self.value
        return "rich" if sys.stdout.isatty() and os.environ.get("TERM") != "dumb" else "plain"


LogFormatOption = Annotated[
    LogFormat,
    typer.Option(
        help="Output: a live view on a terminal and plain lines elsewhere (auto), plain lines, or "
        "one JSON object per line."
    ),
]
JsonLinesOption = Annotated[bool, typer.Option("--json", help="Print one JSON object per line.")]
ConfigOption = Annotated[Path | None, typer.Option(help="TOML file of settings.", metavar="FILE")]
SettingsOption = Annotated[
    list[str] | None,
    typer.Option(
        "--set",
        metavar="KEY=VALUE",
        help="Override a setting, such as train.batch_size=32. Repeatable.",
    ),
]
# Not a Path: that would take an empty string for the working directory.
WorkspaceOption = Annotated[
    str | None,
    typer.Option(
        metavar="DIR",
        help="Folder for metadata, artifacts, logs and models. Default: workspace.",
    ),
]
# For commands that look at what runs have left, and need no configuration.
RunsOption = Annotated[
    Path, typer.Option("--workspace", help="Workspace of the runs.", metavar="DIR")
]
RUNS = Path("workspace")

_DATA_HELP = (
    "Images: a folder with one subfolder per class, a manifest (.csv, .tsv, .jsonl, .parquet), "
    "TFRecords, tfds:NAME, a gs:// or s3:// URI, or digits. A path with {SPAN} or "
    "{YYYY}-{MM}-{DD} names the spans of a growing data set."
)


class Block(Protocol):
    """Options that stand for settings."""

    @property
    def flags(self) -> dict[str, object]:
        """Values by the dotted key of their setting; None: not given."""


@dataclasses.dataclass(frozen=True)
class DataOptions:
    """The data, as an argument or an option."""

    source: Annotated[
        str | None, typer.Argument(metavar="DATA", help="Same as --data.", show_default=False)
    ] = None
    data: Annotated[str | None, typer.Option(metavar="DATA", help=_DATA_HELP)] = None

    def __post_init__(self) -> None:
        """Raise ConfigError for two different sources."""
        if self.source is not None and self.data is not None and self.source != self.data:
            raise ConfigError(
                f"{self.source!r} and --data {self.data!r} are different data; give one of them"
            )

    @property
    def flags(self) -> dict[str, object]:
        return {"data.source": self.data if self.source is None else self.source}


@dataclasses.dataclass(frozen=True)
class RecipeOptions:
    """The recipe, by its name or by a preset."""

    recipe: Annotated[
        str | None,
        typer.Option(
            metavar="NAME",
            help="Recipe: vit, vit_finetune, bit, fixres, transfer, mobilenet, one of your own, or "
            "auto to choose by the data and the machine. Default: vit.",
        ),
    ] = None
    preset: Annotated[
        str | None,
        typer.Option(
            metavar="NAME",
            help="Preset: all values of a published document, such as keras-bit.",
        ),
    ] = None

    @property
    def flags(self) -> dict[str, object]:
        return {"train.recipe": self.recipe, "train.preset": self.preset}


@dataclasses.dataclass(frozen=True)
class TrainingOptions(RecipeOptions):
    """The recipe and the length of the training."""

    epochs: Annotated[
        int | None, typer.Option(metavar="N", help="Passes over the training images.")
    ] = None

    @property
    def flags(self) -> dict[str, object]:
        return {**super().flags, "train.epochs": self.epochs}


@dataclasses.dataclass(frozen=True)
class SettingsOptions:
    """The workspace, the settings without an option of their own, and the form of the output."""

    workspace: WorkspaceOption = None
    config: ConfigOption = None
    settings: SettingsOption = None
    log_format: LogFormatOption = LogFormat.AUTO

    @property
    def flags(self) -> dict[str, object]:
        return {"workspace": self.workspace}

    def load(
        self,
        *blocks: Block,
        above: Sequence[str] = (),
        scheduled: bool = False,
        below: Mapping[str, Mapping[str, object]] | None = None,
    ) -> Loaded:
        """Load the configuration, with the settings of `blocks` and `above` as further `--set`.

        `scheduled` and `below` as for `config.load`. Raises ConfigError.
        """
        settings = [*(self.settings or []), *above]
        flags = flags_of(self, *blocks)
        return load(self.config, flags, settings, scheduled=scheduled, below=below)


def flags_of(*blocks: Block) -> dict[str, object]:
    """Collect the settings of several blocks, by dotted key; None: not given."""
    return {key: value for block in blocks for key, value in block.flags.items()}


def with_options(**blocks: type[Any]) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Give a command the options of dataclasses, each in place of the parameter of that name."""

    def give(command: Callable[..., None]) -> Callable[..., None]:
        options = {name: _options(block) for name, block in blocks.items()}
        own = inspect.signature(command, eval_str=True)
        parameters = [each for name, each in own.parameters.items() if name not in blocks]

        @functools.wraps(command)
        def with_blocks(*args: Any, **kwargs: Any) -> None:
            made = {
                name: blocks[name](**{each.name: kwargs.pop(each.name) for each in found})
                for name, found in options.items()
            }
            command(*args, **made, **kwargs)

        parameters += [each for found in options.values() for each in found]
        # Typer looks at both.
        with_blocks.__signature__ = own.replace(parameters=parameters)  # type: ignore[attr-defined]
        with_blocks.__annotations__ = {each.name: each.annotation for each in parameters}
        return with_blocks

    return give


def _options(block: type[Any]) -> list[inspect.Parameter]:
    # Of a dataclass that extends another, the annotations are in both.
    hints: dict[str, Any] = {}
    for each in reversed(block.__mro__):
        hints |= inspect.get_annotations(each, eval_str=True)
    return [
        inspect.Parameter(
            field.name,
            inspect.Parameter.KEYWORD_ONLY,
            default=field.default,
            annotation=hints[field.name],
        )
        for field in dataclasses.fields(block)
    ]


def load(
    file: Path | None,
    flags: Mapping[str, object],
    settings: list[str] | None,
    *,
    scheduled: bool = False,
    below: Mapping[str, Mapping[str, object]] | None = None,
) -> Loaded:
    """Load the configuration of all layers; of `flags`, by dotted key, those that were given.

    `scheduled` and `below` as for `config.load`. Raises ConfigError.
    """
    overrides = given(flags) | dict(map(config.parse_set, settings or []))
    return config.load(file, overrides, scheduled=scheduled, below=below)


def given(flags: Mapping[str, object]) -> dict[str, object]:
    """Return those of `flags`, by dotted key, that were given."""
    return {
        key: str(value) if isinstance(value, Path) else value
        for key, value in flags.items()
        if value is not None
    }
