"""Fixtures shared by the unit tests."""

from __future__ import annotations

from pathlib import Path

import pytest

from pipeline.config import toml
from tests.kit.settings_files import write


@pytest.fixture
def presets(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Presets of known content, so that the layers can be told apart."""
    folder = tmp_path / "presets"
    folder.mkdir()
    write(
        folder / "recipe-vit.toml",
        "[transform]\nimage_size = 72\ninterpolation = 'area'\n"
        "[train]\nepochs = 11\nbatch_size = 12\n",
    )
    write(
        folder / "data-digits.toml",
        "[evaluate]\nmin_accuracy = 0.25\n"
        "[recipe.vit.train]\nepochs = 21\n[recipe.other]\nno = 1\n",
    )
    monkeypatch.setattr(toml, "PRESETS", folder)
    return folder
