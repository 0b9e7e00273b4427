"""What any model must pass by default: that it has learned something, whatever the data set."""

from __future__ import annotations

import itertools
import re
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pytest
from scipy import stats

from components.image_evaluator import chance, gate
from components.image_evaluator.bounds import Bounds
from components.image_evaluator.figures import SLICES, Verdict
from components.image_evaluator.metrics import model_figures
from tests.kit.cli import UNGATED

LEARNED = ["majority_significance", "zero_recall_images", "max_log_loss_ratio", "max_ece"]
NAMES = ["ant", "bee", "cat", "dog", "emu"]


def decide(
    labels: Sequence[int] | np.ndarray,
    probabilities: np.ndarray,
    train: Mapping[str, int] | None = None,
    **bounds: Any,
) -> Verdict:
    """Return the verdict on a first model; by default `train` equals the evaluated images."""
    labels = np.asarray(labels)
    classes = NAMES[: probabilities.shape[1]]
    slices = {feature: np.full(len(labels), "any", object) for feature in SLICES}
    found = model_figures(classes, labels, probabilities.astype(np.float32), slices)
    if train is None:
        train = {each.name: each.support for each in found.per_class}
    return gate.decide(gate.Evidence(Bounds(**bounds), found, None, train), None)


def failed(verdict: Verdict) -> set[str]:
    return {check.name for check in verdict.checks if not check.passed}


def sure(answers: Sequence[int] | np.ndarray, classes: int, share: float = 0.9) -> np.ndarray:
    """Probabilities of a model that gives `share` to each answer, and the rest evenly."""
    rest = (1 - share) / (classes - 1)
    return np.where(np.eye(classes)[np.asarray(answers)] == 1, share, rest)


def balanced(classes: int, each: int) -> np.ndarray:
    return np.tile(np.arange(classes), each)


# Labels of an eval split, and how many classes there are.
SPLITS = [
    pytest.param(balanced(2, 40), 2, id="two classes"),
    pytest.param(balanced(5, 8), 5, id="five classes"),
    pytest.param(np.repeat([0, 1], [90, 10]), 2, id="nine to one"),
    pytest.param(np.repeat([0, 1, 2], [2, 5, 300]), 3, id="one large class"),
    pytest.param(np.array([0, 1]), 2, id="two images"),
    pytest.param(np.array([0] * 30), 2, id="one class only"),
]


class TestWhatLearnedNothing:
    @pytest.mark.parametrize(("labels", "classes"), SPLITS)
    def test_one_answer_for_every_image_is_refused(self, labels: np.ndarray, classes: int) -> None:
        """Whichever class it is, however sure the model, and whatever the train split has."""
        trains: list[Mapping[str, int] | None] = [None, {}]
        trains += [dict.fromkeys(NAMES[:classes], 9) | {name: 99} for name in NAMES[:classes]]
        for answer, share, train in itertools.product(range(classes), (0.5, 0.9, 1.0), trains):
            answers = np.full(len(labels), answer)
            share = max(share, 1.01 / classes)
            verdict = decide(labels, sure(answers, classes, share), train)
            assert "majority_significance" in failed(verdict), (answer, share, train)
            assert not verdict.blessed

    @pytest.mark.parametrize(("labels", "classes"), SPLITS)
    @pytest.mark.parametrize("noise", [0.0, 1e-7, 1e-5])
    def test_equal_probabilities_are_refused(
        self, labels: np.ndarray, classes: int, noise: float
    ) -> None:
        """Also where they are a rounding error from equal, in favour of the right class."""
        probabilities = np.full((len(labels), classes), 1 / classes)
        probabilities[np.arange(len(labels)), labels] += noise
        for train in (None, {NAMES[0]: 99, NAMES[1]: 1}, {NAMES[0]: 1, NAMES[1]: 99}):
            verdict = decide(labels, probabilities, train)
            assert "max_log_loss_ratio" in failed(verdict)
            assert not verdict.blessed

    @pytest.mark.parametrize(("labels", "classes"), SPLITS)
    def test_the_frequencies_of_the_classes_are_refused(
        self, labels: np.ndarray, classes: int
    ) -> None:
        shares = np.bincount(labels, minlength=classes) / len(labels)
        verdict = decide(labels, np.tile(shares, (len(labels), 1)))
        assert {"majority_significance", "max_log_loss_ratio"} <= failed(verdict)

    def test_chance_is_refused_as_often_as_the_test_says(self) -> None:
        random = np.random.default_rng(0)
        labels = balanced(2, 50)
        blessed = [
            decide(labels, random.dirichlet([1, 1], len(labels))).blessed for _ in range(200)
        ]
        assert np.mean(blessed) < 0.05

    def test_answers_by_the_order_of_files_are_refused(self) -> None:
        labels = np.repeat(np.arange(5), 20)
        shifted = np.roll(labels, 20)
        assert not decide(labels, sure(shifted, 5)).blessed

    def test_nearly_equal_probabilities_are_not_calibrated(self) -> None:
        """As it was found: right on 46 % of five classes, and never surer than 20 %."""
        labels = balanced(5, 40)
        answers = np.where(np.arange(200) % 25 < 12, labels, (labels + 1) % 5)
        found = failed(decide(labels, sure(answers, 5, 0.20001), min_accuracy=0.3))
        assert found == {"max_log_loss_ratio", "max_ece"}


class TestWhatLearnedSomething:
    @pytest.mark.parametrize("classes", [2, 3, 5])
    @pytest.mark.parametrize(
        ("images", "share"), [(20, 0.9), (20, 0.99), (60, 0.8), (60, 0.99), (400, 0.75), (400, 0.9)]
    )
    def test_a_calibrated_model_is_blessed(self, classes: int, images: int, share: float) -> None:
        """On as few as twenty images, where it is good enough for so few to show it."""
        random = np.random.default_rng(images)
        blessed = []
        for _ in range(40):
            labels = balanced(classes, -(-images // classes))
            wrong = (labels + random.integers(1, classes, len(labels))) % classes
            answers = np.where(random.random(len(labels)) < share, labels, wrong)
            blessed.append(decide(labels, sure(answers, classes, share)).blessed)
        assert np.mean(blessed) >= 0.8

    def test_each_check_has_its_line(self) -> None:
        verdict = decide(balanced(2, 40), sure(balanced(2, 40), 2))
        assert [check.name for check in verdict.checks] == [*LEARNED, "min_accuracy", "coverage"]
        assert verdict.blessed
        by_name = {check.name: check for check in verdict.checks}
        assert by_name["majority_significance"].value == pytest.approx(0.5**40)
        assert by_name["zero_recall_images"].value == 0
        assert by_name["max_log_loss_ratio"].value == pytest.approx(np.log(0.9) / np.log(0.5))
        assert by_name["max_ece"].value == pytest.approx(0.1)
        assert [by_name[name].bound for name in LEARNED] == [0.05, 10, 0.99, 0.2]

    def test_each_can_be_loosened(self) -> None:
        constant = sure(np.zeros(80, int), 2, 0.95)
        assert failed(decide(balanced(2, 40), constant)) == {*LEARNED}
        ungated: dict[str, Any] = {**UNGATED}
        for name in LEARNED:
            loosened = decide(balanced(2, 40), constant, **{name: ungated[name]})
            assert failed(loosened) == {*LEARNED} - {name}
            assert name not in [check.name for check in loosened.checks]
        assert decide(balanced(2, 40), constant, **ungated).blessed


class TestTheLargestClass:
    def test_may_be_another_than_that_of_train(self) -> None:
        """More of the images that judge are ants, so that these are harder to beat than bees."""
        labels = np.repeat([0, 1], [60, 40])
        answers = np.where(np.arange(100) < 55, 0, 1)
        (line,) = (
            check
            for check in decide(labels, sure(answers, 2), {"ant": 1, "bee": 99}).checks
            if check.name == "majority_significance"
        )
        # 40 of 45 that are not ants are right where "always ant" is wrong, and five are lost.
        assert line.value == pytest.approx(stats.binomtest(40, 45, alternative="greater").pvalue)

    def test_of_a_tie_the_hardest_to_beat_counts(self) -> None:
        labels = np.repeat([0, 1, 2], [12, 6, 6])
        answers = np.concatenate([np.zeros(12, int), [1, 1, 1, 1, 0, 0], [2, 2, 0, 0, 0, 0]])
        tied = {"ant": 9, "bee": 9, "cat": 9}
        values = [
            check.value
            for train in (tied, {"ant": 9}, {"cat": 9})
            for check in decide(labels, sure(answers, 3), train).checks
            if check.name == "majority_significance"
        ]
        assert values == [pytest.approx(0.5**6)] * 3

    @pytest.mark.parametrize(("others", "expected"), [(4, False), (5, True)])
    def test_takes_five_images_of_others_to_beat(self, others: int, expected: bool) -> None:
        labels = np.repeat([0, 1], [others, others])
        verdict = decide(labels, sure(labels, 2))
        assert verdict.blessed is expected
        assert chance.fewest(0.05) == 5
        if not expected:
            assert re.search(r"; .*\b5 images .*data\.eval", verdict.reasons[0])

    @pytest.mark.parametrize(
        ("significance", "expected"), [(1, 0), (0.5, 1), (0.25, 2), (0.05, 5), (0.01, 7)]
    )
    def test_fewest_is_the_first_that_the_test_lets_through(
        self, significance: float, expected: int
    ) -> None:
        assert chance.fewest(significance) == expected
        assert chance.mcnemar(expected, 0, 100) <= significance
        assert not expected or chance.mcnemar(expected - 1, 0, 100) > significance


class TestRecall:
    @pytest.mark.parametrize(("images", "passed"), [(9, True), (10, False), (50, False)])
    def test_a_class_with_enough_images_must_have_one_right(
        self, images: int, passed: bool
    ) -> None:
        labels = np.repeat([0, 1, 2], [100, 100, images])
        answers = np.where(labels == 2, 0, labels)
        verdict = decide(labels, sure(answers, 3, 0.8))
        assert ("zero_recall_images" not in failed(verdict)) is passed
        if not passed:
            assert failed(verdict) == {"zero_recall_images"}
            assert "'cat'" in verdict.reasons[0]

    def test_one_right_is_enough(self) -> None:
        labels = np.repeat([0, 1, 2], [100, 100, 50])
        answers = np.where(labels == 2, 0, labels)
        answers[-1] = 2
        assert not failed(decide(labels, sure(answers, 3, 0.8)))

    def test_a_class_without_images_is_for_coverage(self) -> None:
        labels = balanced(2, 40)
        assert failed(decide(labels, sure(labels, 3))) == {"coverage"}


class TestCalibration:
    def test_a_calibrated_model_is_refused_one_time_in_twenty_at_most(self) -> None:
        """However few images there are, and with the tightest bound."""
        random = np.random.default_rng(1)
        for images in (5, 20, 100, 1000):
            refused = []
            for _ in range(200):
                confidence = random.uniform(0.5, 1, images)
                labels = (random.random(images) > confidence).astype(int)
                probabilities = np.stack([confidence, 1 - confidence], axis=1)
                verdict = decide(labels, probabilities, max_ece=1e-9)
                refused.append("max_ece" in failed(verdict))
            assert np.mean(refused) <= 0.08, images

    @pytest.mark.parametrize("images", [40, 200, 2000])
    def test_a_model_far_too_sure_is_refused(self, images: int) -> None:
        labels = balanced(2, images // 2)
        answers = np.where(np.arange(images) % 10 < 7, labels, 1 - labels)
        assert "max_ece" in failed(decide(labels, sure(answers, 2, 0.999)))

    def test_the_chance_of_an_error_is_that_of_a_calibrated_model(self) -> None:
        """In one bin of N images the error is that of a share, whose distribution is known."""
        for count, confidence, right in ((20, 0.9, 15), (100, 0.6, 50), (3, 0.5, 0)):
            error = abs(right / count - confidence)
            shares = np.arange(count + 1) / count
            far = np.abs(shares - confidence) >= error - 1e-12
            expected = stats.binom.pmf(np.arange(count + 1), count, confidence)[far].sum()
            found = chance.calibrated(np.array([count]), np.array([confidence]), error)
            assert found == pytest.approx(expected, abs=0.03)
            assert found == chance.calibrated(np.array([count]), np.array([confidence]), error)
