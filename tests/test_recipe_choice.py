"""The recipe that `--recipe auto` stands for, and that it says why."""

from __future__ import annotations

from pathlib import Path

import pytest

from pipeline import config as config_module
from pipeline.config import load
from pipeline.recipe_choice import choose, count_gpus
from tests.test_probe import photos
from trainer_module import recipes


@pytest.mark.parametrize(
    ("images", "side", "gpus", "recipe", "reason"),
    [
        (1_797, 8, 0, "vit", "8 px"),
        (1_000_000, 63, 1, "vit", "63 px"),
        (1_000_000, 64, 1, "fixres", "1,000,000 images and a GPU"),
        (19_999, 500, 1, "mobilenet", "19,999 images are too few"),
        (20_000, 500, 1, "fixres", "20,000 images"),
        (20_000, 500, 0, "mobilenet", "no GPU"),
        (None, None, 1, "mobilenet", "nothing is known"),
    ],
)
def test_choice_follows_data_and_hardware(
    images: int | None, side: float | None, gpus: int, recipe: str, reason: str
) -> None:
    choice = choose(images, side, gpus)
    assert choice.recipe == recipe
    assert choice.recipe in recipes.names()
    assert reason in choice.reason


def test_loading_replaces_auto_and_keeps_the_reason(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(config_module, "count_gpus", lambda: 0)
    digits = load(overrides={"train.recipe": "auto"})
    assert digits.config.train.recipe == "vit"
    assert digits.origins["train.recipe"].startswith("auto: images of 8 px are too small")
    source = photos(tmp_path / "photos", (100, 80), (100, 80))
    loaded = load(overrides={"train.recipe": "auto", "data.source": source})
    assert loaded.config.train.recipe == "mobilenet"
    assert "2 images are too few" in loaded.origins["train.recipe"]
    assert loaded.config.transform.image_size == 160


def test_gpus_are_counted_by_the_driver_s_list(tmp_path: Path) -> None:
    assert count_gpus(tmp_path / "none") == 0
    (tmp_path / "0000:01:00.0").mkdir()
    assert count_gpus(tmp_path) == 1
