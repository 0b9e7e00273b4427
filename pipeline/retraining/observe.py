"""Gathering of a decision's context, on this machine or in a pipeline's first task on a cluster."""

from __future__ import annotations

import contextlib
import dataclasses
import datetime
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from components import storage
from components.errors import BadDataError
from components.image_example_gen import spans as source_spans
from components.lineage import History, Lineage
from components.reuse import INPUTS_FILE
from pipeline.errors import DataLost, data_error
from pipeline.retraining import drift_report, inventory, journal, losses, notify
from pipeline.retraining.decision import Decision, RetrainContext, decide
from pipeline.retraining.drift_report import Drift
from pipeline.retraining.inventory import DataChanges, Inventory
from pipeline.settings import Config

if TYPE_CHECKING:
    from ml_metadata.proto import metadata_store_pb2

_TRAFFIC_KINDS = ("traffic", "accuracy")
_TRAFFIC_COUNTS = datetime.timedelta(days=7)  # after which findings are out of date


@dataclasses.dataclass(frozen=True)
class DecisionInputs:
    """The locations that a decision reads and writes.

    Attributes:
      connection: to ML Metadata; None before the first run.
      log: path or URI of the journal.
      memo: see `inventory.take`.
      noise: context manager around imports of TensorFlow.
    """

    connection: metadata_store_pb2.ConnectionConfig | None
    log: str
    memo: Path | None = None
    noise: AbstractContextManager[object] = dataclasses.field(
        default_factory=contextlib.nullcontext
    )


def decide_in_cluster(
    config: Config,
    connection: metadata_store_pb2.ConnectionConfig,
    pipeline_root: str,
    *,
    force: bool = False,
) -> Decision:
    """Decide in a run's first task; record the decision in the journal below `pipeline_root`.

    Raises DataError if the data cannot be listed, DataLost if too much of it is missing.
    """
    now = datetime.datetime.now(datetime.UTC)
    place = DecisionInputs(connection, storage.join(pipeline_root, journal.FILE))
    try:
        context = observe(config, place, now, force)
        check_losses(context, config)
    except Exception as error:
        stopped(place, now, error)
        notify.send(config.notify, "failed", config.name, str(error))
        raise
    decision = decide(context, config.retrain)
    record(place, decision, context)
    return decision


def check_losses(context: RetrainContext, config: Config) -> None:
    """Raise DataLost if more data is missing or relabelled than the limits allow."""
    losses, policy = context.losses, config.retrain
    if not losses.is_known and losses.exceed(policy.max_removed):
        raise DataLost(
            f"{config.data.source}: {losses} ({INPUTS_FILE} of its examples); nothing was "
            "retrained; put the workspace's artifacts back, or continue with --accept-loss or "
            "--set retrain.max_removed=1"
        )
    if losses.contradict(policy.max_relabelled):
        raise DataLost(
            f"{config.data.source}: {losses.relabelled_text}; the limits are "
            f"retrain.max_relabelled = {policy.max_relabelled:g} of the images and half of a "
            "class; nothing was retrained; correct the labels, such as the names of folders, or "
            "accept them with --accept-loss or --set retrain.max_relabelled=1"
        )
    if losses.exceed(allowed := policy.max_removed):
        raise DataLost(
            f"{config.data.source}: {losses}; the limit is retrain.max_removed = {allowed:g} of "
            "the images, and no whole class; nothing was retrained; put the data back, such as by "
            "mounting its disk, or accept the loss with --accept-loss or --set "
            "retrain.max_removed=1"
        )


def stopped(place: DecisionInputs, at: datetime.datetime, error: BaseException) -> None:
    """Record an error that stopped a retraining before its run."""
    journal.append(
        place.log,
        "stopped",
        at,
        result=journal.result_of(error),
        exit_code=getattr(error, "exit_code", None),
        detail=str(error) or type(error).__name__,
    )


def record(place: DecisionInputs, decision: Decision, context: RetrainContext) -> None:
    """Record a decision and the alarm that it raises."""
    changes = context.changes
    counts = {
        "new": len(changes.new),
        "changed": len(changes.changed),
        "removed": len(changes.removed),
    }
    counts |= {"gone": context.losses.images, "relabelled": context.losses.relabelled}
    journal.append(place.log, "decision", context.now, **decision.as_json(), **counts)
    if decision.alarm:
        journal.append(place.log, "alarm", context.now)
    for kind in decision.kinds:
        journal.append(place.log, "alarm", context.now, kind=kind)


def observe(
    config: Config, place: DecisionInputs, now: datetime.datetime, forced: bool
) -> RetrainContext:
    """Gather the context of a decision. Raises DataError if the data cannot be listed."""
    entries = journal.read(place.log)
    past = Lineage.at(place.connection).history(config.name) if place.connection else History()
    known = _inputs_of(past)
    is_forgotten = known is None and past.last is not None
    if known is None:
        past = dataclasses.replace(past, last=None)
    current, spans, changes = _changes(config, place, known or {})
    baseline = past.baseline.model if past.baseline else None
    traffic = journal.last_traffic(entries, baseline, now - _TRAFFIC_COUNTS)
    last_reasons = {kind: journal.last_alarm(entries, kind) for kind in _TRAFFIC_KINDS}
    return RetrainContext(
        now=now,
        changes=changes,
        last=past.last,
        baseline=past.baseline,
        unfinished=_cut_off(entries),
        drift=_drift(
            config, place, past, {name: current[name] for name in changes.images}, entries
        ),
        last_alarm=journal.last_alarm(entries),
        traffic={kind: traffic.get(kind, ()) for kind in _TRAFFIC_KINDS},
        last_reasons={kind: at for kind, at in last_reasons.items() if at},
        forced=forced,
        losses=losses.Losses(is_known=False)
        if is_forgotten
        else losses.find(known or {}, current, spans, config.data.options),
    )


def _changes(
    config: Config, place: DecisionInputs, known: Inventory
) -> tuple[Inventory, list[int], DataChanges]:
    data = config.data
    try:
        current, spans = inventory.take(data.source, data.options, place.memo)
    except BadDataError as error:
        raise data_error(error) from error
    filled = {entry.span for entry in current.values()}
    latest = max((entry.span for entry in known.values()), default=-1)
    empty = tuple(number for number in spans if number > latest and number not in filled)
    names = tuple(source_spans.name(number, data.source) for number in empty)
    changes = dataclasses.replace(inventory.compare(known, current), empty_spans=names)
    return current, spans, changes


def _drift(
    config: Config,
    place: DecisionInputs,
    past: History,
    images: Inventory,
    entries: Sequence[Mapping[str, Any]],
) -> Drift | None:
    """Measure the drift of new images, or take it from the journal for the same images."""
    limits, baseline = config.retrain.drift, past.baseline
    if past.last is None or baseline is None or len(images) < limits.min_examples:
        return None
    batch = inventory.digest(images)
    for entry in reversed(entries):
        if entry["event"] == "drift" and entry["batch"] == batch:
            return drift_report.from_json(entry["drift"])
    with place.noise:
        from pipeline.retraining.drift import measure

        found = measure(config.data, images, baseline.examples, baseline.uri, limits)
    if found is not None:
        now = datetime.datetime.now(datetime.UTC)
        drift = dataclasses.asdict(found)
        journal.append(place.log, "drift", now, batch=batch, drift=drift)
    return found


def _inputs_of(past: History) -> Inventory | None:
    """Read the inventory of the last evaluated training; None if it is missing."""
    if past.last is None or not past.last.examples:
        return None
    try:
        return inventory.read_inputs(f"{past.last.examples}/{INPUTS_FILE}")
    except OSError:
        return None


def _cut_off(entries: Sequence[Mapping[str, Any]]) -> str:
    entry = journal.unfinished(entries)
    if entry is None:
        return ""
    if entry["event"] == "started" or entry["result"] == "interrupted":
        return f"run {entry['run']} was cut off, and is continued"
    return f"run {entry['run']} failed, and is tried again"
