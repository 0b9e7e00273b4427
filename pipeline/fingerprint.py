"""Digests of source code, because TFX's cache does not look at the code that a node runs."""

from __future__ import annotations

import ast
import hashlib
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PACKAGES = ("components", "pipeline", "trainer_module")


def of(*modules: str, root: Path = ROOT) -> str:
    """Digest of the named modules and of every module of ours that they import, however deep.

    Args:
      modules: dotted names below `PACKAGES`, such as "trainer_module.run_fn".
      root: the folder that holds the packages.

    Raises ValueError for a name that has no source file.
    """
    digest = hashlib.sha256()
    for name, path in sorted(_closure(modules, root).items()):
        digest.update(f"{name}\0".encode() + path.read_bytes() + b"\0")
    return digest.hexdigest()[:16]


def _closure(modules: tuple[str, ...], root: Path) -> dict[str, Path]:
    found: dict[str, Path] = {}
    waiting = list(modules)
    while waiting:
        name = waiting.pop()
        if name in found:
            continue
        path = _source(name, root)
        if path is None:
            raise ValueError(f"no source file for module {name!r} below {root}")
        found[name] = path
        waiting += [imported for imported in _imports(path) if _source(imported, root) is not None]
    return found


def _source(module: str, root: Path) -> Path | None:
    if module.split(".")[0] not in PACKAGES:
        return None
    path = root.joinpath(*module.split("."))
    for candidate in (path.with_suffix(".py"), path / "__init__.py"):
        if candidate.is_file():
            return candidate
    return None


def _imports(path: Path) -> Iterator[str]:
    """Dotted names that may be modules: of `from a import b`, both `a` and `a.b`."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)
