"""The gate: every check that a candidate must pass to be blessed.

A check is a function from the `Evidence` to the lines it comes to, none where no bound asks for it.
To add one, write it, name it in `CHECKS`, and give its bound a field in `bounds.Bounds`.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Mapping, Sequence

import numpy as np
from scipy import stats

from components.image_evaluator.bounds import (
    CEILINGS,
    CLASS_FLOORS,
    FLOORS,
    LATENCIES,
    Bounds,
)
from components.image_evaluator.figures import Baseline, Check, Estimate, ModelFigures, Verdict

_NAMED = 5  # classes in a line


@dataclasses.dataclass(frozen=True)
class Pairs:
    """What candidate and baseline made of the same N images, all of classes that both know.

    Each model chooses among all of its own classes, as it does when served.

    Attributes:
        classes: those that both know.
        added: those that only the candidate knows.
        removed: those that only the baseline knows.
        candidate: whether it was right, bool [N].
        baseline: the same.
        slices: by "class" and each of `figures.SLICES`, strings [N].
    """

    classes: list[str]
    added: list[str]
    removed: list[str]
    candidate: np.ndarray
    baseline: np.ndarray
    slices: Mapping[str, np.ndarray]


@dataclasses.dataclass(frozen=True)
class Evidence:
    """What the checks go by; `pairs` is None without a baseline."""

    bounds: Bounds
    candidate: ModelFigures
    pairs: Pairs | None


def decide(evidence: Evidence, baseline: Baseline | None) -> Verdict:
    """Make every check. Raises ValueError where the bounds let everything pass."""
    if evidence.bounds.pass_everything:
        raise ValueError("there is no bound that a model could fail")
    checks = [check for make in CHECKS for check in make(evidence)]
    return Verdict(
        blessed=all(check.passed for check in checks),
        baseline=baseline,
        compared_classes=evidence.pairs.classes if evidence.pairs else [],
        note=_note(evidence.pairs),
        checks=checks,
    )


def _note(pairs: Pairs | None) -> str:
    if pairs is None:
        return "no baseline, as this is the first model: held to the absolute bounds only"
    images = len(pairs.candidate)
    if not images:
        return (
            "the latest blessed model knows no class of these images: held to the absolute bounds "
            "only, like a first model"
        )
    if not (pairs.added or pairs.removed):
        return f"compared with the latest blessed model on the same {images:,} images"
    changes = [
        f"{len(names)} {what} ({_listed(names)})"
        for what, names in (("added", pairs.added), ("removed", pairs.removed))
        if names
    ]
    return (
        f"the classes changed, {' and '.join(changes)}: compared with the latest blessed model "
        f"over the {len(pairs.classes)} that both know ({_listed(pairs.classes)}), on their "
        f"{images:,} images"
    )


def absolute(evidence: Evidence) -> Iterator[Check]:
    """Metrics over all images."""
    metrics = evidence.candidate.metrics
    for field, name in {**FLOORS, **CEILINGS}.items():
        bound = evidence.bounds.of(field)
        if bound is not None:
            yield _held(field, name, metrics.get(name, Estimate(value=None)).value, bound)


def every_class(evidence: Evidence) -> Iterator[Check]:
    """Precision and recall of the class that has the lowest."""
    for field, name in CLASS_FLOORS.items():
        bound = evidence.bounds.of(field)
        if bound is not None:
            # What was never predicted has no precision, and is none the better for it.
            values = {
                each.name: getattr(each, name).value or 0.0
                for each in evidence.candidate.per_class
                if each.support
            }
            worst = min(values, key=values.__getitem__)
            yield _held(field, f"{name} of {worst!r}, the lowest,", values[worst], bound)


def coverage(evidence: Evidence) -> Iterator[Check]:
    """Every class has images to be judged on: metrics only skip one that has none."""
    missing = [each.name for each in evidence.candidate.per_class if not each.support]
    total = len(evidence.candidate.classes)
    yield Check(
        name="coverage",
        passed=not missing,
        value=total - len(missing),
        bound=total,
        reason=(
            f"no image of {_listed(missing)} to judge the model on; add some, or raise data.eval"
            if missing
            else f"all {total} classes have images to judge the model on"
        ),
    )


def latency(evidence: Evidence) -> Iterator[Check]:
    """Milliseconds for one image."""
    measured = evidence.candidate.latency
    for field, name in LATENCIES.items():
        bound = evidence.bounds.of(field)
        if bound is not None:
            value = getattr(measured, name) if measured else None
            yield _held(field, f"latency {name.removesuffix('_ms')} in ms", value, bound)


def no_worse(evidence: Evidence) -> Iterator[Check]:
    """Accuracy against the latest blessed model."""
    pairs, bounds = evidence.pairs, evidence.bounds
    if pairs and len(pairs.candidate):
        everything = np.ones(len(pairs.candidate), bool)
        key = "evaluate.max_accuracy_drop"
        yield _compared(pairs, everything, bounds, "accuracy", key, bounds.max_accuracy_drop)


def no_slice_worse(evidence: Evidence) -> Iterator[Check]:
    """Accuracy on each class or slice with a bound of its own, against the latest blessed model."""
    pairs, bounds = evidence.pairs, evidence.bounds
    if not (pairs and len(pairs.candidate)):
        return
    present = {
        (feature, value): values == value
        for feature, values in pairs.slices.items()
        for value in sorted(set(values.tolist()))
    }
    for (feature, value), chosen in present.items():
        if found := bounds.drop(feature, value):
            name, bound = found
            key = f"evaluate.max_drop.{name!r}"
            yield _compared(pairs, chosen, bounds, f"accuracy on {feature}={value}", key, bound)
    for name, bound in bounds.max_drop.items():
        feature, _, value = name.partition("=")
        if value and (feature, value) not in present:
            yield Check(
                name=name,
                passed=False,
                value=None,
                bound=bound,
                reason=f"evaluate.max_drop names {name!r}, of which there is no image to compare "
                "on; correct the name or remove it",
            )


CHECKS: Sequence[Callable[[Evidence], Iterator[Check]]] = (
    absolute,
    every_class,
    coverage,
    latency,
    no_worse,
    no_slice_worse,
)


def _held(field: str, what: str, value: float | None, bound: float) -> Check:
    key = f"evaluate.{field} = {bound:.4f}"
    if value is None:
        return Check(
            name=field,
            passed=False,
            value=None,
            bound=bound,
            reason=f"{what} is not defined for this data, so that {key} cannot be checked; "
            "remove the bound",
        )
    floor = field.startswith("min_")
    passed = value >= bound if floor else value <= bound
    wording = {
        (True, True): "is at least",
        (True, False): "is below",
        (False, True): "is at most",
        (False, False): "is above",
    }[floor, passed]
    reason = f"{what} {value:.4f} {wording} {key}"
    return Check(name=field, passed=passed, value=value, bound=bound, reason=reason)


def _compared(
    pairs: Pairs, chosen: np.ndarray, bounds: Bounds, what: str, key: str, margin: float
) -> Check:
    """Whether the candidate's accuracy on the `chosen` images fell by more than `margin`.

    A fall beyond the margin fails where chance does not explain it, by McNemar's exact test on the
    images that one of the two models had right and the other wrong. Where there are fewer images
    than the test needs to notice anything (`min_examples`), every fall beyond the margin fails.
    """
    candidate, baseline = pairs.candidate[chosen], pairs.baseline[chosen]
    images = len(candidate)
    lost, gained = int((baseline & ~candidate).sum()), int((candidate & ~baseline).sum())
    fall = (lost - gained) / images
    reason = (
        f"{what} {candidate.mean():.4f} against the latest blessed model's {baseline.mean():.4f} "
        f"({images:,} images, {lost} lost, {gained} gained)"
    )
    too_few = f"; {images} are too few for a test, so that the plain difference decides"
    if lost - gained <= margin * images + 1e-9:  # the product may be a rounding error short
        passed = True
        reason += f": falls by {fall:.4f}, within {key} = {margin:.4f}" if fall > 0 else ": no fall"
        reason += too_few if images < bounds.min_examples else ""
    else:
        p = mcnemar(lost, gained, images, margin)
        passed = images >= bounds.min_examples and p >= bounds.significance
        reason += f": falls by {fall:.4f}, more than {key} = {margin:.4f}"
        if images < bounds.min_examples:
            reason += too_few
        elif passed:
            reason += f", but no more than chance explains (McNemar's test: p = {p:.2g})"
        else:
            reason += f", and more than chance explains (McNemar's test: p = {p:.2g})"
    name = what.removeprefix("accuracy on ")
    return Check(name=name, passed=passed, value=fall, bound=margin, reason=reason)


def mcnemar(lost: int, gained: int, images: int, margin: float = 0.0) -> float:
    """The chance of losing at least as many by a candidate that is exactly `margin` worse.

    McNemar's exact one-sided test: an image that only one of the models has right is as likely to
    be lost as gained where they are equally good. With a margin, of the share s of such images
    (s + margin) / 2 are lost, which makes (s + margin) / 2s of them, and 1 where s <= margin.
    """
    changed = lost + gained
    if not changed:
        return 1.0
    chance = min(1.0, 0.5 + margin * images / (2 * changed))
    return float(stats.binomtest(lost, changed, chance, alternative="greater").pvalue)


def _listed(names: Sequence[str]) -> str:
    more = f" and {len(names) - _NAMED} more" if len(names) > _NAMED else ""
    return ", ".join(map(repr, names[:_NAMED])) + more
