"""Metrics and their intervals, against hand computations and scikit-learn."""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterator

import numpy as np
import pytest
from scipy import stats
from sklearn import metrics as sk

from components.image_evaluator import slices
from components.image_evaluator.figures import SLICES, Estimate, ModelFigures
from components.image_evaluator.metrics import BINS, model_figures

Z = 1.959963984540054


def judge(labels: np.ndarray, probabilities: np.ndarray, **values: np.ndarray) -> ModelFigures:
    everywhere = {feature: np.full(len(labels), "any", object) for feature in SLICES}
    classes = [f"class {index}" for index in range(probabilities.shape[1])]
    return model_figures(classes, labels, probabilities, {**everywhere, **values})


def wilson(share: float, number: float) -> tuple[float, float]:
    """Wilson's formula, as in his paper of 1927."""
    centre = (share + Z**2 / (2 * number)) / (1 + Z**2 / number)
    half = math.sqrt(share * (1 - share) / number + Z**2 / (4 * number**2)) * Z
    half /= 1 + Z**2 / number
    return centre - half, centre + half


def value_of(estimate: Estimate) -> float:
    assert estimate.value is not None
    return estimate.value


class TestByHand:
    """Eight images of three classes, of which the last is never predicted."""

    LABELS = np.array([0, 0, 0, 1, 1, 1, 2, 2])
    #               right     wrong   right       wrong wrong
    PREDICTED = np.array([0, 0, 1, 1, 1, 0, 0, 1])
    CONFIDENCE = np.array([0.8, 0.8, 0.8, 0.8, 0.5, 0.5, 0.5, 0.5])

    @pytest.fixture(scope="class")
    def found(self) -> ModelFigures:
        probabilities = np.repeat((1 - self.CONFIDENCE[:, None]) / 2, 3, axis=1)
        probabilities[np.arange(8), self.PREDICTED] = self.CONFIDENCE
        dark = np.array(["dark"] * 6 + ["bright"] * 2, object)
        return judge(self.LABELS, probabilities, brightness=dark)

    def test_confusion_has_a_row_for_each_true_class(self, found: ModelFigures) -> None:
        assert found.confusion_matrix().tolist() == [[2, 1, 0], [1, 2, 0], [1, 1, 0]]

    @pytest.mark.parametrize(
        ("name", "expected"),
        [
            ("accuracy", 4 / 8),
            ("balanced_accuracy", (2 / 3 + 2 / 3 + 0) / 3),
            ("macro_precision", (2 / 4 + 2 / 4 + 0) / 3),
            ("macro_recall", (2 / 3 + 2 / 3 + 0) / 3),
            ("macro_f1", (4 / 7 + 4 / 7 + 0) / 3),
            # True classes have probability 0.8 three times, 0.1, 0.5, and 0.25 three times.
            ("log_loss", -math.log(0.8**3 * 0.1 * 0.5 * 0.25**3) / 8),
            # Of four images each, 3/4 are right at confidence 0.8, and 1/4 at 0.5.
            ("ece", (0.05 + 0.25) / 2),
        ],
    )
    def test_metric(self, found: ModelFigures, name: str, expected: float) -> None:
        assert value_of(found.metrics[name]) == pytest.approx(expected)

    def test_with_no_more_than_five_classes_there_is_no_top_5(self, found: ModelFigures) -> None:
        assert "top_5_accuracy" not in found.metrics

    def test_a_class_that_is_never_predicted_has_recall_0_and_no_precision(
        self, found: ModelFigures
    ) -> None:
        never = found.per_class[2]
        assert (never.support, never.predicted) == (2, 0)
        assert never.recall.value == 0
        assert never.f1.value == 0
        assert never.precision.value is None
        assert never.recall.high == pytest.approx(wilson(0, 2)[1])

    def test_shares_have_wilsons_interval(self, found: ModelFigures) -> None:
        accuracy = found.metrics["accuracy"]
        assert (accuracy.low, accuracy.high) == pytest.approx(wilson(0.5, 8))
        precision = found.per_class[0].precision
        assert (precision.low, precision.high) == pytest.approx(wilson(2 / 4, 4))

    def test_f1_has_the_interval_of_the_share_it_follows_from(self, found: ModelFigures) -> None:
        # Of five images that are of the first class or taken for it, two are both.
        low, high = wilson(2 / 5, 5)
        f1 = found.per_class[0].f1
        assert f1.value == pytest.approx(4 / 7)
        assert (f1.low, f1.high) == pytest.approx((2 * low / (1 + low), 2 * high / (1 + high)))

    def test_averages_have_wilsons_interval_for_as_many_images_as_have_their_variance(
        self, found: ModelFigures
    ) -> None:
        # The variance, 2 * (2/3 * 1/3 / 3) / 9, is that of 15 images; of equal classes, of fewer.
        images = 3**2 / (1 / 3 + 1 / 3 + 1 / 2)
        estimate = found.metrics["balanced_accuracy"]
        assert (estimate.low, estimate.high) == pytest.approx(wilson(4 / 9, images))

    def test_the_log_loss_has_students_interval(self, found: ModelFigures) -> None:
        losses = -np.log([0.8, 0.8, 0.1, 0.8, 0.5, 0.25, 0.25, 0.25])
        half = 2.364624 * np.std(losses, ddof=1) / math.sqrt(8)  # t of 7 degrees of freedom
        estimate = found.metrics["log_loss"]
        assert estimate.high == pytest.approx(losses.mean() + half)
        assert estimate.low == pytest.approx(losses.mean() - half)

    def test_slices_are_counted_by_their_values(self, found: ModelFigures) -> None:
        by_value = {each.value: each for each in found.slices if each.feature == "brightness"}
        assert {value: each.support for value, each in by_value.items()} == {"dark": 6, "bright": 2}
        assert value_of(by_value["dark"].accuracy) == pytest.approx(4 / 6)
        assert value_of(by_value["bright"].accuracy) == 0

    def test_reliability_bins_hold_every_image_once(self, found: ModelFigures) -> None:
        assert len(found.reliability) == BINS
        filled = [each for each in found.reliability if each.count]
        assert [(each.count, each.accuracy) for each in filled] == [(4, 0.25), (4, 0.75)]
        assert all(each.low < (each.confidence or 0) <= each.high for each in filled)

    def test_it_survives_json(self, found: ModelFigures) -> None:
        assert ModelFigures.model_validate_json(found.model_dump_json()) == found


def predictions(seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Return random predictions that are often right; some classes may have no image."""
    random = np.random.default_rng(seed)
    classes = int(random.integers(2, 9))
    labels = random.integers(0, classes, int(random.integers(20, 200)))
    logits = random.normal(size=(len(labels), classes))
    logits[np.arange(len(labels)), labels] += random.uniform(0, 3)
    exponents = np.exp(logits)
    return labels, (exponents / exponents.sum(axis=1, keepdims=True)).astype(np.float32)


class TestAgainstScikitLearn:
    @pytest.fixture(scope="class", autouse=True)
    def _quiet(self) -> Iterator[None]:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of classes without images or predictions
            yield

    @pytest.mark.parametrize("seed", range(20))
    def test_every_metric(self, seed: int) -> None:
        labels, probabilities = predictions(seed)
        classes = probabilities.shape[1]
        predicted = probabilities.argmax(axis=1)
        present = sorted(set(labels.tolist()))
        found = judge(labels, probabilities).metrics
        average = {"labels": present, "average": "macro", "zero_division": 0}
        expected = {
            "accuracy": sk.accuracy_score(labels, predicted),
            "balanced_accuracy": sk.balanced_accuracy_score(labels, predicted),
            "macro_precision": sk.precision_score(labels, predicted, **average),
            "macro_recall": sk.recall_score(labels, predicted, **average),
            "macro_f1": sk.f1_score(labels, predicted, **average),
            "macro_auc": np.mean(
                [sk.roc_auc_score(labels == each, probabilities[:, each]) for each in present]
            ),
            "log_loss": sk.log_loss(labels, probabilities, labels=range(classes)),
        }
        if classes > 5:
            expected["top_5_accuracy"] = sk.top_k_accuracy_score(
                labels, probabilities, k=5, labels=range(classes)
            )
        assert set(found) == {*expected, "ece"}
        for name, value in expected.items():
            assert value_of(found[name]) == pytest.approx(value, abs=1e-6), name
            low, high = found[name].low, found[name].high
            assert low is not None
            assert high is not None
            assert low <= value + 1e-9, name
            assert value <= high + 1e-9, name

    @pytest.mark.parametrize("seed", range(5))
    def test_every_class(self, seed: int) -> None:
        labels, probabilities = predictions(seed)
        predicted = probabilities.argmax(axis=1)
        names = range(probabilities.shape[1])
        precision, recall, f1, support = sk.precision_recall_fscore_support(
            labels, predicted, labels=names, zero_division=0
        )
        found = judge(labels, probabilities)
        confusion = sk.confusion_matrix(labels, predicted, labels=names)
        assert (found.confusion_matrix() == confusion).all()
        for index, each in enumerate(found.per_class):
            assert each.support == support[index]
            assert each.predicted == (predicted == index).sum()
            assert each.precision.value or pytest.approx(precision[index]) == 0
            if each.support:
                assert each.recall.value == pytest.approx(recall[index])
                assert each.f1.value == pytest.approx(f1[index])
                auc = sk.roc_auc_score(labels == index, probabilities[:, index])
                assert each.auc == pytest.approx(auc)

    def test_of_many_classes_no_full_matrix_is_written(self) -> None:
        classes = 1000
        random = np.random.default_rng(0)
        found = judge(random.integers(0, classes, 50), random.random([50, classes]))
        assert sum(count for *_, count in found.confusion) == 50
        assert len(found.confusion) <= 50
        assert found.confusion_matrix().shape == (classes, classes)

    @pytest.mark.parametrize("seed", range(5))
    def test_the_calibration_error_is_that_of_the_reliability_curve(self, seed: int) -> None:
        labels, probabilities = predictions(seed)
        confidence = probabilities.max(axis=1)
        right = probabilities.argmax(axis=1) == labels
        bins = np.ceil(confidence * BINS)
        gaps = [
            np.abs(right[bins == each].mean() - confidence[bins == each].mean())
            * (bins == each).mean()
            for each in set(bins.tolist())
        ]
        assert value_of(judge(labels, probabilities).metrics["ece"]) == pytest.approx(sum(gaps))


class TestOddInput:
    def test_a_class_without_images_is_not_defined_and_counts_in_no_average(self) -> None:
        probabilities = np.array([[0.6, 0.3, 0.1], [0.2, 0.7, 0.1]], np.float32)
        found = judge(np.array([0, 1]), probabilities)
        absent = found.per_class[2]
        assert absent.support == 0
        assert absent.recall.value is None
        assert absent.f1.value is None
        assert absent.auc is None
        assert value_of(found.metrics["balanced_accuracy"]) == 1
        assert value_of(found.metrics["macro_f1"]) == 1

    def test_a_perfect_model_is_not_taken_for_a_certainty(self) -> None:
        found = judge(np.array([0, 1] * 10), np.tile(np.eye(2, dtype=np.float32), (10, 1)))
        for name in ("accuracy", "balanced_accuracy", "macro_precision", "macro_f1", "macro_auc"):
            assert value_of(found.metrics[name]) == 1
            low = found.metrics[name].low
            assert low is not None
            assert 0.6 < low < 0.95, name

    def test_of_equal_probabilities_the_first_counts_as_argmax_has_it(self) -> None:
        even = np.full((4, 8), 1 / 8, np.float32)
        found = judge(np.array([0, 1, 4, 5]), even)
        assert value_of(found.metrics["accuracy"]) == 1 / 4
        assert value_of(found.metrics["top_5_accuracy"]) == 3 / 4
        assert found.metrics["macro_auc"].value == 0.5

    def test_one_image(self) -> None:
        found = judge(np.array([1]), np.array([[0.25, 0.75]], np.float32))
        assert value_of(found.metrics["accuracy"]) == 1
        assert value_of(found.metrics["ece"]) == 0.25
        assert found.metrics["macro_auc"].value is None

    def test_a_probability_of_0_costs_as_much_as_in_scikit_learn(self) -> None:
        labels, certain = np.array([0, 1]), np.array([[0, 1], [0, 1]], np.float32)
        found = value_of(judge(labels, certain).metrics["log_loss"])
        assert found == pytest.approx(sk.log_loss(labels, certain), rel=1e-6)

    def test_a_feature_with_a_value_for_every_image_names_the_most_common_only(self) -> None:
        labels, probabilities = np.zeros(100, int), np.tile([[0.9, 0.1]], (100, 1))
        sources = np.array([f"folder {index // 2}" for index in range(99)] + ["folder 0"], object)
        found = judge(labels, probabilities, source=sources)
        counts = [each.support for each in found.slices if each.feature == "source"]
        assert len(counts) == 20
        assert counts[0] == 3


class TestIntervals:
    def test_of_an_area_is_that_of_delong(self) -> None:
        random = np.random.default_rng(0)
        labels = np.array([0] * 60 + [1] * 40)
        scores = random.normal(labels, 1)
        probabilities = 1 / (1 + np.exp(-np.stack([-scores, scores], axis=1)))
        won = scores[labels == 1][:, None] > scores[labels == 0]
        variance = won.mean(axis=1).var() / 40 + won.mean(axis=0).var() / 60
        area = float(won.mean())
        found = judge(labels, probabilities).metrics["macro_auc"]
        assert found.value == pytest.approx(area)
        assert (found.low, found.high) == pytest.approx(wilson(area, area * (1 - area) / variance))

    def test_they_hold_the_truth_as_often_as_they_say(self) -> None:
        """Of 400 samples from a population whose figures are known, 19 in 20."""
        random = np.random.default_rng(1)

        def sample(images: int) -> tuple[np.ndarray, np.ndarray]:
            labels = random.choice(3, images, p=[0.5, 0.3, 0.2])
            logits = random.normal(size=(images, 3)) + 1.5 * np.eye(3)[labels]
            exponents = np.exp(logits)
            return labels, exponents / exponents.sum(axis=1, keepdims=True)

        truth = {k: value_of(each) for k, each in judge(*sample(200_000)).metrics.items()}
        held = dict.fromkeys(truth, 0)
        for _ in range(400):
            found = judge(*sample(150)).metrics
            for name, value in truth.items():
                low, high = found[name].low, found[name].high
                assert low is not None
                assert high is not None
                held[name] += low <= value <= high
        chance = stats.binom(400, 0.95)
        for name, times in held.items():
            assert times >= chance.ppf(0.001), (name, times / 400)


class TestSlices:
    @pytest.mark.parametrize(
        ("height", "width", "name"),
        [(8, 2000, "under 64 px"), (64, 64, "64-127 px"), (480, 640, "256-511 px")],
    )
    def test_size_is_that_of_the_shorter_side(self, height: int, width: int, name: str) -> None:
        assert slices.size(height, width) == name

    def test_aspect(self) -> None:
        assert [slices.aspect(r) for r in (0.5, 0.8, 1.0, 1.25, 2)] == [
            *("portrait", "square", "square", "landscape", "landscape")
        ]

    def test_brightness(self) -> None:
        assert [slices.brightness(mean) for mean in (0, 84.9, 85, 170, 255)] == [
            *("dark", "dark", "medium", "bright", "bright")
        ]

    @pytest.mark.parametrize(
        ("filename", "source"),
        [
            ("cat/1.png", "."),
            ("camera 1/cat/1.png", "camera 1"),
            ("cat/camera 2/1.png", "camera 2"),
            ("gs://bucket/cat/1.png", "bucket"),
            ("1.png", "."),
            ("shards/a.tfrecord#000012", "shards/a.tfrecord"),
        ],
    )
    def test_source_is_a_folder_that_is_not_the_class(self, filename: str, source: str) -> None:
        assert slices.source(filename, "cat") == source
