"""What is learnt of a data set before a run, and the sizes that a recipe derives from it."""

from __future__ import annotations

from pathlib import Path

import pytest

from pipeline.config import load
from pipeline.probe import Survey, survey
from tests.kit.image_folders import photos


def test_usual_is_the_median_height_and_width(tmp_path: Path) -> None:
    root = photos(tmp_path / "photos", (20, 10), (30, 12), (1000, 14))
    (tmp_path / "photos" / "class0" / "broken.jpg").write_bytes(b"no image")
    assert survey(root) == Survey(4, height=12, width=30)


def test_nothing_is_known_of_a_folder_without_images(tmp_path: Path) -> None:
    assert survey(str(tmp_path)) is None
    assert survey(str(tmp_path / "missing")) is None


@pytest.mark.parametrize(
    ("size", "train_size", "image_size"), [((95, 97), 160, 128), ((96, 96), 512, 480)]
)
def test_bit_takes_its_sizes_from_the_images(
    tmp_path: Path, size: tuple[int, int], train_size: int, image_size: int
) -> None:
    source = photos(tmp_path / "photos", *[size] * 3)
    config, origins = load(None, {"train.recipe": "bit", "data.source": source})
    assert config.transform.train_size == train_size
    assert config.transform.image_size == image_size
    assert origins["transform.image_size"] == "recipe:bit"
    given = {"transform.image_size": 64, "transform.train_size": 72}
    config, origins = load(None, {"train.recipe": "bit", "data.source": source, **given})
    assert (config.transform.image_size, config.transform.train_size) == (64, 72)
    assert origins["transform.image_size"] == "command line"


def test_bit_resolution_and_crop_count(tmp_path: Path) -> None:
    settings = {"train.recipe": "bit", "data.source": str(tmp_path / "elsewhere")}
    paper = load(None, {**settings, "train.hyperparameters.resolution": "paper"}).config.transform
    assert (paper.train_size, paper.image_size) == (448, 384)
    whole = load(None, {**settings, "train.hyperparameters.crop": False}).config.transform
    assert (whole.train_size, whole.image_size) == (None, 480)
