"""BaselineStrategy: the latest blessed model that is not the candidate."""

from __future__ import annotations

import pytest
from tfx.types import standard_artifacts

from components.baseline_resolver.strategy import BaselineStrategy


def model(number: int) -> standard_artifacts.Model:
    artifact = standard_artifacts.Model()
    artifact.id = number
    return artifact


def blessing(model_id: int, blessed: bool) -> standard_artifacts.ModelBlessing:
    artifact = standard_artifacts.ModelBlessing()
    artifact.set_int_custom_property("current_model_id", model_id)
    artifact.set_int_custom_property("blessed", int(blessed))
    return artifact


@pytest.mark.parametrize(
    ("verdicts", "candidate", "expected"),
    [
        pytest.param({}, 1, None, id="first run"),
        pytest.param({1: True}, 2, 1, id="one blessed before"),
        pytest.param({1: True}, 1, None, id="a rerun is not measured against itself"),
        pytest.param({1: True, 2: True}, 2, 1, id="a rerun keeps its baseline"),
        pytest.param({1: True, 2: True}, 1, 2, id="going back to an older model"),
        pytest.param({1: True, 2: False}, 3, 1, id="rejected models do not count"),
        pytest.param({1: False}, 2, None, id="nothing blessed yet"),
    ],
)
def test_resolves(verdicts: dict[int, bool], candidate: int, expected: int | None) -> None:
    numbers = {*verdicts, candidate}
    resolved = BaselineStrategy().resolve_artifacts(
        None,
        {
            "candidate": [model(candidate)],
            "model": [model(number) for number in sorted(numbers)],
            "model_blessing": [blessing(number, ok) for number, ok in verdicts.items()],
        },
    )
    assert [artifact.id for artifact in resolved["model"]] == ([expected] if expected else [])
    assert [
        artifact.get_int_custom_property("current_model_id")
        for artifact in resolved["model_blessing"]
    ] == ([expected] if expected else [])
