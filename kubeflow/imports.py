"""Skip imports that a node does not need, which would double the start time of its pod.

TFX's launcher imports Beam for nodes that use it, and `tfx.components`, with all components of TFX,
for one constant.
"""

from __future__ import annotations

import contextlib
import importlib.util
import sys
import types
from collections.abc import Iterator
from typing import Any


class _Deferred(types.ModuleType):
    """A package whose __init__ runs when a missing attribute is used."""

    def __getattr__(self, name: str) -> Any:
        self.__class__ = types.ModuleType  # type: ignore[assignment]  # and never again
        assert self.__spec__ is not None
        assert self.__spec__.loader is not None
        self.__spec__.loader.exec_module(self)
        return getattr(self, name)


def defer(package: str) -> None:
    """Let `import package.module` run that module without running `package` itself.

    importlib's LazyLoader would run the package on the import of any of its modules.
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
    """Make imports of `package` fail within the context, unless it is already imported."""
    if package in sys.modules:
        yield
        return
    sys.modules[package] = None  # type: ignore[assignment]  # blocks the import
    try:
        yield
    finally:
        del sys.modules[package]
