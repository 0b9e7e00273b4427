"""`perennial monitor`: recorded traffic, compared with the data of the baseline."""

from __future__ import annotations

import dataclasses
import datetime
import os
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from components import storage
from pipeline.commands.options import ConfigOption, SettingsOption, WorkspaceOption, load
from pipeline.commands.traffic import LogsArgument
from pipeline.errors import ConfigError, DataLost, DriftFound
from pipeline.noise import redirect_output
from pipeline.output import announce

if TYPE_CHECKING:
    from pipeline.monitoring.monitor import MonitorInputs
    from pipeline.settings import Config

ExamplesOption = Annotated[
    str | None,
    typer.Option(metavar="URI", help="Examples artifact to compare with. Default: the baseline's."),
]
ModelsOption = Annotated[
    str | None,
    typer.Option(metavar="URI", help="Folder of the versions. Default: push.directory."),
]
UntilOption = Annotated[
    str | None, typer.Option(metavar="TIME", help="End of the window, in ISO 8601. Default: now.")
]
DaysOption = Annotated[
    float | None,
    typer.Option(metavar="DAYS", help="Length of the window. Default: monitor.window_days."),
]
OutputOption = Annotated[
    Path | None,
    typer.Option(
        metavar="DIR",
        help="Folder for monitor.html and monitor.json. Default: WORKSPACE/monitoring.",
    ),
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print the report as JSON.")]
DryRunOption = Annotated[
    bool, typer.Option("--dry-run", help="Write no files and send no messages.")
]


def monitor(
    logs: LogsArgument,
    config: ConfigOption = None,
    workspace: WorkspaceOption = None,
    days: DaysOption = None,
    until: UntilOption = None,
    examples: ExamplesOption = None,
    models: ModelsOption = None,
    output: OutputOption = None,
    as_json: JsonOption = False,
    dry_run: DryRunOption = False,
    settings: SettingsOption = None,
) -> None:
    """Compare a window of recorded traffic with the data of the baseline.

    The command compares statistics of the images, predicted classes, confidence, entropy and the
    distance of embeddings, for each version and label. The exit code is 9 if they have drifted, and
    12 if there is too little traffic to compare. Without drift, at most the share
    monitor.false_alarms of the windows has a finding. Findings are sent to the webhook, once per
    cool-down, and recorded for `perennial retrain`.
    """
    loaded = load(config, {"workspace": workspace}, settings).config
    window = Window(logs, days, until, output, as_json, dry_run)
    window.compare(loaded, examples=examples, models=models)


@dataclasses.dataclass(frozen=True)
class Window:
    """The window to compare, and the outputs: the options of the command."""

    logs: Path
    days: float | None
    until: str | None
    output: Path | None
    as_json: bool
    dry_run: bool

    def compare(
        self,
        config: Config,
        find: Callable[[], MonitorInputs] | None = None,
        *,
        examples: str | None = None,
        models: str | None = None,
    ) -> None:
        """Compare, print, write and notify. Raises DriftFound, DataLost, ConfigError, DataError.

        find: returns the inputs; without it, `monitor.find_inputs` does, by examples and models.
        """
        end = instant(self.until)
        since = end - datetime.timedelta(days=self.days or config.monitor.window_days)
        announce(f"Comparing the traffic in {self.logs} ...")
        with redirect_output(Path(os.devnull)):
            from pipeline.monitoring import figures, gauges, monitor, page

            place = find() if find else monitor.find_inputs(config, examples, models)
            report = monitor.compare_window(config, self.logs, place, since, end)
        as_json = report.model_dump_json(indent=1)
        print(as_json if self.as_json else "\n".join(monitor.as_lines(report)))
        if not self.dry_run:
            folder = self.output or place.kept
            folder.mkdir(parents=True, exist_ok=True)
            (folder / "monitor.html").write_text(page.render(config.name, report), "utf-8")
            (folder / "monitor.json").write_text(f"{as_json}\n", "utf-8")
            values = gauges.render(config.name, report)
            storage.write_text(str(self.logs / gauges.FILE), values)
            now = datetime.datetime.now(datetime.UTC)
            for line in monitor.record_findings(config, place, report, now):
                print(line)
        if report.verdict == figures.DRIFTED:
            raise DriftFound("; ".join(map(monitor.describe, report.findings)))
        if report.verdict == figures.LITTLE:
            raise DataLost(report.notes[0])


def instant(text: str | None) -> datetime.datetime:
    """Parse a time, as UTC; None is now. Raises ConfigError."""
    if text is None:
        return datetime.datetime.now(datetime.UTC)
    try:
        found = datetime.datetime.fromisoformat(text)
    except ValueError as error:
        raise ConfigError(f"--until {text}: must be like 2026-05-01T12:00") from error
    return found.replace(tzinfo=found.tzinfo or datetime.UTC).astimezone(datetime.UTC)
