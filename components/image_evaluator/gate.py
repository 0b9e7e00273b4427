"""The checks that a candidate must pass to be blessed.

Each check is a function that yields its outcomes for an `Evidence`, none if no bound is set. To add
one, write the function, list it in `CHECKS`, and add a field for its bound to `bounds.Bounds`.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Mapping, Sequence

import numpy as np

from components.image_evaluator import learned
from components.image_evaluator.bounds import (
    CEILINGS,
    CLASS_FLOORS,
    FLOORS,
    LATENCIES,
    Bounds,
)
from components.image_evaluator.chance import mcnemar
from components.image_evaluator.figures import Baseline, Check, Estimate, ModelFigures, Verdict
from components.wording import quoted

_TOLD = 20  # most failed slices of a bound that are listed


@dataclasses.dataclass(frozen=True)
class Pairs:
    """The predictions of candidate and baseline for the same N images, of classes that both know.

    As in serving, each model chooses among all of its own classes.

    Attributes:
        classes: those that both know.
        added: those that only the candidate knows.
        removed: those that only the baseline knows.
        candidate: whether its prediction is right, bool [N].
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
    """The input of the checks.

    Attributes:
        bounds: of the gate.
        candidate: its figures on the eval split.
        pairs: None without a baseline.
        train: number of images of the train split by class; empty if unknown.
    """

    bounds: Bounds
    candidate: ModelFigures
    pairs: Pairs | None
    train: Mapping[str, int] = dataclasses.field(default_factory=dict)


def decide(evidence: Evidence, baseline: Baseline | None) -> Verdict:
    """Run every check."""
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
        return "no baseline, as this is the first model: only the absolute bounds count"
    images = len(pairs.candidate)
    if not images:
        return (
            "the baseline has no class of these images: only the absolute bounds count, as for a "
            "first model"
        )
    if not (pairs.added or pairs.removed):
        return f"compared with the baseline on the same {images:,} images"
    changes = [
        f"{len(names)} {what} ({quoted(names)})"
        for what, names in (("added", pairs.added), ("removed", pairs.removed))
        if names
    ]
    return (
        f"the classes changed, {' and '.join(changes)}: compared with the baseline on the "
        f"{images:,} images of the {len(pairs.classes)} common classes ({quoted(pairs.classes)})"
    )


def absolute(evidence: Evidence) -> Iterator[Check]:
    """Check the metrics over all images."""
    metrics = evidence.candidate.metrics
    for field, name in {**FLOORS, **CEILINGS}.items():
        bound = evidence.bounds.of(field)
        if bound is not None:
            yield _held(field, name, metrics.get(name, Estimate(value=None)).value, bound)


def every_class(evidence: Evidence) -> Iterator[Check]:
    """Check the lowest precision and the lowest recall of a class."""
    for field, name in CLASS_FLOORS.items():
        bound = evidence.bounds.of(field)
        if bound is not None:
            # A class that is never predicted has no precision; it counts as 0.
            values = {
                each.name: getattr(each, name).value or 0.0
                for each in evidence.candidate.per_class
                if each.support
            }
            worst = min(values, key=values.__getitem__)
            yield _held(field, f"{name} of {worst!r}, the lowest,", values[worst], bound)


def learned_something(evidence: Evidence) -> Iterator[Check]:
    """Run the checks of `learned`."""
    for check in (
        learned.beats_largest_class,
        learned.every_class_recognised,
        learned.beats_class_frequencies,
        learned.is_calibrated,
    ):
        yield from check(evidence.candidate, evidence.train, evidence.bounds)


def coverage(evidence: Evidence) -> Iterator[Check]:
    """Check that every class has eval images: metrics skip classes without images."""
    missing = [each.name for each in evidence.candidate.per_class if not each.support]
    total = len(evidence.candidate.classes)
    yield Check(
        name="coverage",
        passed=not missing,
        value=total - len(missing),
        bound=total,
        reason=(
            f"no image of {quoted(missing)} in the eval split; add some, or raise data.eval"
            if missing
            else f"all {total:,} classes have eval images"
        ),
    )


def latency(evidence: Evidence) -> Iterator[Check]:
    """Check the milliseconds for one image."""
    measured = evidence.candidate.latency
    for field, name in LATENCIES.items():
        bound = evidence.bounds.of(field)
        if bound is not None:
            value = getattr(measured, name) if measured else None
            yield _held(field, f"latency {name.removesuffix('_ms')} in ms", value, bound)


def no_worse(evidence: Evidence) -> Iterator[Check]:
    """Compare the accuracy over all images with the baseline's."""
    pairs, bounds = evidence.pairs, evidence.bounds
    if pairs and len(pairs.candidate):
        everything = np.ones(len(pairs.candidate), bool)
        bound = bounds.max_accuracy_drop
        found = compare(pairs, everything, bounds, bound)
        yield found.check(
            "max_accuracy_drop", "accuracy", f"evaluate.max_accuracy_drop = {bound:g}"
        )


def no_slice_worse(evidence: Evidence) -> Iterator[Check]:
    """Compare the accuracy on each class or slice that has a bound with the baseline's.

    Yields one check for each slice that fails (of many, for the worst ones, and one that counts
    all); if none fails, one check for all slices of the bound.
    """
    pairs, bounds = evidence.pairs, evidence.bounds
    if not (pairs and len(pairs.candidate)):
        return
    for name, bound in bounds.max_drop.items():
        key = f"evaluate.max_drop {name!r} = {bound:g}"
        found = {
            label: compare(pairs, chosen, bounds, bound)
            for label, chosen in _slices(pairs)
            if bounds.applies(name, label)
        }
        failed = [label for label, each in found.items() if not each.passed]
        if len(failed) > _TOLD:
            yield _more_fail(name, found, failed, key)
            failed = sorted(failed, key=lambda label: -found[label].fall)[:_TOLD]
        for label in failed if len(found) > 1 else found:
            yield found[label].check(label, f"accuracy on {label}", key)
        if len(found) > 1 and not failed:
            yield _all_hold(name, found, key)
        if not found and "=" in name:
            reason = f"there is no image of {name!r} to compare on; correct {key} or remove it"
            yield Check(name=name, passed=False, value=None, bound=bound, reason=reason)


def _slices(pairs: Pairs) -> Iterator[tuple[str, np.ndarray]]:
    """Yield the name of each slice, such as "brightness=dark", and which images are in it."""
    for feature, values in pairs.slices.items():
        for value in sorted(set(values.tolist())):
            yield f"{feature}={value}", values == value


def _more_fail(
    name: str, found: Mapping[str, Comparison], failed: Sequence[str], key: str
) -> Check:
    reason = (
        f"accuracy on {len(failed):,} of {len(found):,} slices by {name} breaks {key}; below are "
        f"the {_TOLD} largest drops"
    )
    return Check(name=name, passed=False, value=None, bound=found[failed[0]].bound, reason=reason)


def _all_hold(name: str, found: Mapping[str, Comparison], key: str) -> Check:
    worst = max(found, key=lambda label: found[label].fall)
    reason = (
        f"accuracy on each of {len(found)} slices by {name} keeps {key}; the largest drop is "
        f"{max(found[worst].fall, 0):.4f}, on {worst}"
    )
    if by_chance := sum(each.p is not None for each in found.values()):
        reason += f"; {by_chance} beyond it, not statistically significant"
    if few := sum(each.too_few for each in found.values()):
        reason += f"; {few} with too few images for a test, where any drop beyond the limit fails"
    return Check(
        name=name, passed=True, value=found[worst].fall, bound=found[worst].bound, reason=reason
    )


CHECKS: Sequence[Callable[[Evidence], Iterator[Check]]] = (
    learned_something,
    absolute,
    every_class,
    coverage,
    latency,
    no_worse,
    no_slice_worse,
)


def _held(field: str, what: str, value: float | None, bound: float) -> Check:
    key = f"evaluate.{field} = {bound:g}"
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


@dataclasses.dataclass(frozen=True)
class Comparison:
    """Comparison of two models on the same images.

    Attributes:
        candidate: its accuracy, 0 to 1.
        baseline: the same.
        images: number of images.
        lost: images that only the baseline has right.
        gained: images that only the candidate has right.
        bound: largest drop of accuracy that is allowed.
        p: of McNemar's test; None if the drop is within the bound, or there are too few images.
        too_few: fewer images than a test needs.
        passed: the verdict.
    """

    candidate: float
    baseline: float
    images: int
    lost: int
    gained: int
    bound: float
    p: float | None
    too_few: bool
    passed: bool

    @property
    def fall(self) -> float:
        return (self.lost - self.gained) / self.images

    def check(self, name: str, what: str, key: str) -> Check:
        """Convert to a gate check."""
        if self.fall <= 0:
            found = "no drop"
        elif self.passed and self.p is None:
            found = f"drops by {self.fall:.4f}, within {key}"
        else:
            found = f"drops by {self.fall:.4f}, more than {key}"
        if self.p is not None:
            found += f", which is {'not ' if self.passed else ''}statistically significant"
            found += f" (McNemar's test, p = {self.p:.2g})"
        if self.too_few:
            found += f"; with only {self.images:,} images, any drop beyond the limit fails"
        reason = (
            f"{what} {self.candidate:.4f} against the baseline's {self.baseline:.4f} "
            f"({self.images:,} images, {self.lost:,} lost, {self.gained:,} gained): {found}"
        )
        return Check(
            name=name, passed=self.passed, value=self.fall, bound=self.bound, reason=reason
        )


def compare(pairs: Pairs, chosen: np.ndarray, bounds: Bounds, bound: float) -> Comparison:
    """Compare the accuracy on the `chosen` images, bool [N], which may fall by `bound`.

    A larger drop fails if it is significant by McNemar's exact test. As no drop is significant on
    few images, any drop by more than `bound` fails with fewer than `min_examples`.
    """
    candidate, baseline = pairs.candidate[chosen], pairs.baseline[chosen]
    images = len(candidate)
    lost, gained = int((baseline & ~candidate).sum()), int((candidate & ~baseline).sum())
    fell = lost - gained > bound * images + 1e-9  # tolerance for rounding of the product
    too_few = images < bounds.min_examples
    p = mcnemar(lost, gained, images, bound) if fell and not too_few else None
    return Comparison(
        candidate=float(candidate.mean()),
        baseline=float(baseline.mean()),
        images=images,
        lost=lost,
        gained=gained,
        bound=bound,
        p=p,
        too_few=too_few,
        passed=not fell or (p is not None and p >= bounds.significance),
    )
