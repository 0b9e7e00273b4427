"""`perennial run` and `retrain`: the DAG, at once or where there is reason to."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Annotated

import typer

from pipeline.commands.options import (
    ConfigOption,
    LogFormat,
    LogFormatOption,
    PresetOption,
    RecipeOption,
    SettingsOption,
    WorkspaceOption,
    given,
    load,
)

if TYPE_CHECKING:
    from pipeline.config import Loaded

EpochsOption = Annotated[
    int | None, typer.Option(metavar="N", help="Passes over the training images.")
]


def run(
    config: ConfigOption = None,
    data: Annotated[
        str | None,
        typer.Option(
            metavar="digits|DIR|...",
            help="digits, a folder with one folder of images per class, a manifest (.csv, .jsonl),"
            " TFRecords, tfds:NAME; {SPAN} or {YYYY}-{MM}-{DD} in a path reads the latest.",
        ),
    ] = None,
    recipe: RecipeOption = None,
    preset: PresetOption = None,
    workspace: WorkspaceOption = None,
    epochs: EpochsOption = None,
    settings: SettingsOption = None,
    log_format: LogFormatOption = LogFormat.AUTO,
) -> None:
    """Train, evaluate and push a model; work done by earlier runs is not repeated."""
    flags = {
        "data.source": data,
        "train.recipe": recipe,
        "train.preset": preset,
        "workspace": workspace,
        "train.epochs": epochs,
    }
    loaded = load(config, flags, settings)

    from pipeline.run import run as run_pipeline

    run_pipeline(loaded.config, loaded.origins, log_format.resolved)


def retrain(
    config: ConfigOption = None,
    data: Annotated[
        str | None,
        typer.Option(
            metavar="DIR|'ROOT/{SPAN}'|...",
            help="As for run; of spans, all are read where data.spans does not say otherwise.",
        ),
    ] = None,
    recipe: RecipeOption = None,
    preset: PresetOption = None,
    workspace: WorkspaceOption = None,
    epochs: EpochsOption = None,
    force: Annotated[
        bool, typer.Option("--force", help="Retrain whatever the policy says.")
    ] = False,
    accept_loss: Annotated[
        bool,
        typer.Option(
            "--accept-loss",
            help="Retrain although images or classes of the last training are gone, or many have "
            "other labels.",
        ),
    ] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Print the decision, and do nothing.")
    ] = False,
    settings: SettingsOption = None,
    log_format: LogFormatOption = LogFormat.AUTO,
) -> None:
    """Retrain where there is reason to: new images, an old model, drift. For a schedule.

    Says what it decides and why. Starts from the baseline's settings and weights, under what is
    given here. A model that passes the gate is pushed, and labelled canary. What was decided when,
    and what came of it, is in WORKSPACE/retraining.jsonl. Exit code 12 where images or classes are
    gone, or many have other labels.
    """
    flags = {
        "data.source": data,
        "train.recipe": recipe,
        "train.preset": preset,
        "workspace": workspace,
        "train.epochs": epochs,
    }

    from pipeline.retraining.no_start import tell
    from pipeline.retraining.prepare import prepare
    from pipeline.retraining.retrain import retrain as run_retraining

    def load_with(
        above: Sequence[str] = (), below: Mapping[str, Mapping[str, object]] | None = None
    ) -> Loaded:
        return load(config, flags, [*(settings or []), *above], scheduled=True, below=below)

    try:
        loaded, notes = prepare(load_with)
    except Exception as error:
        if not dry_run:
            tell(error, config, given(flags), settings or [], log_format.resolved)
        raise
    run_retraining(
        loaded.config,
        loaded.origins,
        log_format.resolved,
        force=force,
        dry_run=dry_run,
        accept_loss=accept_loss,
        notes=notes,
    )
