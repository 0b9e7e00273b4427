"""What the Evaluator makes of predictions: who was right, by the names of classes, and bad ones."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import pyarrow as pa
import pytest

from components.errors import NotServableError
from components.image_evaluator import analysis, executor, gate
from components.image_evaluator.bounds import Bounds
from components.image_evaluator.figures import SLICES

Rows = Sequence[Sequence[float]]


def predictions(labels: Sequence[int], candidate: Rows, baseline: Rows | None = None) -> pa.Table:
    values: dict[str, Sequence[object]] = {
        "label": labels,
        "candidate": candidate,
        "baseline": baseline or [None] * len(labels),
        "filename": [str(number) for number in range(len(labels))],
        **{name: ["any"] * len(labels) for name in SLICES},
    }
    filled = {name: values.get(name, [None] * len(labels)) for name in analysis.SCHEMA.names}
    return pa.table(filled, schema=analysis.SCHEMA)


class Case(NamedTuple):
    """Classes and probabilities of both models, positions of labels, and who was right."""

    candidate: str
    baseline: str
    labels: Sequence[int]
    ours: Rows
    theirs: Rows
    compared: str
    right: tuple[list[bool], list[bool]]


A, B, C = [0.8, 0.1, 0.1], [0.1, 0.8, 0.1], [0.1, 0.1, 0.8]

CASES = {
    "the same order": Case(
        "abc", "abc", [0, 1, 2], [A, B, C], [A, B, A], "abc", ([True] * 3, [True, True, False])
    ),
    "another order": Case(
        "abc", "cab", [0, 1, 2], [A, B, C], [B, C, A], "abc", ([True] * 3, [True] * 3)
    ),
    "another order, and wrong": Case(
        "abc", "cba", [0, 1, 2], [A, B, C], [A, B, C], "abc", ([True] * 3, [False, True, False])
    ),
    "a class that is missing from eval": Case(
        "abc", "bca", [0, 1], [A, C], [C, A], "abc", ([True, False], [True, True])
    ),
    "two images, and a class that only the candidate knows": Case(
        "abc", "ba", [0, 2], [A, C], [[0.1, 0.9], [0.9, 0.1]], "ab", ([True], [True])
    ),
    "a class that only the baseline knows": Case(
        "ab", "cab", [0, 1], [[0.9, 0.1], [0.1, 0.9]], [A, C], "ab", ([True, True], [False, True])
    ),
    "ties, of which each model's first counts": Case(
        "ab", "ba", [0, 1], [[0.5, 0.5]] * 2, [[0.5, 0.5]] * 2, "ab", ([True, False], [False, True])
    ),
    "no class in common": Case("ab", "c", [0, 1], [[0.9, 0.1]] * 2, [[1.0]] * 2, "", ([], [])),
}


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_each_model_is_asked_for_the_name_of_the_class(case: Case) -> None:
    table = predictions(case.labels, case.ours, case.theirs)
    classes = {analysis.CANDIDATE: list(case.candidate), analysis.BASELINE: list(case.baseline)}
    found = executor.pairs(table, classes)
    assert found.classes == list(case.compared)
    assert (found.candidate.tolist(), found.baseline.tolist()) == case.right
    assert found.added == [name for name in case.candidate if name not in case.baseline]
    assert found.removed == [name for name in case.baseline if name not in case.candidate]
    figures = executor._model_figures(table, analysis.CANDIDATE, classes)
    assert figures
    names = [case.candidate[label] for label in case.labels]
    assert {each.name: each.support for each in figures.per_class} == {
        name: names.count(name) for name in case.candidate
    }
    verdict = gate.decide(gate.Evidence(Bounds(), figures, found), None)
    # Two or three images tell nothing of any model.
    assert not verdict.blessed
    failed = {check.name for check in verdict.checks if not check.passed}
    assert "majority_significance" in failed
    assert ("coverage" in failed) == (set(names) != set(case.candidate))
    fell = sum(found.candidate) < sum(found.baseline)
    assert ("max_accuracy_drop" in failed) == fell


@pytest.mark.parametrize(
    ("rows", "names", "words"),
    [
        ([[2.0, -1.0], [0.5, 0.5]], 2, " 1 for 1 of 2 .*softmax"),
        ([[0.4, 0.4], [3.0, 9.0]], 2, " 1 for 2 of 2 .*softmax"),
        ([[float("inf"), 0.0], [0.5, 0.5]], 2, "numbers for 1 of 2 "),
        ([[0.5, 0.5], [0.9, 0.1]], 3, "2 probabilities .* 3 classes"),
    ],
)
def test_what_is_no_distribution_over_the_classes(
    rows: list[list[float]], names: int, words: str
) -> None:
    table = predictions([0, 1], rows)
    with pytest.raises(NotServableError, match=words):
        executor._check_predictions(table, {analysis.CANDIDATE: ["any"] * names})
