"""The console command, which refuses to run with foreign packages in place of the project's."""

from __future__ import annotations

import importlib.util
import os
import sys
from pathlib import Path

PACKAGES = ("components", "kubeflow", "pipeline", "trainer_module")
_USAGE = 2  # as pipeline.errors.ConfigError, which may not be ours to import


def main() -> None:
    """Run `perennial`, or exit with 2 if another package hides one of ours."""
    if problem := shadowed():
        print(f"perennial: error: {problem}", file=sys.stderr)
        sys.exit(_USAGE)
    from pipeline import cli

    cli.main()


def shadowed() -> str:
    """Name a package that hides one of the project's, with the remedy; "" if there is none."""
    here = Path(__file__).resolve().parent
    for name in PACKAGES:
        try:
            spec = importlib.util.find_spec(name)
        except (ImportError, ValueError, AttributeError) as error:
            return f"{name} cannot be imported: {error}"
        places = [spec.origin, *(spec.submodule_search_locations or ())] if spec else []
        found = next((Path(place).resolve() for place in places if place), None)
        if found is None or found not in (here / name / "__init__.py", here / name):
            path = os.environ.get("PYTHONPATH", "")
            return (
                f"{found or 'nothing'} is found in place of perennial's own package {name} in "
                f"{here}; take its folder out of PYTHONPATH={path!r}, or give it another name"
            )
    return ""
