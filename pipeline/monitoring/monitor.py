"""Compare a window of traffic with the baseline, and report the findings."""

from __future__ import annotations

import dataclasses
import datetime
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from components import lineage, storage
from components.errors import DamagedFileError
from components.lineage import Lineage
from pipeline.errors import ConfigError
from pipeline.monitoring import logs
from pipeline.monitoring.baseline import Answers, Baseline, Model
from pipeline.monitoring.compare import ACCURACY, compare
from pipeline.monitoring.figures import DRIFTED, Report
from pipeline.monitoring.rows import OK, Row
from pipeline.retraining import journal, notify
from pipeline.settings import Config
from pipeline.workspace import Workspace

if TYPE_CHECKING:
    from ml_metadata.proto import metadata_store_pb2

FOLDER = "monitoring"  # in a workspace: what is known of the baseline, and the last page
_HELD = 2  # versions whose models are in memory at a time


@dataclasses.dataclass(frozen=True)
class MonitorInputs:
    """The locations that monitoring reads and writes.

    Attributes:
      examples: URI of the baseline's Examples artifact.
      models: path or URI of the folder of the versions.
      baseline: id of the model in ML Metadata; None if unknown.
      journal: path or URI of the journal of retrainings, to which findings are added.
      kept: folder for cached results and the last page.
    """

    examples: str
    models: str
    baseline: int | None
    journal: str
    kept: Path


def find_inputs(
    config: Config,
    examples: str | None = None,
    models: str | None = None,
    log: str | None = None,
    connection: metadata_store_pb2.ConnectionConfig | None = None,
) -> MonitorInputs:
    """Find the locations, by default the workspace's. Raises ConfigError without a baseline."""
    workspace = Workspace.open(config.workspace)
    found = None
    if connection is None and workspace.metadata.exists():
        connection = workspace.connection()
    if connection is not None:
        found = Lineage.at(connection).history(config.name).baseline
    if examples is None and (found is None or not found.examples):
        raise ConfigError(
            f"workspace {workspace.root}: there is no baseline called {config.name} to compare "
            "with; name another --workspace, or the examples with --examples"
        )
    return MonitorInputs(
        examples=examples or (found.examples if found else ""),
        models=models or config.push_directory,
        baseline=found.model if found else None,
        journal=log or str(workspace.root / journal.FILE),
        kept=workspace.root / FOLDER,
    )


def labelled_images(inputs: MonitorInputs) -> set[str]:
    """Return the SHA-256 of the baseline's images; empty if their list is missing."""
    try:
        return lineage.contents(inputs.examples, "train", "eval", "test")
    except OSError:
        return set()


class Models:
    """The served versions, loaded on demand."""

    def __init__(self, inputs: MonitorInputs) -> None:
        """Prepare; nothing is loaded yet."""
        self._inputs = inputs
        self._baseline = Baseline(inputs.examples, inputs.kept)
        self._loaded: dict[int, Model] = {}

    def baseline(self) -> Baseline:
        return self._baseline

    def answers(self, version: int) -> Answers | str:
        """Return a version's predictions for the held-out images, or the reason for having none."""
        location = storage.join(self._inputs.models, str(version))
        try:
            return self._baseline.answers(location)
        except (OSError, DamagedFileError, KeyError) as error:
            return f"{location} cannot be loaded: {error}"

    def embed(self, version: int, rows: Sequence[Row]) -> np.ndarray | None:
        """Return embeddings, float [N, D], recorded or computed; None if neither is possible."""
        if all(len(row.embedding) for row in rows):
            return np.stack([np.asarray(row.embedding) for row in rows])
        if not all(row.image for row in rows):
            return None
        if version not in self._loaded:
            while len(self._loaded) >= _HELD:
                self._loaded.pop(next(iter(self._loaded)))
            try:
                self._loaded[version] = Model(storage.join(self._inputs.models, str(version)))
            except (OSError, DamagedFileError):
                return None  # removed since its answers were computed
        found = self._loaded[version].embeddings([row.image for row in rows])
        return found if found.shape[1] else None


def compare_window(
    config: Config,
    folder: Path,
    inputs: MonitorInputs,
    since: datetime.datetime,
    until: datetime.datetime,
) -> Report:
    """Compare the traffic of a window with the baseline's data.

    Raises ConfigError if there are no logs, DataError if the examples cannot be read.
    """
    read = logs.read(folder, since, until)
    rows = [row for row in read.rows if row.model == config.name]
    models = Models(inputs)
    known = {
        version: models.answers(version)
        for version in sorted({row.version for row in rows if row.status == OK})
    }
    report = compare(
        rows, since, until, models.baseline().images(), known, models.embed, config.monitor
    )
    others = Counter(row.model for row in read.rows if row.model != config.name)
    notes = [f"{count:,} records are of the model {name}" for name, count in others.items()]
    return report.model_copy(update={"notes": [*report.notes, *notes, *read.damaged]})


def record_findings(
    config: Config, inputs: MonitorInputs, report: Report, now: datetime.datetime
) -> list[str]:
    """Add the findings to the journal, for `retrain`; notify the webhook once in a cool-down.

    Returns a line for each failure.
    """
    entries = journal.read(inputs.journal)
    texts = {
        kind: [describe(check) for check in checks] for kind, checks in _by_kind(report).items()
    }
    fresh = [
        kind
        for kind, found in texts.items()
        if found
        and not _was_notified(entries, kind, now, getattr(config.retrain, kind).cooldown_days)
    ]
    lines = []
    if fresh:
        text = f"traffic since {report.since}: " + "; ".join(
            each for kind in fresh for each in texts[kind]
        )
        if failure := notify.send(config.notify, "drift", config.name, text):
            lines.append(failure)
    if not storage.is_uri(inputs.journal):
        Path(inputs.journal).parent.mkdir(parents=True, exist_ok=True)
    journal.append(
        inputs.journal,
        "traffic",
        now,
        verdict=report.verdict,
        images=report.images,
        since=report.since,
        until=report.until,
        baseline=inputs.baseline,
        told=fresh,
        **texts,
    )
    return lines


def _by_kind(report: Report) -> dict[str, list[Any]]:
    """Group the findings by the section of `retrain` that configures the reaction."""
    return {
        "traffic": [each for each in report.findings if each.name != ACCURACY],
        "accuracy": [each for each in report.findings if each.name == ACCURACY],
    }


def _was_notified(
    entries: Sequence[Mapping[str, Any]], kind: str, now: datetime.datetime, days: float
) -> bool:
    """Return whether the webhook was notified of this kind less than `days` ago."""
    oldest = now - datetime.timedelta(days=days)
    notified = (entry for entry in entries if entry["event"] == "traffic" and kind in entry["told"])
    return any(datetime.datetime.fromisoformat(entry["at"]) > oldest for entry in notified)


def describe(check: Any) -> str:
    """Describe a finding in a line."""
    return (
        f"{check.name} of {check.about}: {check.text} (distance {check.effect:.2f} in "
        f"{check.images:,} images, p = {check.p:.2g})"
    )


def as_lines(report: Report) -> list[str]:
    """Format the report as lines of text, titles in the first column."""
    window = f"{_moment(report.since)} to {_moment(report.until)}"
    found = [
        ("Traffic", f"{window}: {report.images:,} different images, {report.repeats:,} came again"),
        ("Compared with", f"{report.reference:,} images of the baseline's data"),
    ]
    if report.detectable is not None:
        found.append(
            (
                "Tests",
                f"{len(report.checks)}; a finding in at most {report.false_alarms:.1%} of "
                f"undisturbed windows; a distance of {report.detectable:.2f} is found as often as "
                "not",
            )
        )
    verdict = "Drifted" if report.verdict == DRIFTED else report.verdict.capitalize()
    texts = [describe(check) for check in report.findings] or report.notes[:1] or ["nothing found"]
    found += [(verdict if not place else "", text) for place, text in enumerate(texts)]
    for group in report.groups:
        parts = [f"{group.images:,} images, {group.refused:,} refused"]
        if group.confidence:
            parts.append(f"confidence {_estimate(group.confidence)}")
        if group.accuracy and group.expected:
            parts.append(
                f"accuracy {_estimate(group.accuracy)} by confidence, {_estimate(group.expected)} "
                "on held-out images"
            )
        parts += [group.note] if group.note else []
        found.append((f"Version {group.name}", "; ".join(parts)))
    for pair in report.pairs:
        found.append(
            (
                "Disagreement",
                f"{pair.first} and {pair.second}: {_estimate(pair.disagree)} of {pair.images:,} "
                "images",
            )
        )
    used = set(texts)
    found += [("Note", note) for note in report.notes if note not in used]
    return [f"{title:14} {text}" for title, text in found]


def _estimate(value: Any) -> str:
    if value.value is None:
        return "unknown"
    if value.low is None:
        return f"{value.value:.1%}"
    return f"{value.value:.1%} ({value.low:.1%} to {value.high:.1%})"


def _moment(text: str) -> str:
    return f"{text[:16].replace('T', ' ')} UTC"
