"""The command line. Answers --help at once: whatever is heavy is imported by the commands."""

from __future__ import annotations

import contextlib
import datetime
import enum
import gc
import importlib.metadata
import json
import os
import sys
import tempfile
import traceback
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, NoReturn

import typer

from pipeline import examples
from pipeline.commands import schedule
from pipeline.commands.classify import classify
from pipeline.commands.compile import compile_dag
from pipeline.commands.feedback import feedback
from pipeline.commands.gc import collect
from pipeline.commands.models import models, promote, rollback
from pipeline.commands.predict import predict
from pipeline.commands.report import compare, report, runs
from pipeline.commands.report import show as show_run
from pipeline.commands.serve import serve
from pipeline.commands.submit import submit
from pipeline.errors import EXIT_CODES, INTERRUPTED, UNEXPECTED, UserError

if TYPE_CHECKING:
    from pipeline.settings import Config

EPILOG = f"Exit codes: {'; '.join(f'{code} {why}' for code, why in EXIT_CODES.items())}."

app = typer.Typer(
    name="perennial",
    help="Retrains image classifiers: from a folder of images to an evaluated, pushed model.",
    epilog=EPILOG,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
)


class LogFormat(enum.StrEnum):
    """What is printed: `auto` is for people, and plain where standard output is no terminal."""

    AUTO = "auto"
    PLAIN = "plain"
    JSON = "json"


_RECIPE = "auto, or a file of trainer_module/recipes, such as vit (default: vit)."
LogFormatOption = Annotated[
    LogFormat,
    typer.Option(help="auto: live on a terminal, else plain lines; json: one object a line."),
]
SettingsOption = Annotated[
    list[str] | None,
    typer.Option(
        "--set",
        metavar="KEY=VALUE",
        help="Any setting, such as train.batch_size=32; can be repeated.",
    ),
]
# Not a Path: that would take an empty string for the working directory.
WorkspaceOption = Annotated[
    str | None,
    typer.Option(
        metavar="DIR", help="Folder for metadata, artifacts, logs and models (default: workspace)."
    ),
]


@app.command()
def run(
    config: Annotated[
        Path | None, typer.Option(help="TOML file of settings.", metavar="FILE")
    ] = None,
    data: Annotated[
        str | None,
        typer.Option(
            metavar="digits|DIR|...",
            help="digits, a folder with one folder of images per class, a manifest (.csv, .jsonl),"
            " TFRecords, tfds:NAME; {SPAN} or {YYYY}-{MM}-{DD} in a path reads the latest.",
        ),
    ] = None,
    recipe: Annotated[str | None, typer.Option(metavar="NAME", help=_RECIPE)] = None,
    workspace: WorkspaceOption = None,
    epochs: Annotated[
        int | None, typer.Option(metavar="N", help="Passes over the training images.")
    ] = None,
    settings: SettingsOption = None,
    log_format: LogFormatOption = LogFormat.AUTO,
) -> None:
    """Train, evaluate and push a model; work done by earlier runs is not repeated."""
    with _reported(log_format):
        from pipeline.config import load, parse_set

        flags = {
            "data.source": data,
            "train.recipe": recipe,
            "workspace": workspace,
            "train.epochs": epochs,
        }
        overrides = {key: value for key, value in flags.items() if value is not None}
        overrides |= dict(map(parse_set, settings or []))
        loaded = load(config, overrides)

        from pipeline.run import run as run_pipeline

        code = run_pipeline(loaded.config, loaded.origins, shown_as(log_format))
    raise typer.Exit(code)


@app.command()
def retrain(
    config: Annotated[
        Path | None, typer.Option(help="TOML file of settings.", metavar="FILE")
    ] = None,
    data: Annotated[
        str | None,
        typer.Option(
            metavar="DIR|'ROOT/{SPAN}'|...",
            help="As for run; of spans, all are read where data.spans does not say otherwise.",
        ),
    ] = None,
    recipe: Annotated[str | None, typer.Option(metavar="NAME", help=_RECIPE)] = None,
    workspace: WorkspaceOption = None,
    force: Annotated[
        bool, typer.Option("--force", help="Retrain whatever the policy says.")
    ] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Print the decision, and do nothing.")
    ] = False,
    settings: SettingsOption = None,
    log_format: LogFormatOption = LogFormat.AUTO,
) -> None:
    """Retrain where there is reason to: new images, an old model, drift. For a schedule.

    Says what it decides and why. A model that passes the gate is pushed, and labelled canary. What
    was decided when, and what came of it, is in WORKSPACE/retraining.jsonl.
    """
    with _reported(log_format):
        from pipeline.config import load, parse_set

        flags = {"data.source": data, "train.recipe": recipe, "workspace": workspace}
        given = {key: value for key, value in flags.items() if value is not None}
        loaded = load(config, given | dict(map(parse_set, settings or [])), scheduled=True)

        from pipeline.retraining.retrain import retrain as run_retraining

        code = run_retraining(
            loaded.config, loaded.origins, shown_as(log_format), force=force, dry_run=dry_run
        )
    raise typer.Exit(code)


data_app = typer.Typer(help="Look at images before a run does.", no_args_is_help=True)
app.add_typer(data_app, name="data")

ConfigOption = Annotated[Path | None, typer.Option(help="TOML file of settings.", metavar="FILE")]


@data_app.command()
def show(
    source: Annotated[
        str | None, typer.Argument(metavar="DIR", help="Images, as --data of run takes them.")
    ] = None,
    config: ConfigOption = None,
    recipe: Annotated[
        str | None, typer.Option(metavar="NAME", help="Whose augmentation to show, such as vit.")
    ] = None,
    workspace: WorkspaceOption = None,
    output: Annotated[Path, typer.Option(metavar="FILE", help="The page.")] = Path("samples.html"),
    per_class: Annotated[int, typer.Option(min=1, max=100, help="Images of each class.")] = 8,
    variants: Annotated[int, typer.Option(min=1, max=20, help="Augmented versions of each.")] = 2,
    settings: SettingsOption = None,
    log_format: LogFormatOption = LogFormat.AUTO,
) -> None:
    """Write a page with samples of every class, before and after the recipe's augmentation."""
    with _reported(log_format):
        flags = {"data.source": source, "train.recipe": recipe, "workspace": workspace}
        loaded = _load(config, flags, settings)

        from pipeline.commands.data_show import show as show_data

        code = show_data(
            loaded, shown_as(log_format), output, per_class=per_class, variants=variants
        )
    raise typer.Exit(code)


@data_app.command()
def check(
    source: Annotated[
        str | None,
        typer.Argument(
            metavar="DIR",
            help="Folder of class folders, manifest, TFRecords, tfds:NAME or digits.",
        ),
    ] = None,
    config: ConfigOption = None,
    settings: SettingsOption = None,
    quarantine: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE", help="Write the unusable inputs here, one JSON object a line."
        ),
    ] = None,
    log_format: LogFormatOption = LogFormat.AUTO,
) -> None:
    """Read every image as a run would, and account for each; nothing is trained or kept."""
    with _reported(log_format):
        from pipeline.config import load, parse_set

        overrides = {} if source is None else {"data.source": source}
        loaded = load(config, overrides | dict(map(parse_set, settings or [])))

        from pipeline.commands.data import check as check_data

        code = check_data(loaded.config.data, shown_as(log_format), quarantine)
    raise typer.Exit(code)


schema_app = typer.Typer(help="Curate what the data must look like.", no_args_is_help=True)
app.add_typer(schema_app, name="schema")

SchemaOption = Annotated[
    Path | None,
    typer.Option(metavar="FILE", help="The committed schema (default: data.schema_file)."),
]


@schema_app.command()
def infer(
    config: ConfigOption = None,
    data: Annotated[
        str | None,
        typer.Option(metavar="digits|DIR", help="Read these images, not the latest run's."),
    ] = None,
    schema: SchemaOption = None,
    workspace: WorkspaceOption = None,
    fresh: Annotated[
        bool, typer.Option("--fresh", help="Do not start from the committed schema.")
    ] = False,
    settings: SettingsOption = None,
    log_format: LogFormatOption = LogFormat.AUTO,
) -> None:
    """Write a candidate schema: the committed one, widened to what the data has."""
    with _reported(log_format):
        flags = {"data.source": data, "data.schema_file": schema, "workspace": workspace}
        loaded = _load(config, flags, settings)

        from pipeline.commands.schema import infer as infer_schema

        code = infer_schema(loaded, shown_as(log_format), ingest=data is not None, fresh=fresh)
    raise typer.Exit(code)


@schema_app.command()
def review(
    config: ConfigOption = None, schema: SchemaOption = None, workspace: WorkspaceOption = None
) -> None:
    """Print what the candidate would change; exit code 8 where that is anything."""
    with _reported(LogFormat.PLAIN):
        loaded = _load(config, {"data.schema_file": schema, "workspace": workspace}, None)

        from pipeline.commands.schema import review as review_schema

        code = review_schema(loaded)
    raise typer.Exit(code)


@schema_app.command()
def accept(
    config: ConfigOption = None, schema: SchemaOption = None, workspace: WorkspaceOption = None
) -> None:
    """Make the candidate the committed schema."""
    with _reported(LogFormat.PLAIN):
        loaded = _load(config, {"data.schema_file": schema, "workspace": workspace}, None)

        from pipeline.commands.schema import accept as accept_schema

        code = accept_schema(loaded)
    raise typer.Exit(code)


@app.command()
def doctor(workspace: WorkspaceOption = None, log_format: LogFormatOption = LogFormat.AUTO) -> None:
    """Say what this machine has and lacks for a run."""
    with _reported(log_format):
        from pipeline.doctor import main_doctor

        code = main_doctor(Path(workspace or "workspace"), shown_as(log_format))
    raise typer.Exit(code)


@app.command()
def version() -> None:
    """Print the versions of perennial and of what it runs on."""
    for package in ("perennial", "tfx", "tensorflow", "keras"):
        found = "not installed"
        # The container image for CPUs has a TensorFlow without the kernels for GPUs.
        for name in (f"{package}-cpu", package):
            with contextlib.suppress(importlib.metadata.PackageNotFoundError):
                found = importlib.metadata.version(name)
        print(package, found)


def main() -> None:
    """The console command `perennial`."""
    try:
        app()
    finally:
        # What TFX and TensorFlow made would take seconds to collect, and goes with the process.
        gc.freeze()


def _load(path: Path | None, flags: Mapping[str, object], settings: list[str] | None) -> Config:
    """The configuration of all layers; of `flags`, those that were given."""
    from pipeline.config import load, parse_set

    given = {key: str(value) for key, value in flags.items() if value is not None}
    return load(path, given | dict(map(parse_set, settings or []))).config


def shown_as(log_format: LogFormat) -> str:
    """Resolve `auto`: "rich", "plain" or "json"."""
    if log_format is not LogFormat.AUTO:
        return log_format.value
    return "rich" if sys.stdout.isatty() and os.environ.get("TERM") != "dumb" else "plain"


@contextlib.contextmanager
def _reported(log_format: LogFormat) -> Iterator[None]:
    """Turn an exception into one line on stderr and its exit code, never into a traceback."""
    try:
        yield
    except UserError as error:
        _fail(log_format, type(error).__name__, str(error), error.exit_code)
    except KeyboardInterrupt:
        _fail(log_format, "Interrupted", "interrupted; run again to continue", INTERRUPTED)
    except BrokenPipeError:
        raise  # the reader of our output is gone: Typer ends quietly
    except Exception as error:
        name = type(error).__name__
        log = _write_traceback(error)
        _fail(
            log_format, name, f"unexpected {name}: {error}; the traceback is in {log}", UNEXPECTED
        )


def _fail(log_format: LogFormat, kind: str, message: str, exit_code: int) -> NoReturn:
    line = " ".join(message.splitlines())
    if log_format is LogFormat.JSON:
        now = datetime.datetime.now(datetime.UTC).isoformat(timespec="milliseconds")
        event = {"ts": now, "event": "error", "kind": kind, "message": line, "exit_code": exit_code}
        print(json.dumps(event), flush=True)
    print(f"perennial: error: {line}", file=sys.stderr)
    raise typer.Exit(exit_code)


def _write_traceback(error: Exception) -> Path:
    handle, path = tempfile.mkstemp(prefix="perennial-", suffix=".log")
    with open(handle, "w", encoding="utf-8", errors="backslashreplace") as file:
        traceback.print_exception(error, file=file)
    return Path(path)


for _command in (
    *(runs, show_run, compare, report, predict),
    *(serve, models, promote, rollback, classify),
    *(feedback, submit),
):
    app.command()(_reported(LogFormat.PLAIN)(_command))
app.command("gc")(_reported(LogFormat.PLAIN)(collect))
app.command("compile")(_reported(LogFormat.PLAIN)(compile_dag))

schedule_app = typer.Typer(help="Run a pipeline on Kubeflow by the clock.", no_args_is_help=True)
app.add_typer(schedule_app, name="schedule")
schedule_app.command("list")(_reported(LogFormat.PLAIN)(schedule.list_schedules))
for _command in (schedule.create, schedule.pause, schedule.resume, schedule.delete):
    schedule_app.command()(_reported(LogFormat.PLAIN)(_command))
examples.attach(app, EPILOG)


if __name__ == "__main__":
    main()
