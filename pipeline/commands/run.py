"""`perennial run` and `retrain`: the DAG, at once or where there is reason to."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Annotated

import typer

from pipeline.commands.options import (
    DataOptions,
    SettingsOptions,
    TrainingOptions,
    flags_of,
    given,
    with_options,
)

if TYPE_CHECKING:
    from pipeline.config import Loaded

_with_run_options = with_options(data=DataOptions, training=TrainingOptions, common=SettingsOptions)


@_with_run_options
def run(*, data: DataOptions, training: TrainingOptions, common: SettingsOptions) -> None:
    """Train, evaluate and push a model.

    Nodes whose inputs, settings and code have not changed are taken from the cache of the
    workspace.
    """
    loaded = common.load(data, training)

    from pipeline.run import run as run_pipeline

    run_pipeline(loaded.config, loaded.origins, common.log_format.resolved)


@_with_run_options
def retrain(
    force: Annotated[
        bool, typer.Option("--force", help="Retrain even if there is no reason to.")
    ] = False,
    accept_loss: Annotated[
        bool,
        typer.Option(
            "--accept-loss",
            help="Retrain even if images or classes of the last training are missing, or many "
            "labels have changed.",
        ),
    ] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Print the decision and exit.")
    ] = False,
    *,
    data: DataOptions,
    training: TrainingOptions,
    common: SettingsOptions,
) -> None:
    """Retrain if there is a reason to: new images, an old model or drift.

    The command is meant for a schedule, such as cron. The settings and weights of the baseline are
    the defaults. A model that passes the gate is pushed and labelled canary. All spans of the data
    are used unless data.spans is set. Decisions and outcomes are appended to
    WORKSPACE/retraining.jsonl.
    """
    from pipeline.retraining import no_start, prepare, retrain

    def load_with(
        above: Sequence[str] = (), below: Mapping[str, Mapping[str, object]] | None = None
    ) -> Loaded:
        return common.load(data, training, above=above, scheduled=True, below=below)

    shown_as = common.log_format.resolved
    try:
        loaded, notes = prepare.prepare(load_with)
    except Exception as error:
        if not dry_run:
            flags = given(flags_of(data, training, common))
            no_start.report(error, common.config, flags, common.settings or [], shown_as)
        raise
    retrain.retrain(
        loaded.config,
        loaded.origins,
        shown_as,
        force=force,
        dry_run=dry_run,
        accept_loss=accept_loss,
        notes=notes,
    )
