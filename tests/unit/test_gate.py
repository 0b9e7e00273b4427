"""The gate's decisions, each by a table."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest
from scipy import stats

from components.image_evaluator import chance, gate
from components.image_evaluator.bounds import Bounds
from components.image_evaluator.figures import (
    SLICES,
    Baseline,
    Check,
    Latency,
    ModelFigures,
    Verdict,
)
from components.image_evaluator.metrics import model_figures
from tests.kit.cli import UNGATED

# Of the images of a class: both right, only the baseline, only the candidate, none.
Counts = tuple[int, int, int, int]
BASELINE = Baseline(id=7, uri="/models/7")


def pairs(
    by_class: Mapping[str, Counts], added: tuple[str, ...] = (), removed: tuple[str, ...] = ()
) -> gate.Pairs:
    def answers(right: tuple[int, int, int, int]) -> np.ndarray:
        rows = [np.repeat(right, counts) for counts in by_class.values()]
        return np.concatenate([np.zeros(0, int), *rows]).astype(bool)

    names = np.repeat(np.array(list(by_class), object), [sum(each) for each in by_class.values()])
    brightness = np.where(np.arange(len(names)) % 2, "dark", "bright").astype(object)
    return gate.Pairs(
        classes=list(by_class),
        added=list(added),
        removed=list(removed),
        candidate=answers((1, 0, 1, 0)),
        baseline=answers((1, 1, 0, 0)),
        slices={"class": names, "brightness": brightness},
    )


def figures(right: int = 90, wrong: int = 10, **latency: float) -> ModelFigures:
    """Two classes, and as many images of each; the model is as sure as it is often right."""
    images, share = right + wrong, right / (right + wrong)
    labels = np.tile([0, 1], images)
    probabilities = np.where(np.eye(2)[labels] == 1, share, 1 - share)
    probabilities[: 2 * wrong] = 1 - probabilities[: 2 * wrong]
    slices = {feature: np.full(len(labels), "any", object) for feature in SLICES}
    measured = Latency(**{"p50_ms": 4.0, "p95_ms": 9.0, **latency}, requests=100)
    return model_figures(["cat", "dog"], labels, probabilities, slices, measured)


def decide(
    compared: gate.Pairs | None = None, candidate: ModelFigures | None = None, **bounds: Any
) -> Verdict:
    """Return the verdict by these bounds alone, without the checks in `test_learned`."""
    evidence = gate.Evidence(
        Bounds(**{"min_accuracy": None, **UNGATED, **bounds}), candidate or figures(), compared
    )
    return gate.decide(evidence, BASELINE if compared else None)


def failed(verdict: Verdict) -> list[str]:
    return [check.name for check in verdict.checks if not check.passed]


def check_of(verdict: Verdict, name: str) -> Check:
    (found,) = (check for check in verdict.checks if check.name == name)
    return found


class TestAgainstTheBaseline:
    @pytest.mark.parametrize(
        ("counts", "bounds", "passed", "tested"),
        [
            pytest.param((900, 5, 30, 65), {}, True, False, id="better"),
            pytest.param((900, 0, 0, 100), {}, True, False, id="equal answers"),
            pytest.param((900, 20, 20, 60), {}, True, False, id="equal by exchange"),
            pytest.param((900, 22, 18, 60), {}, True, True, id="worse by chance"),
            pytest.param((900, 40, 15, 45), {}, False, True, id="worse"),
            pytest.param(
                *((900, 40, 15, 45), {"max_accuracy_drop": 0.03}, True, False), id="tolerated"
            ),
            pytest.param(
                *((800, 90, 10, 100), {"max_accuracy_drop": 0.03}, False, True),
                id="beyond the tolerance",
            ),
            pytest.param(
                *((900, 40, 15, 45), {"significance": 1e-9}, True, True),
                id="no chance is small enough",
            ),
            pytest.param((40, 1, 0, 9), {}, False, False, id="too few, and one lost"),
            pytest.param((40, 3, 3, 4), {}, True, False, id="too few, and none lost"),
            pytest.param(
                *((40, 1, 0, 9), {"max_accuracy_drop": 0.02}, True, False),
                id="too few, and one tolerated",
            ),
            pytest.param(
                *((40, 1, 0, 9), {"min_examples": 50}, True, True),
                id="declared enough",
            ),
        ],
    )
    def test_accuracy(
        self, counts: Counts, bounds: dict[str, Any], passed: bool, tested: bool
    ) -> None:
        verdict = decide(pairs({"cat": counts}), **bounds)
        check = check_of(verdict, "max_accuracy_drop")
        assert check.passed == passed == verdict.blessed
        assert ("McNemar's test" in check.reason) == tested
        _, lost, gained, _ = counts
        assert check.value == pytest.approx((lost - gained) / sum(counts))
        assert f"({sum(counts):,} images, {lost} lost, {gained} gained)" in check.reason
        assert f"{lost} lost, {gained} gained" in (verdict.reasons or [check.reason])[0]

    @pytest.mark.parametrize("lost", range(12))
    @pytest.mark.parametrize("gained", [0, 4])
    def test_the_test_is_mcnemars_exact_one(self, lost: int, gained: int) -> None:
        changed = lost + gained
        expected = sum(stats.binom.pmf(k, changed, 0.5) for k in range(lost, changed + 1))
        assert chance.mcnemar(lost, gained, images=1000) == pytest.approx(expected)

    def test_one_model_in_twenty_that_is_exactly_at_the_margin_is_refused(self) -> None:
        """The test's size, by simulation, without a margin and with one."""
        random = np.random.default_rng(0)
        for margin in (0.0, 0.02):
            shares = [0.05 + margin / 2, 0.05 - margin / 2, 0.9]
            samples = random.multinomial(500, shares, size=2000)
            refused = np.mean(
                [chance.mcnemar(lost, gained, 500, margin) < 0.05 for lost, gained, _ in samples]
            )
            assert 0.02 < refused < 0.06, margin

    def test_the_first_model_is_marked(self) -> None:
        verdict = decide(min_accuracy=0.5)
        assert verdict.blessed
        assert verdict.baseline is None
        assert verdict.compared_classes == []
        assert "first" in verdict.note
        assert [check.name for check in verdict.checks] == ["min_accuracy", "coverage"]

    def test_the_baseline_is_named(self) -> None:
        verdict = decide(pairs({"cat": (90, 0, 0, 10), "dog": (90, 0, 0, 10)}))
        assert verdict.baseline == BASELINE
        assert verdict.compared_classes == ["cat", "dog"]
        assert "baseline" in verdict.note
        assert "200 images" in verdict.note


class TestChangedClasses:
    def test_the_comparison_says_over_which(self) -> None:
        both = {"cat": (90, 0, 0, 10), "dog": (90, 0, 0, 10)}
        verdict = decide(pairs(both, added=("owl",), removed=("emu", "fox")))
        assert verdict.compared_classes == ["cat", "dog"]
        assert "1 added ('owl')" in verdict.note
        assert "2 removed ('emu', 'fox')" in verdict.note
        assert re.search(r"200 .*2 common classes \('cat', 'dog'\)", verdict.note)

    def test_many_are_not_all_listed(self) -> None:
        many = {f"class {index}": (10, 0, 0, 0) for index in range(30)}
        assert "and 25 more" in decide(pairs(many, added=("owl",))).note

    def test_with_none_in_common_it_is_like_a_first_model(self) -> None:
        verdict = decide(pairs({}, added=("cat", "dog"), removed=("owl",)), min_accuracy=0.5)
        assert verdict.blessed
        assert "first" in verdict.note
        assert [check.name for check in verdict.checks] == ["min_accuracy", "coverage"]


class TestClassesAndSlices:
    # As good as before over all, and worse on dogs.
    SHIFTED: Mapping[str, Counts] = {"cat": (300, 0, 40, 60), "dog": (250, 40, 0, 110)}

    def test_a_fall_on_one_class_only_is_noticed(self) -> None:
        verdict = decide(pairs(self.SHIFTED), max_drop={"class": 0.05})
        assert check_of(verdict, "max_accuracy_drop").passed
        assert failed(verdict) == ["class=dog"]
        assert "class=dog 0.6250 " in verdict.reasons[0]
        assert "evaluate.max_drop 'class' = 0.05" in verdict.reasons[0]

    def test_without_a_bound_for_classes_it_is_not_judged(self) -> None:
        assert decide(pairs(self.SHIFTED)).blessed

    @pytest.mark.parametrize(
        ("max_drop", "expected"),
        [
            ({"class": 0.2}, []),
            ({"class": 0.05, "class=dog": 0.2}, []),
            ({"class": 0.2, "class=dog": 0.05}, ["class=dog"]),
            ({"class=cat": 0.0}, []),
            ({"class=owl": 0.2}, ["class=owl"]),
            ({"brightness": 0.05, "class=dog": 0.01}, ["class=dog"]),
        ],
    )
    def test_the_most_specific_bound_counts(
        self, max_drop: dict[str, float], expected: list[str]
    ) -> None:
        assert failed(decide(pairs(self.SHIFTED), max_drop=max_drop)) == expected

    def test_a_slice_is_judged_like_a_class(self) -> None:
        found = pairs({"cat": (150, 50, 50, 50)})
        dark = found.slices["brightness"] == "dark"
        fallen = dataclasses.replace(
            found, candidate=np.where(dark, found.baseline & (np.arange(300) % 4 == 1), True)
        )
        verdict = decide(fallen, max_drop={"brightness": 0.1})
        assert failed(verdict) == ["brightness=dark"]

    def test_where_none_falls_too_far_one_line_tells_the_worst(self) -> None:
        counts = {"cat": (80, 4, 0, 6), "dog": (180, 4, 4, 12), "owl": (170, 25, 5, 0)}
        verdict = decide(pairs(counts), max_drop={"class": 0.09}, max_accuracy_drop=0.1)
        (line,) = (check for check in verdict.checks if check.name == "class")
        assert line.passed
        assert re.search(r"3 slices by class .*0\.1000, on class=owl.*; 1 .*; 1 ", line.reason)

    def test_of_many_that_fall_the_worst_have_a_line_and_the_others_are_counted(self) -> None:
        counts: dict[str, Counts] = {f"{lost:02}": (60 - lost, lost, 0, 0) for lost in range(50)}
        verdict = decide(pairs(counts), max_drop={"class": 0.1}, max_accuracy_drop=1)
        assert failed(verdict) == ["class", *(f"class={lost}" for lost in range(49, 29, -1))]
        assert "43 of 50 slices by class" in check_of(verdict, "class").reason

    def test_a_small_class_may_not_fall_beyond_its_bound_at_all(self) -> None:
        counts = {"cat": (900, 0, 5, 95), "owl": (1, 2, 0, 0)}
        verdict = decide(pairs(counts), max_drop={"class": 0.3})
        assert failed(verdict) == ["class=owl"]
        assert "3 images" in verdict.reasons[0]


class TestAbsoluteBounds:
    @pytest.mark.parametrize(
        ("bound", "name"),
        [
            ({"min_accuracy": 0.91}, "accuracy"),
            ({"min_balanced_accuracy": 0.91}, "balanced_accuracy"),
            ({"min_macro_precision": 0.91}, "macro_precision"),
            ({"min_macro_recall": 0.91}, "macro_recall"),
            ({"min_macro_f1": 0.91}, "macro_f1"),
            ({"min_macro_auc": 0.95}, "macro_auc"),
            ({"min_class_precision": 0.91}, "precision of 'cat'"),
            ({"min_class_recall": 0.91}, "recall of 'cat'"),
            ({"max_log_loss": 0.3}, "log_loss"),
            ({"max_latency_p50_ms": 3.9}, "latency p50"),
            ({"max_latency_p95_ms": 8.0}, "latency p95"),
        ],
    )
    def test_one_that_is_not_kept(self, bound: dict[str, Any], name: str) -> None:
        verdict = decide(**bound)
        (field,) = bound
        assert failed(verdict) == [field]
        assert re.match(rf"{name}[ ,].* evaluate\.{field} = ", verdict.reasons[0])
        assert not verdict.blessed

    def test_calibration(self) -> None:
        """Right 9 times of 10 with confidence 0.9 is calibrated, 8 times with 0.99 is not."""
        assert decide(max_ece=0.05).blessed
        labels = np.tile([0, 1], 100)
        probabilities = np.where(np.eye(2)[labels] == 1, 0.99, 0.01)
        probabilities[:40] = 1 - probabilities[:40]
        slices = {feature: np.full(200, "any", object) for feature in SLICES}
        found = model_figures(["cat", "dog"], labels, probabilities, slices)
        verdict = decide(candidate=found, max_ece=0.05)
        assert failed(verdict) == ["max_ece"]
        assert check_of(verdict, "max_ece").value == pytest.approx(0.19)

    def test_a_bound_is_kept_at_its_value(self) -> None:
        assert decide(min_accuracy=0.9, max_latency_p50_ms=4.0).blessed

    def test_each_has_a_line(self) -> None:
        verdict = decide(min_accuracy=0.91, max_log_loss=9, min_macro_f1=0.95)
        assert [check.name for check in verdict.checks] == [
            *("min_accuracy", "min_macro_f1", "max_log_loss", "coverage")
        ]
        assert failed(verdict) == ["min_accuracy", "min_macro_f1"]
        for reason, name, bound in zip(
            verdict.reasons, ("accuracy", "macro_f1"), ("0.91", "0.95"), strict=True
        ):
            assert re.match(rf"{name} 0\.9000 .* evaluate\.min_{name} = {bound}$", reason)

    def test_a_metric_that_there_is_not_fails(self) -> None:
        verdict = decide(min_top_5_accuracy=0.5)
        assert failed(verdict) == ["min_top_5_accuracy"]
        assert re.match(r"top_5_accuracy .* evaluate\.min_top_5_accuracy", verdict.reasons[0])

    def test_a_class_without_images_fails(self) -> None:
        probabilities = np.array([[0.7, 0.2, 0.1], [0.1, 0.8, 0.1]])
        slices = {feature: np.full(2, "any", object) for feature in SLICES}
        found = model_figures(["cat", "dog", "owl"], np.array([0, 1]), probabilities, slices)
        verdict = decide(candidate=found, min_accuracy=0.5)
        assert failed(verdict) == ["coverage"]
        assert "'owl'" in verdict.reasons[0]

    def test_a_class_that_is_never_predicted_fails_its_bounds(self) -> None:
        probabilities = np.array([[0.9, 0.1], [0.9, 0.1]])
        slices = {feature: np.full(2, "any", object) for feature in SLICES}
        found = model_figures(["cat", "dog"], np.array([0, 1]), probabilities, slices)
        verdict = decide(candidate=found, min_class_recall=0.01, min_class_precision=0.01)
        assert failed(verdict) == ["min_class_precision", "min_class_recall"]


class TestNoBounds:
    @pytest.mark.parametrize(
        "bounds",
        [
            {"max_accuracy_drop": 1},
            {"max_accuracy_drop": 1, "min_accuracy": 0},
            {"max_accuracy_drop": 1, "min_class_recall": 0, "max_drop": {"class": 1}},
        ],
    )
    def test_is_an_error(self, bounds: dict[str, Any]) -> None:
        with pytest.raises(ValueError, match=r"\bbound\b"):
            decide(**bounds)

    @pytest.mark.parametrize(
        "bounds",
        [
            {},
            {"max_accuracy_drop": 1, "min_accuracy": 0.01},
            {"max_accuracy_drop": 1, "max_ece": 0.99},
            {"max_accuracy_drop": 1, "max_latency_p95_ms": 1e9},
            {"max_accuracy_drop": 1, "max_drop": {"size": 0.99}},
        ],
    )
    def test_any_will_do(self, bounds: dict[str, Any]) -> None:
        decide(**bounds)


def test_a_verdict_survives_json() -> None:
    verdict = decide(pairs({"cat": (90, 0, 0, 10)}), min_top_5_accuracy=0.1)
    assert Verdict.model_validate_json(verdict.model_dump_json()) == verdict
