"""Digests of source code, because TFX's cache does not look at the code that a node runs.

A digest covers what Python runs: comments, docstrings and the layout of the text do not count.
"""

from __future__ import annotations

import ast
import functools
import hashlib
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parent.parent
PACKAGES = ("components", "pipeline", "trainer_module")


class _Module(NamedTuple):
    digest: bytes
    names: frozenset[str]
    """Dotted names in it that may be modules."""


def fingerprint(*modules: str, root: Path = ROOT) -> str:
    """Digest the named modules and every module of ours that they name, however deep.

    A module names another one by an import, or by a string that is its dotted name, as in
    `python -m components.model_server`.

    Args:
      modules: dotted names below `PACKAGES`, such as "trainer_module.run_fn".
      root: the folder that holds the packages.

    Raises ValueError for a name that has no source file.
    """
    digest = hashlib.sha256()
    for name, module in sorted(_closure(modules, root).items()):
        digest.update(f"{name}\0".encode() + module.digest + b"\0")
    return digest.hexdigest()[:16]


def _closure(modules: tuple[str, ...], root: Path) -> dict[str, _Module]:
    found: dict[str, _Module] = {}
    waiting = list(modules)
    while waiting:
        name = waiting.pop()
        if name in found:
            continue
        path = _source(name, root)
        if path is None:
            raise ValueError(f"no source file for module {name!r} below {root}")
        state = path.stat()
        found[name] = _read(path, state.st_mtime_ns, state.st_size)
        if path.name == "__init__.py" and path.with_name("__main__.py").is_file():
            waiting.append(f"{name}.__main__")
        waiting += [named for named in found[name].names if _source(named, root) is not None]
    return found


def _source(module: str, root: Path) -> Path | None:
    package, *rest = module.split(".")
    if package not in PACKAGES or not all(part.isidentifier() for part in rest):
        return None
    path = root.joinpath(package, *rest)
    for candidate in (path.with_suffix(".py"), path / "__init__.py"):
        if candidate.is_file():
            return candidate
    return None


@functools.cache
def _read(path: Path, _mtime_ns: int, _size: int) -> _Module:
    """Parse a file. The state of the file makes an edited one another entry of the cache."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    names = frozenset(_names(tree))
    for node in ast.walk(tree):
        body = getattr(node, "body", None)
        if isinstance(body, list):
            node.body = [each for each in body if not _is_docstring(each)]  # type: ignore[attr-defined]
    return _Module(hashlib.sha256(ast.dump(tree).encode()).digest(), names)


def _is_docstring(statement: ast.stmt) -> bool:
    return (
        isinstance(statement, ast.Expr)
        and isinstance(statement.value, ast.Constant)
        and isinstance(statement.value.value, str)
    )


def _names(tree: ast.Module) -> Iterator[str]:
    """Dotted names that may be modules: of `from a import b`, both `a` and `a.b`."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)
        elif isinstance(node, ast.Constant) and isinstance(node.value, str) and "." in node.value:
            yield node.value
