"""Which code a run ran on."""

from __future__ import annotations

import importlib.metadata
import platform
import subprocess

from pipeline.fingerprint import ROOT
from pipeline.report.facts import Code

# Images, weights and settings of the user may lie beside them.
_CODE = ("pipeline", "components", "trainer_module", "kubeflow", "requirements.lock")
_PACKAGES = ("perennial", "tfx", "tensorflow", "keras")


def find() -> Code:
    """The checkout's commit, whether its files were changed since, and versions of packages."""
    # A tree that only lies in another project's checkout has no commit of its own.
    top, commit = _git("rev-parse", "--show-toplevel"), _git("rev-parse", "HEAD")
    own = top == str(ROOT)
    versions = {"python": platform.python_version()}
    for package in _PACKAGES:
        try:
            versions[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    return Code(
        versions=versions,
        commit=commit if own else "",
        modified=own and bool(_git("status", "--porcelain", "--", *_CODE)),
    )


def _git(*arguments: str) -> str:
    """What git prints; empty where there is no git, or no checkout."""
    try:
        done = subprocess.run(
            ["git", "-C", str(ROOT), *arguments], capture_output=True, text=True, timeout=30
        )
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout.strip() if done.returncode == 0 else ""
