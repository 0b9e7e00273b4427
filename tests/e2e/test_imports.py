"""Which parts may know of which: the arrows between packages, as the source has them."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

from components import model_registry
from tests import REPO

REGISTRY = model_registry.__name__


def modules(*folders: str) -> list[Path]:
    return sorted(path for folder in folders for path in (REPO / folder).rglob("*.py"))


def imported(path: Path) -> Iterator[str]:
    """Return the dotted names that a module imports, at its top or later."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def name(path: Path) -> str:
    return str(path.relative_to(REPO))


USERS = [
    path
    for path in modules("components", "pipeline", "trainer_module", "kubeflow")
    if path.parent != REPO / "components" / "model_registry"
]


@pytest.mark.parametrize("path", USERS, ids=name)
def test_the_registry_is_used_by_what_it_offers_and_nothing_below_it(path: Path) -> None:
    offered = {f"{REGISTRY}.{each}" for each in model_registry.__all__}
    used = {each for each in imported(path) if each.startswith(REGISTRY)}
    assert used <= offered


@pytest.mark.parametrize("path", modules("components", "trainer_module"), ids=name)
def test_components_know_nothing_of_what_runs_them(path: Path) -> None:
    assert {each.partition(".")[0] for each in imported(path)}.isdisjoint({"pipeline", "kubeflow"})


def test_the_check_sees_what_is_imported(tmp_path: Path) -> None:
    source = tmp_path / "x.py"
    source.write_text(
        f"def late():\n    from {REGISTRY} import versions\n    import pipeline.run\n"
    )
    assert set(imported(source)) == {f"{REGISTRY}.versions", "pipeline.run"}
