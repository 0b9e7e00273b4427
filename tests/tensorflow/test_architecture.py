"""The arrows between packages, and the table of hooks, of docs/architecture.md."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests import REPO

# Each may import itself and those that it names.
ARROWS: dict[str, set[str]] = {
    "components": set(),
    "trainer_module": {"components"},
    "pipeline": {"components", "trainer_module"},
    "kubeflow": {"components", "trainer_module", "pipeline"},
}
# No part of the program: `make` runs it to install all of this, and to write the image's locks.
SCRIPTS = {"pipeline/bootstrap.py"}
# By name, in text: `module.function` for TFX, and modules whose code a node's fingerprint covers.
NAMED = re.compile(r"(components|trainer_module|pipeline|kubeflow)(\.[a-z_]\w*)+")


def sources(package: str) -> list[Path]:
    found = sorted((REPO / package).rglob("*.py"))
    return [path for path in found if str(path.relative_to(REPO)) not in SCRIPTS]


def is_module(name: str) -> bool:
    """Whether it is a module's name, or that of something in one, and not a setting's."""
    path = REPO / name.replace(".", "/")
    return any(each.with_suffix(".py").exists() for each in (path, path.parent))


def imported(path: Path) -> Iterator[str]:
    """Return the project's packages that a file imports anywhere, also for types or by name."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        match node:
            case ast.Import(names=names):
                yield from (each.name.partition(".")[0] for each in names)
            case ast.ImportFrom(module=str(module), level=0):
                yield module.partition(".")[0]
            case ast.Constant(value=str(text)) if NAMED.fullmatch(text) and is_module(text):
                yield text.partition(".")[0]


@pytest.mark.parametrize("package", ARROWS)
def test_a_package_imports_those_below_it_only(package: str) -> None:
    allowed = ARROWS[package] | {package}
    others = ARROWS.keys() - allowed
    found = {
        f"{path.relative_to(REPO)} imports {name}"
        for path in sources(package)
        for name in imported(path)
        if name in others
    }
    assert found == set()


def test_every_hook_names_files_that_are_there() -> None:
    text = (REPO / "docs" / "architecture.md").read_text(encoding="utf-8")
    rows = [line for line in text.splitlines() if line.startswith("| ") and ".py" in line]
    named = {name for row in rows for name in re.findall(r"`([\w/]+\.py)`", row)}
    assert len(rows) > 15
    assert {name for name in named if not (REPO / name).exists()} == set()


def test_private_parts_of_tfx_are_reached_into_where_the_table_tells() -> None:
    table = (REPO / "docs" / "architecture.md").read_text(encoding="utf-8")
    private = re.compile(
        r"\b(cache_utils|channel_resolver|execution_lib|launcher|portable_runner|stats_impl|"
        r"impl_helper)\b"
    )
    found = {
        str(path.relative_to(REPO))
        for package in ARROWS
        for path in sources(package)
        if private.search(path.read_text(encoding="utf-8"))
    }
    assert {path for path in found if f"`{path}`" not in table} == set()
