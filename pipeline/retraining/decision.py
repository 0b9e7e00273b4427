"""The policy: whether to retrain, with the reasons for people."""

from __future__ import annotations

import dataclasses
import datetime
from collections.abc import Mapping, Sequence
from typing import Any

from components.lineage import TrainedModel
from components.wording import quoted
from pipeline.retraining.drift_report import Drift
from pipeline.retraining.inventory import DataChanges
from pipeline.retraining.losses import Losses
from pipeline.settings.retraining import RetrainConfig

_TRAFFIC = {"traffic": "the traffic has drifted", "accuracy": "the accuracy has fallen"}


@dataclasses.dataclass(frozen=True)
class RetrainContext:
    """The facts that a decision depends on beside the policy.

    Attributes:
      now: UTC.
      changes: how the data differs from that of the last judged training.
      last: the last training that was judged, whatever the verdict.
      baseline: the model that a new one is compared with.
      unfinished: what became of a retraining that was started and has no verdict; "" if there is
        none.
      drift: how the new images differ, where that was measured.
      last_alarm: when drift last raised an alarm.
      traffic: what `perennial monitor` found last, lines by kind: "traffic" or "accuracy".
      last_reasons: when each of these kinds last was a reason.
      forced: retrain in any case (--force).
      losses: what of the data of the last judged training is gone.
      accepted: a person has accepted the losses, so that they are a reason.
    """

    now: datetime.datetime
    changes: DataChanges
    last: TrainedModel | None = None
    baseline: TrainedModel | None = None
    unfinished: str = ""
    drift: Drift | None = None
    last_alarm: datetime.datetime | None = None
    traffic: Mapping[str, Sequence[str]] = dataclasses.field(default_factory=dict)
    last_reasons: Mapping[str, datetime.datetime] = dataclasses.field(default_factory=dict)
    forced: bool = False
    losses: Losses = dataclasses.field(default_factory=Losses)
    accepted: bool = False


@dataclasses.dataclass(frozen=True)
class Decision:
    """Whether to retrain, whether to raise an alarm about drift, and a line for each reason.

    kinds: of the traffic's findings that are among the reasons.
    """

    retrain: bool
    alarm: bool
    reasons: tuple[str, ...]
    kinds: tuple[str, ...] = ()

    def __str__(self) -> str:
        return f"{'Retraining' if self.retrain else 'Nothing to do'}: {'; '.join(self.reasons)}"

    def as_json(self) -> dict[str, Any]:
        return dataclasses.asdict(self)


def decide(context: RetrainContext, policy: RetrainConfig) -> Decision:
    """Apply the policy. One reason for a retraining is enough."""
    found, against = _reasons(context, policy)
    alarm = False
    if context.drift and context.drift.findings:
        told = f"drift: {'; '.join(context.drift.findings)}"
        quiet_until = _cool_down_end(context, policy)
        if quiet_until and context.now < quiet_until:
            against.append(
                f"{told}; no alarm before {_day(quiet_until)}, because the last one is less than "
                f"retrain.drift.cooldown_days = {policy.drift.cooldown_days:g} old"
            )
        else:
            alarm = True
            if policy.drift.retrains:
                found.append(told)
            else:
                against.append(f"{told}; an alarm only, as retrain.drift.retrains is false")
    kinds = _of_traffic(context, policy, found, against)
    return Decision(bool(found), alarm, tuple([*found, *against] if found else against), kinds)


def _of_traffic(
    context: RetrainContext, policy: RetrainConfig, found: list[str], against: list[str]
) -> tuple[str, ...]:
    """Add the findings in the traffic to the reasons; return the kinds that are reasons for."""
    kinds = []
    for kind, lines in context.traffic.items():
        if not lines:
            continue
        reason = policy.accuracy if kind == "accuracy" else policy.traffic
        told = f"{_TRAFFIC[kind]}: {'; '.join(lines)}"
        last = context.last_reasons.get(kind)
        quiet_until = last + datetime.timedelta(days=reason.cooldown_days) if last else None
        if not reason.retrains:
            against.append(f"{told}; no reason, as retrain.{kind}.retrains is false")
        elif quiet_until and context.now < quiet_until:
            against.append(
                f"{told}; no reason before {_day(quiet_until)}, because it was one less than "
                f"retrain.{kind}.cooldown_days = {reason.cooldown_days:g} ago"
            )
        elif not context.changes.count:
            against.append(
                f"{told}; but without new labelled images a training would make the same model: "
                "label some of the traffic, see `perennial ask`"
            )
        else:
            found.append(told)
            kinds.append(kind)
    return tuple(kinds)


def _reasons(context: RetrainContext, policy: RetrainConfig) -> tuple[list[str], list[str]]:
    """Return the reasons for a retraining and those against it."""
    changes, last = context.changes, context.last
    found: list[str] = []
    against: list[str] = []
    if context.forced:
        found.append("it is forced")
    if context.unfinished:
        found.append(context.unfinished)
    if context.accepted:
        found.append(f"{context.losses}, which is accepted")
    elif not context.losses.is_known:
        found.append(str(context.losses))
    against += [f"span {name} holds nothing" for name in changes.empty_spans]
    if renamed := context.losses.renamed:
        against.append(f"of {quoted(renamed)} there is no image, as they are labelled otherwise")
    if last is None:
        if context.losses.is_known:
            found.append("no model has been judged yet")
        return found, against
    if not changes.count:
        against.append(f"the data is as it was at the training of {_day(last.made)}")
        return found, against
    told = f"{changes} since the training of {_day(last.made)}"
    minimum = policy.min_new_examples
    if changes.count >= minimum:
        found.append(f"{told}, and {minimum:,} {'is' if minimum == 1 else 'are'} enough")
    elif (age := _age(context)) is not None and age >= (policy.max_age_days or age + 1):
        found.append(
            f"{told}, and the baseline is {age:.1f} days old, of retrain.max_age_days = "
            f"{policy.max_age_days:g}"
        )
    else:
        against.append(f"{told}, fewer than retrain.min_new_examples = {minimum:,}")
        if age is not None and policy.max_age_days:
            against.append(
                f"the baseline is {age:.1f} days old, younger than retrain.max_age_days = "
                f"{policy.max_age_days:g}"
            )
    return found, against


def _age(context: RetrainContext) -> float | None:
    """Return the days since the baseline was trained, or last won against another model."""
    if context.baseline is None or context.last is None:
        return None
    since = max(context.baseline.made, context.last.made)
    return (context.now - since).total_seconds() / 86400


def _cool_down_end(context: RetrainContext, policy: RetrainConfig) -> datetime.datetime | None:
    if context.last_alarm is None:
        return None
    return context.last_alarm + datetime.timedelta(days=policy.drift.cooldown_days)


def _day(time: datetime.datetime) -> str:
    return f"{time:%Y-%m-%d %H:%M} UTC"
