"""The recipe that `--recipe auto` stands for, and that it says why."""

from __future__ import annotations

import re
import socket
from pathlib import Path

import pytest

from pipeline import config as config_module
from pipeline import doctor, recipe_choice
from pipeline.config import load
from pipeline.recipe_choice import choose, count_gpus, weights_at_hand
from tests.kit.image_folders import photos
from trainer_module import recipes

HYPER = "train.hyperparameters."


@pytest.mark.parametrize(
    ("images", "side", "gpus", "recipe", "reason"),
    [
        (1_797, 8, 0, "vit", "8 px"),
        (1_000_000, 31, 1, "vit", "31 px"),
        (2_000, 32, 0, "mobilenet", "32 px"),
        (1_000_000, 63, 1, "mobilenet", "63 px"),
        (1_000_000, 64, 1, "fixres", "1,000,000 images"),
        (19_999, 500, 1, "mobilenet", "19,999 images"),
        (20_000, 500, 1, "fixres", "20,000 images"),
        (20_000, 500, 0, "mobilenet", "no GPU"),
        (None, None, 1, "mobilenet", "data"),
    ],
)
def test_choice_follows_data_and_hardware(
    images: int | None, side: float | None, gpus: int, recipe: str, reason: str
) -> None:
    choice = choose(images, side, gpus)
    assert choice.recipe == recipe
    assert choice.recipe in recipes.names()
    assert reason in choice.reason


@pytest.mark.parametrize(
    ("images", "gpus", "weights", "memory", "recipe", "reason"),
    [
        (500, 0, False, 16e9, "vit", "models"),
        (None, 1, False, 16e9, "vit", recipe_choice.PUBLISHER[0]),
        (20_000, 1, False, 16e9, "fixres", "20,000 images"),
        (500, 0, True, 2e9, "vit", "2.0 GB"),
        (500, 1, True, 2e9, "mobilenet", "500 images"),
        (500, 0, True, None, "mobilenet", "500 images"),
    ],
)
def test_choice_follows_weights_and_memory(
    images: int | None, gpus: int, weights: bool, memory: float | None, recipe: str, reason: str
) -> None:
    choice = choose(images, 300.0, gpus, weights=weights, memory=memory)
    assert choice.recipe == recipe
    assert reason in choice.reason


@pytest.mark.parametrize(("weights", "memory"), [(False, 16e9), (True, 2e9)])
def test_small_images_are_trained_from_scratch_where_no_network_can_be_had(
    weights: bool, memory: float
) -> None:
    assert choose(2_000, 32, 0, weights=weights, memory=memory).recipe == "vit"


@pytest.mark.parametrize(("side", "size"), [(32, 160), (63, 160), (64, 256), (500, 256)])
def test_small_images_are_enlarged_less(side: int, size: int) -> None:
    recipe = recipes.get("mobilenet")
    assert recipe.image_sizes
    assert recipe.image_sizes(recipe.Config(), side, 2 * side) == {"image_size": size}


def test_weights_are_at_hand_where_they_were_fetched_or_the_publisher_answers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("KERAS_HOME", str(tmp_path))
    monkeypatch.setattr("urllib.request.getproxies", dict)
    with socket.create_server(("127.0.0.1", 0)) as server:
        place = ("127.0.0.1", server.getsockname()[1])
        assert weights_at_hand(place)
    assert not weights_at_hand(place)
    monkeypatch.setattr("urllib.request.getproxies", lambda: {"https": "http://proxy:1"})
    assert weights_at_hand(place)
    monkeypatch.setattr("urllib.request.getproxies", dict)
    file = tmp_path / "models" / recipe_choice.WEIGHTS
    file.parent.mkdir()
    file.touch()
    assert weights_at_hand(place)


def test_loading_replaces_auto_and_keeps_the_reason(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(config_module, "count_gpus", lambda: 0)
    monkeypatch.setattr(config_module, "weights_at_hand", lambda: True)
    monkeypatch.setattr(doctor, "memory_bytes", lambda: 16e9)
    digits = load(overrides={"train.recipe": "auto"})
    assert digits.config.train.recipe == "vit"
    assert re.match("auto: .*8 px", digits.origins["train.recipe"])
    source = photos(tmp_path / "photos", (100, 80), (100, 80))
    loaded = load(overrides={"train.recipe": "auto", "data.source": source})
    assert loaded.config.train.recipe == "mobilenet"
    assert "2 images" in loaded.origins["train.recipe"]
    assert loaded.config.transform.image_size == 256
    monkeypatch.setattr(config_module, "weights_at_hand", lambda: False)
    without = load(overrides={"train.recipe": "auto", "data.source": source})
    assert without.config.train.recipe == "vit"
    assert recipe_choice.PUBLISHER[0] in without.origins["train.recipe"]
    own = {f"{HYPER}weights": "/own.h5"}
    given = load(overrides={"train.recipe": "auto", "data.source": source, **own})
    assert given.config.train.recipe == "mobilenet"


def test_gpus_are_counted_by_the_driver_s_list(tmp_path: Path) -> None:
    assert count_gpus(tmp_path / "none") == 0
    (tmp_path / "0000:01:00.0").mkdir()
    assert count_gpus(tmp_path) == 1
