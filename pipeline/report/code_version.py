"""The version of the code that a run uses."""

from __future__ import annotations

import platform
import subprocess

from pipeline.fingerprint import ROOT
from pipeline.installed import PACKAGES, version_of
from pipeline.report.facts import Code

# Images, weights and settings of the user may lie beside them.
_CODE = ("pipeline", "components", "trainer_module", "kubeflow", "requirements.lock")


def find() -> Code:
    """Find the commit of the checkout, whether it has changes, and the versions of packages."""
    # A tree that only lies in another project's checkout has no commit of its own.
    top, commit = _git("rev-parse", "--show-toplevel"), _git("rev-parse", "HEAD")
    own = top == str(ROOT)
    found = {package: version_of(package) for package in PACKAGES}
    installed = {package: version for package, version in found.items() if version}
    return Code(
        versions={"python": platform.python_version(), **installed},
        commit=commit if own else "",
        modified=own and bool(_git("status", "--porcelain", "--", *_CODE)),
    )


def _git(*arguments: str) -> str:
    """Return the output of git; "" where there is no git, or no checkout."""
    try:
        done = subprocess.run(
            ["git", "-C", str(ROOT), *arguments], capture_output=True, text=True, timeout=30
        )
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout.strip() if done.returncode == 0 else ""
