"""Versions of installed packages."""

from __future__ import annotations

import importlib.metadata

PACKAGES = ("perennial", "tfx", "tensorflow", "keras")  # what a model depends on most


def version_of(package: str) -> str | None:
    """Return the installed version of a package; None for none."""
    # The container image for CPUs has a TensorFlow without the kernels for GPUs.
    for name in (package, f"{package}-cpu"):
        try:
            return importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return None
