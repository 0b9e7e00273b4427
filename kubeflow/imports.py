"""Ways around imports that a node does not need and that would double the time until it works.

TFX's launcher imports Beam for nodes that use it, and `tfx.components`, with every component that
TFX has, for one constant. Each pod would pay for both.
"""

from __future__ import annotations

import contextlib
import importlib.util
import sys
import types
from collections.abc import Iterator
from typing import Any


class _Deferred(types.ModuleType):
    """A package whose __init__ is run once something of it is missing."""

    def __getattr__(self, name: str) -> Any:
        self.__class__ = types.ModuleType  # type: ignore[assignment]  # and never again
        assert self.__spec__ is not None
        assert self.__spec__.loader is not None
        self.__spec__.loader.exec_module(self)
        return getattr(self, name)


def defer(package: str) -> None:
    """Let `import package.module` run that module, and `package` itself only where it is needed.

    importlib's LazyLoader would run the package for the import of anything in it.
    """
    if package in sys.modules:
        return
    spec = importlib.util.find_spec(package)
    assert spec is not None
    module = importlib.util.module_from_spec(spec)
    module.__class__ = _Deferred
    sys.modules[package] = module
    parent, _, name = package.rpartition(".")
    if parent:
        setattr(importlib.import_module(parent), name, module)


@contextlib.contextmanager
def without(package: str) -> Iterator[None]:
    """Within, an import of `package` fails as if it were not installed, unless it is imported."""
    if package in sys.modules:
        yield
        return
    sys.modules[package] = None  # type: ignore[assignment]  # Python's own sign for it
    try:
        yield
    finally:
        del sys.modules[package]
