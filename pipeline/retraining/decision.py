"""The policy: whether to retrain, and why."""

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
    """The facts that a decision depends on, besides the policy.

    Attributes:
      now: UTC.
      changes: differences of the data from that of the last evaluated training.
      last: the last training that was evaluated, blessed or not.
      baseline: the model that a new one is compared with.
      unfinished: how a started retraining without a verdict ended; "" if there is none.
      drift: drift of the new images, if it was measured.
      last_alarm: time of the last alarm about drift.
      traffic: last findings of `perennial monitor`, lines by kind: "traffic" or "accuracy".
      last_reasons: time at which each of these kinds last was a reason.
      forced: whether to retrain without a reason (--force).
      losses: images of the last evaluated training that are missing.
      accepted: whether the losses were accepted (--accept-loss), which makes them a reason.
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
    """Whether to retrain, whether to raise an alarm about drift, and the reasons in lines.

    kinds: kinds of traffic findings among the reasons.
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
    """Apply the policy: retrain if there is at least one reason."""
    found, against = _reasons(context, policy)
    alarm = False
    if context.drift and context.drift.findings:
        text = f"drift: {'; '.join(context.drift.findings)}"
        quiet_until = _cool_down_end(context, policy)
        if quiet_until and context.now < quiet_until:
            against.append(
                f"{text}; no alarm before {_day(quiet_until)}, because the last one is less than "
                f"retrain.drift.cooldown_days = {policy.drift.cooldown_days:g} old"
            )
        else:
            alarm = True
            if policy.drift.retrains:
                found.append(text)
            else:
                against.append(f"{text}; an alarm only, as retrain.drift.retrains is false")
    kinds = _of_traffic(context, policy, found, against)
    return Decision(bool(found), alarm, tuple([*found, *against] if found else against), kinds)


def _of_traffic(
    context: RetrainContext, policy: RetrainConfig, found: list[str], against: list[str]
) -> tuple[str, ...]:
    """Add the traffic findings to the reasons; return the kinds that are reasons to retrain."""
    kinds = []
    for kind, lines in context.traffic.items():
        if not lines:
            continue
        reason = policy.accuracy if kind == "accuracy" else policy.traffic
        text = f"{_TRAFFIC[kind]}: {'; '.join(lines)}"
        last = context.last_reasons.get(kind)
        quiet_until = last + datetime.timedelta(days=reason.cooldown_days) if last else None
        if not reason.retrains:
            against.append(f"{text}; no reason, as retrain.{kind}.retrains is false")
        elif quiet_until and context.now < quiet_until:
            against.append(
                f"{text}; no reason before {_day(quiet_until)}, because it was one less than "
                f"retrain.{kind}.cooldown_days = {reason.cooldown_days:g} ago"
            )
        elif not context.changes.count:
            against.append(
                f"{text}; but without new labelled images a training would make the same model: "
                "label some of the traffic, see `perennial ask`"
            )
        else:
            found.append(text)
            kinds.append(kind)
    return tuple(kinds)


def _reasons(context: RetrainContext, policy: RetrainConfig) -> tuple[list[str], list[str]]:
    """Return the reasons to retrain and the reasons not to."""
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
        against.append(f"no images of {quoted(renamed)} are left, as all have other labels now")
    if last is None:
        if context.losses.is_known:
            found.append("no model has been judged yet")
        return found, against
    if not changes.count:
        against.append(f"the data is as it was at the training of {_day(last.made)}")
        return found, against
    text = f"{changes} since the training of {_day(last.made)}"
    minimum = policy.min_new_examples
    if changes.count >= minimum:
        found.append(f"{text}, and {minimum:,} {'is' if minimum == 1 else 'are'} enough")
    elif (age := _age(context)) is not None and age >= (policy.max_age_days or age + 1):
        found.append(
            f"{text}, and the baseline is {age:.1f} days old, of retrain.max_age_days = "
            f"{policy.max_age_days:g}"
        )
    else:
        against.append(f"{text}, fewer than retrain.min_new_examples = {minimum:,}")
        if age is not None and policy.max_age_days:
            against.append(
                f"the baseline is {age:.1f} days old, younger than retrain.max_age_days = "
                f"{policy.max_age_days:g}"
            )
    return found, against


def _age(context: RetrainContext) -> float | None:
    """Return the days since the baseline was trained or last confirmed by a rejected candidate."""
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
