"""Models of a few small files, for tests of the registry."""

from __future__ import annotations

from pathlib import Path

from components import storage
from components.model_registry import versions

FILES = ("saved_model.pb", "variables/variables.index", "assets.extra/classes.json")


def write_model(folder: Path, content: str = "model") -> Path:
    for name in FILES:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(f"{content} {name}")
    return folder


def assert_whole(base: str, version: int, content: str) -> None:
    manifest = versions.read_manifest(base, version)
    assert manifest is not None
    assert set(manifest.files) == set(FILES)
    assert versions.damaged_files(base, version, manifest) == []
    for name in FILES:
        assert storage.read_text(storage.join(base, str(version), name)) == f"{content} {name}"
