"""`perennial run` and `retrain`: the DAG, at once or where there is reason to."""

from __future__ import annotations

from typing import Annotated

import typer

from pipeline.commands.options import (
    ConfigOption,
    LogFormat,
    LogFormatOption,
    RecipeOption,
    SettingsOption,
    WorkspaceOption,
    load,
)


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
    workspace: WorkspaceOption = None,
    epochs: Annotated[
        int | None, typer.Option(metavar="N", help="Passes over the training images.")
    ] = None,
    settings: SettingsOption = None,
    log_format: LogFormatOption = LogFormat.AUTO,
) -> None:
    """Train, evaluate and push a model; work done by earlier runs is not repeated."""
    flags = {
        "data.source": data,
        "train.recipe": recipe,
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
    flags = {"data.source": data, "train.recipe": recipe, "workspace": workspace}
    loaded = load(config, flags, settings, scheduled=True)

    from pipeline.retraining.retrain import retrain as run_retraining

    run_retraining(loaded.config, loaded.origins, log_format.resolved, force=force, dry_run=dry_run)
