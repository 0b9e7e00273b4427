"""`perennial monitor`: what is served, compared with what the champion was made of."""

from __future__ import annotations

import datetime
import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from pipeline.commands.options import ConfigOption, SettingsOption, WorkspaceOption, load
from pipeline.commands.traffic import LogsArgument

if TYPE_CHECKING:
    from ml_metadata.proto import metadata_store_pb2

ExamplesOption = Annotated[
    str | None,
    typer.Option(
        metavar="URI", help="Examples artifact to compare with (default: the champion's)."
    ),
]
ModelsOption = Annotated[
    str | None,
    typer.Option(metavar="URI", help="Folder of the versions (default: push.directory)."),
]
UntilOption = Annotated[
    str | None, typer.Option(metavar="TIME", help="End of the window, ISO 8601 (default: now).")
]
DaysOption = Annotated[
    float | None,
    typer.Option(metavar="DAYS", help="Length of the window (default: monitor.window_days)."),
]


def monitor(
    logs: LogsArgument,
    config: ConfigOption = None,
    workspace: WorkspaceOption = None,
    days: DaysOption = None,
    until: UntilOption = None,
    examples: ExamplesOption = None,
    models: ModelsOption = None,
    output: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR", help="For monitor.html and monitor.json (default: WORKSPACE/monitoring)."
        ),
    ] = None,
    journal: Annotated[
        str | None,
        typer.Option(
            metavar="URI",
            help="Journal of the retrainings that are to know (default: WORKSPACE/"
            "retraining.jsonl; on Kubeflow it is below the pipeline root).",
        ),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the report as JSON.")] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Write nothing, and tell nobody.")
    ] = False,
    settings: SettingsOption = None,
) -> None:
    """Compare a window of recorded traffic with the data of the champion.

    Statistics of the images, predicted classes, confidence, entropy and the distance of embeddings,
    for each version and label. Exit code 9 where they have drifted, 12 where there is too little
    traffic to tell. An undisturbed window has a finding with a chance of monitor.false_alarms. What
    is found is told to the webhook, once in a cool-down, and to `perennial retrain`. Where
    PERENNIAL_METADATA_KIND and its like name a database of ML Metadata, as in pods of a run, the
    champion is that of the pipeline on Kubeflow.
    """
    from pipeline.errors import DataLost, DriftFound
    from pipeline.monitoring import figures
    from pipeline.noise import quiet

    loaded = load(config, {"workspace": workspace}, settings).config
    end = instant(until)
    since = end - datetime.timedelta(days=days or loaded.monitor.window_days)
    with quiet(Path(os.devnull)):
        from pipeline.monitoring import monitor as monitoring
        from pipeline.monitoring import page, recorder

        place = monitoring.find_place(loaded, examples, models, journal, shared_metadata())
        report = monitoring.look(loaded, logs, place, since, end)
    print(report.model_dump_json(indent=1) if as_json else "\n".join(monitoring.lines(report)))
    if not dry_run:
        folder = output or place.kept
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "monitor.html").write_text(page.render(loaded.name, report), "utf-8")
        (folder / "monitor.json").write_text(report.model_dump_json(indent=1) + "\n", "utf-8")
        from components.atomic_pusher import storage

        storage.write_text(str(logs / recorder.GAUGES), monitoring.gauges(loaded.name, report))
        for line in monitoring.tell(loaded, place, report, datetime.datetime.now(datetime.UTC)):
            print(line)
    if report.verdict == figures.DRIFTED:
        raise DriftFound("; ".join(map(monitoring.str_of, report.findings)))
    if report.verdict == figures.LITTLE:
        raise DataLost(report.notes[0])


def shared_metadata() -> metadata_store_pb2.ConnectionConfig | None:
    """The database that the environment names, None for none. Raises ConfigError."""
    from kubeflow.metadata import PREFIX, connection_config

    return connection_config(os.environ) if f"{PREFIX}KIND" in os.environ else None


def instant(text: str | None) -> datetime.datetime:
    """A time in UTC; now for None. Raises ConfigError."""
    from pipeline.errors import ConfigError

    if text is None:
        return datetime.datetime.now(datetime.UTC)
    try:
        found = datetime.datetime.fromisoformat(text)
    except ValueError as error:
        raise ConfigError(f"--until {text}: must be like 2026-05-01T12:00") from error
    return found.replace(tzinfo=found.tzinfo or datetime.UTC).astimezone(datetime.UTC)
